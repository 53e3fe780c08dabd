/* joiners SECONDS: watch for processes that come into this pid namespace from outside, and print, once each, what the
 * kernel tells of them that is not this container's own: mount table, network, links of /proc/PID, memory, descriptors.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char own_mounts[1 << 16], own_route[1 << 16], text[1 << 16];
static char said[64][512];
static int count;

static void say(const char *what, const char *value) {
    char line[512];
    snprintf(line, sizeof line, "%s %.400s", what, value);
    for (char *p = line; *p; p++) if (*p == '\n' || *p == '\t') *p = '|';
    for (int i = 0; i < count; i++) if (!strcmp(said[i], line)) return;
    if (count < 64) strcpy(said[count++], line);
    puts(line);
    fflush(stdout);
}

static int load(const char *path, char *to, int size) {
    int fd = open(path, O_RDONLY), all = 0, n;
    if (fd < 0) return -1;
    while (all < size - 1 && (n = read(fd, to + all, size - 1 - all)) > 0) all += n;
    close(fd);
    to[all] = 0;
    return all;
}

/* /proc/PID/cmdline of the joining program, as long as it has not become one of this container */
static int is_foreign(int pid) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    int n = load(path, line, sizeof line);
    return n > 0 && (strstr(line, "python") || (n > 20 && memmem(line, n, "vzctl", 5)));
}

static void look(int pid) {
    char path[64], link[256];
    snprintf(path, sizeof path, "/proc/%d/mountinfo", pid);
    if (load(path, text, sizeof text) > 0 && strcmp(text, own_mounts)) say("mountinfo", text);
    snprintf(path, sizeof path, "/proc/%d/net/route", pid);
    if (load(path, text, sizeof text) > 0 && strcmp(text, own_route)) say("route", text);
    if (!is_foreign(pid)) return;
    const char *links[] = {"exe", "cwd", "root", "fd/0", "fd/3", "fd/4", "fd/5", "fd/6", "ns/mnt", "ns/net"};
    for (unsigned i = 0; i < sizeof links / sizeof *links; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, links[i]);
        int n = readlink(path, link, sizeof link - 1);
        if (n > 0 && is_foreign(pid)) { link[n] = 0; say(links[i], link); }
    }
    const char *files[] = {"environ", "maps", "syscall", "stack", "auxv"};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
        if (load(path, text, sizeof text) > 0 && is_foreign(pid)) say(files[i], text);
    }
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int mem = open(path, O_RDWR);
    if (mem >= 0) { if (is_foreign(pid)) say("mem", "opened"); close(mem); }
    int pidfd = syscall(434, pid, 0);
    if (pidfd >= 0) {
        for (int n = 0; n < 12; n++) {
            int fd = syscall(438, pidfd, n, 0);
            if (fd >= 0) { if (is_foreign(pid)) say("pidfd_getfd", "got"); close(fd); }
        }
        close(pidfd);
    }
    if (is_foreign(pid) && ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
        if (is_foreign(pid)) say("ptrace", "seized");
        ptrace(PTRACE_INTERRUPT, pid, 0, 0);
        waitpid(pid, NULL, __WALL);
        ptrace(PTRACE_DETACH, pid, 0, 0);
    }
}

int main(int argc, char **argv) {
    time_t end = time(NULL) + atoi(argv[1]);
    int own = getpid();
    load("/proc/self/mountinfo", own_mounts, sizeof own_mounts);
    load("/proc/self/net/route", own_route, sizeof own_route);
    puts("ready");
    fflush(stdout);
    while (time(NULL) < end) {
        DIR *folder = opendir("/proc");
        for (struct dirent *entry; (entry = readdir(folder));)
            if (atoi(entry->d_name) > own) look(atoi(entry->d_name));
        closedir(folder);
    }
    return argc < 2;
}
