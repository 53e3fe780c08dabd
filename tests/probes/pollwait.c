/* pollwait FIFO: wait in poll(2) with a timeout in a thread, and print what it returned, and errno. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
static void *waiting(void *path) {
    struct pollfd file = {open(path, O_RDWR), POLLIN, 0};
    int result = poll(&file, 1, 600000);
    printf("%d %d\n", result, result < 0 ? errno : 0);
    fflush(stdout);
    return NULL;
}
int main(int argc, char **argv) {
    pthread_t thread;
    pthread_create(&thread, NULL, waiting, argv[1]);
    return pthread_join(thread, NULL);
}
