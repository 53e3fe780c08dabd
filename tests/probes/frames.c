/* frames send IFACE HEX...      send each frame as it is
 * frames hear IFACE SECONDS     print what comes in, one frame a line: vlan tag or -, then the frame, in hex */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int s = socket(AF_PACKET, SOCK_RAW, htons(3));
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(3), .sll_ifindex = if_nametoindex(argv[2])};
    if (s < 0 || !to.sll_ifindex || bind(s, (void *)&to, sizeof to)) { perror("frames"); return 1; }
    if (!strcmp(argv[1], "send")) {
        for (int i = 3; i < argc; i++) {
            unsigned char f[2048]; int n = 0;
            for (char *p = argv[i]; *p && p[1]; p += 2) { unsigned b; sscanf(p, "%2x", &b); f[n++] = b; }
            if (send(s, f, n, 0) < 0) perror("send");
        }
        return 0;
    }
    int one = 1; setsockopt(s, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one);
    puts("ready"); fflush(stdout);
    time_t end = time(NULL) + atoi(argv[3]);
    struct pollfd p = {s, POLLIN, 0};
    while (time(NULL) < end) {
        if (poll(&p, 1, 200) <= 0) continue;
        unsigned char f[2048]; char c[256]; struct sockaddr_ll from;
        struct iovec v = {f, sizeof f};
        struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
        int n = recvmsg(s, &m, 0);
        if (n < 0 || from.sll_pkttype == PACKET_OUTGOING) continue;
        char tag[16] = "-";
        for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
            struct tpacket_auxdata *a = (void *)CMSG_DATA(h);
            if (h->cmsg_level == SOL_PACKET && (a->tp_status & TP_STATUS_VLAN_VALID)) sprintf(tag, "%04x", a->tp_vlan_tci);
        }
        printf("%s ", tag);
        for (int i = 0; i < n; i++) printf("%02x", f[i]);
        puts(""); fflush(stdout);
    }
    return 0;
}
