/* calls ABI NR A B C D E: make one raw system call and print "result errno"; pointers: "@hex,hex,..." is an array of
 * 32-bit words in low memory. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static long arg(char *w) {
    static char *low;
    if (w[0] != '@') return strtoul(w, NULL, 0);
    if (!low) low = mmap((void *)0x10000000, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    uint32_t *at = (uint32_t *)low; int n = 0;
    for (char *p = strtok(w + 1, ","); p; p = strtok(NULL, ",")) at[n++] = strtoul(p, NULL, 0);
    low += 256;
    return (long)at;
}
int main(int argc, char **argv) {
    long a[6] = {0}, r;
    for (int i = 3; i < argc && i < 9; i++) a[i - 3] = arg(argv[i]);
    long nr = strtoul(argv[2], NULL, 0);
    if (!strcmp(argv[1], "i386")) {
        int ret;
        asm volatile("int $0x80" : "=a"(ret) : "a"((int)nr), "b"((int)a[0]), "c"((int)a[1]), "d"((int)a[2]), "S"((int)a[3]), "D"((int)a[4]) : "memory", "r8", "r9", "r10", "r11");
        r = ret;
    } else {
        if (!strcmp(argv[1], "x32")) nr |= 0x40000000;
        register long r10 asm("r10") = a[3]; register long r8 asm("r8") = a[4]; register long r9 asm("r9") = a[5];
        asm volatile("syscall" : "=a"(r) : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    }
    printf("%ld %ld\n", r < 0 && r > -4096 ? -1L : r, r < 0 && r > -4096 ? -r : 0L);
    return 0;
}
