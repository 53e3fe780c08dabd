/* Tries to leave the project that a CT's disk quota counts by: "project FILE DIRECTORY".
   A line for each attempt, "NAME errno" (0: it worked), after "is PROJECT INHERITED" of the directory. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/fs.h>

static int opened(const char *path) { return open(path, O_RDONLY | O_NONBLOCK); }

static void tell(const char *where, const char *name, int result) {
    printf("%s%s %d\n", where, name, result == -1 ? errno : 0);
    fflush(stdout);
}

static void attempts(const char *where, const char *file, const char *folder) {
    struct fsxattr attr;
    int flags, fd = opened(file), dir = opened(folder);
    memset(&attr, 0, sizeof attr);
    if (ioctl(fd, FS_IOC_FSGETXATTR, &attr) == 0) {
        attr.fsx_projid = 0;
        tell(where, "file", ioctl(fd, FS_IOC_FSSETXATTR, &attr));
        attr.fsx_projid = 4100000000u;
        tell(where, "other", ioctl(fd, FS_IOC_FSSETXATTR, &attr));
    } else
        tell(where, "get", -1);
    if (ioctl(dir, FS_IOC_FSGETXATTR, &attr) == 0) {
        attr.fsx_projid = 0;
        tell(where, "directory", ioctl(dir, FS_IOC_FSSETXATTR, &attr));
        ioctl(dir, FS_IOC_FSGETXATTR, &attr);
        attr.fsx_xflags &= ~FS_XFLAG_PROJINHERIT;
        tell(where, "inherit", ioctl(dir, FS_IOC_FSSETXATTR, &attr));
    }
    if (ioctl(dir, FS_IOC_GETFLAGS, &flags) == 0) {
        flags &= ~FS_PROJINHERIT_FL;
        tell(where, "flags", ioctl(dir, FS_IOC_SETFLAGS, &flags));
    }
    close(fd);
    close(dir);
}

int main(int argc, char **argv) {
    struct fsxattr attr;
    memset(&attr, 0, sizeof attr);
    int dir = opened(argv[2]);
    ioctl(dir, FS_IOC_FSGETXATTR, &attr);
    printf("is %u %d\n", attr.fsx_projid, !!(attr.fsx_xflags & FS_XFLAG_PROJINHERIT));
    fflush(stdout);
    attempts("", argv[1], argv[2]);
    tell("", "quotactl", syscall(SYS_quotactl, 0x80000702u, 0, 0, 0));
    tell("", "quotactl_fd", syscall(443, dir, 0x80000702u, 0, 0));
    if (fork() == 0) {
        int result = unshare(CLONE_NEWUSER);
        tell("", "unshare", result);
        if (result == 0)
            attempts("nested-", argv[1], argv[2]);
        _exit(0);
    }
    wait(0);
    return 0;
}
