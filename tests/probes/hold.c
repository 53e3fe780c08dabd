/* hold WHAT MANY SECONDS: take up to MANY signals, inotify instances or pseudo-terminals, print how many were to be
 * had, and keep them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <unistd.h>
static int take(const char *what) {
    if (!strcmp(what, "signals")) return sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0;
    if (!strcmp(what, "inotify")) return inotify_init() >= 0;
    return open(what, O_RDWR | O_NOCTTY) >= 0; /* a ptmx */
}
int main(int argc, char **argv) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int many = argc > 3 ? atoi(argv[2]) : 0, got = 0;
    while (got < many && take(argv[1])) got++;
    printf("%d %s\n", got, got < many ? strerror(errno) : "");
    fflush(stdout);
    sleep(atoi(argv[3]));
    _exit(0);
}
