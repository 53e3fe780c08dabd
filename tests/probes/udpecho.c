/* udpecho PORT: answer each datagram, of IPv4 or IPv6, with how many have come, a blank and the datagram. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[1]))}, from;
    char data[1500], answer[1600];
    if (bind(fd, (struct sockaddr *)&at, sizeof at)) return 1;
    for (long count = 1;; count++) {
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &size);
        if (got < 0) return 1;
        int length = snprintf(answer, sizeof answer, "%ld %.*s", count, (int)got, data);
        if (sendto(fd, answer, length, 0, (struct sockaddr *)&from, size) != length) return 1;
    }
}
