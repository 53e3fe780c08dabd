/* locks PATH SECONDS: try a flock, a POSIX and an open-file-description lock, print which were got, and hold them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int one = open(argv[1], O_RDWR), two = open(argv[1], O_RDWR), three = open(argv[1], O_RDWR);
    if (argc < 3 || one < 0 || two < 0 || three < 0) { perror(argv[1]); return 1; }
    struct flock posix = {.l_type = F_WRLCK, .l_len = 1}, ofd = {.l_type = F_WRLCK, .l_start = 1000, .l_len = 1};
    const char *a = flock(one, LOCK_EX | LOCK_NB) ? "busy" : "got";
    const char *b = fcntl(two, F_SETLK, &posix) ? "busy" : "got";
    const char *c = fcntl(three, F_OFD_SETLK, &ofd) ? "busy" : "got";
    printf("%s %s %s\n", a, b, c);
    fflush(stdout);
    sleep(atoi(argv[2]));
    return 0;
}
