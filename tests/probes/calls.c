/* calls ABI NUMBER [ARGUMENT...]: make one system call and print "result errno".
 * ABI: native, or on x86_64 i386 (int 0x80) and x32.  An argument "@1,2,3" is the address of these 32-bit words. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static long argument(char *word) {
    static char *low; /* below 4 GB, for i386 */
    if (word[0] != '@') return strtoul(word, NULL, 0);
    if (!low) low = mmap((void *)0x10000000, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    uint32_t *at = (uint32_t *)low;
    int count = 0;
    for (char *part = strtok(word + 1, ","); part; part = strtok(NULL, ",")) at[count++] = strtoul(part, NULL, 0);
    low += 256;
    return (long)at;
}
int main(int argc, char **argv) {
    long a[6] = {0}, result;
    for (int i = 3; i < argc && i < 9; i++) a[i - 3] = argument(argv[i]);
    long number = strtoul(argv[2], NULL, 0);
#ifdef __x86_64__
    if (!strcmp(argv[1], "i386")) {
        int half;
        asm volatile("int $0x80" : "=a"(half)
                     : "a"((int)number), "b"((int)a[0]), "c"((int)a[1]), "d"((int)a[2]), "S"((int)a[3]), "D"((int)a[4])
                     : "memory", "r8", "r9", "r10", "r11");
        result = half;
    } else {
        if (!strcmp(argv[1], "x32")) number |= 0x40000000;
        register long r10 asm("r10") = a[3], r8 asm("r8") = a[4], r9 asm("r9") = a[5];
        asm volatile("syscall" : "=a"(result)
                     : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    }
#else
    register long x8 asm("x8") = number, x0 asm("x0") = a[0], x1 asm("x1") = a[1], x2 asm("x2") = a[2], x3 asm("x3") = a[3], x4 asm("x4") = a[4];
    asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    result = x0;
#endif
    int failed = result < 0 && result > -4096;
    printf("%ld %ld\n", failed ? -1 : result, failed ? -result : 0);
    return 0;
}
