"""Mounts: mount(2), and the file-descriptor calls of fsopen(2), open_tree(2), move_mount(2), mount_setattr(2)."""

from __future__ import annotations

import os

from . import ffi
from .libc import check, libc, syscall

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

NR_open_tree = 428
NR_move_mount = 429
NR_fsopen = 430
NR_fsconfig = 431
NR_fsmount = 432
NR_mount_setattr = 442


class mount_attr(ffi.Structure):
    """``struct mount_attr`` of <linux/mount.h>."""

    _fields_ = [
        ("attr_set", ffi.c_uint64),
        ("attr_clr", ffi.c_uint64),
        ("propagation", ffi.c_uint64),
        ("userns_fd", ffi.c_uint64),
    ]


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """Mount *source* on *target*; see mount(2)."""
    result = libc.mount(_path(source), _path(target), _path(fstype), ffi.c_ulong(flags), _path(data))
    check(int(result), "mount", target)


def umount(target: str, flags: int = 0) -> None:
    """Unmount *target*; see umount2(2).  EINVAL: not a mount point; EBUSY: in use (not with MNT_DETACH)."""
    check(int(libc.umount2(_path(target), ffi.c_int(flags))), "umount", target)


def umount_and_sync_later(target: str, flags: int = 0) -> None:
    """umount() that does not wait for the file system's last sync, which a background child of this process does.

    Ending an overlay writes out all that is dirty on the file system below, whoever's it is.  Fails as umount() does,
    EBUSY included; where no process is to be had it waits.
    """
    hold = open_tree(target)  # a mount of its own: *target* can be busy or not, the file system lives on
    try:
        umount(target, flags)
        try:
            child = os.fork()
        except OSError:
            return
        if child == 0:
            os.closerange(0, hold)
            os._exit(0)  # closes the last hold
    finally:
        os.close(hold)


def open_tree(path: str, flags: int = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, dir_fd: int = AT_FDCWD) -> int:
    """Return a descriptor of a detached copy of the mount tree at *path*; see open_tree(2)."""
    return check(syscall(NR_open_tree, dir_fd, os.fsencode(path), flags), "open_tree", path)


def move_mount(tree_fd: int, target: str) -> None:
    """Attach the detached mount *tree_fd* at *target*; see move_mount(2)."""
    result = syscall(NR_move_mount, tree_fd, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)
    check(result, "move_mount", target)


def move_mount_to_fd(tree_fd: int, target_fd: int) -> None:
    """Attach the detached mount *tree_fd* on what *target_fd* (O_PATH) names; see move_mount(2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    check(syscall(NR_move_mount, tree_fd, b"", target_fd, b"", flags), "move_mount")


def mount_setattr(
    tree_fd: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """Change the attributes of the mount open as *tree_fd*; see mount_setattr(2).

    Raises:
        OSError: EINVAL when the file system cannot be idmapped or the mount is attached already;
            EPERM when it is idmapped already.
    """
    attr = mount_attr(attr_set, attr_clr, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    result = syscall(NR_mount_setattr, tree_fd, b"", flags, ffi.byref(attr), ffi.sizeof(attr))
    check(result, "mount_setattr")


def idmap(tree_fd: int, userns_fd: int) -> None:
    """Map the owners of the detached mount *tree_fd* as the user namespace *userns_fd* maps ids; it stays private."""
    mount_setattr(tree_fd, attr_set=MOUNT_ATTR_IDMAP, propagation=MS_PRIVATE, userns_fd=userns_fd)


def fs_mount(fstype: str, options: list[tuple[str, str]], attributes: int = 0) -> int:
    """Make a file system of *fstype* with *options* and return a descriptor of its detached mount.

    An option without a value ("") is a flag.
    See fsopen(2), fsconfig(2), fsmount(2).  The kernel's own message, where it left one, is in the error.
    """
    fs_fd = check(syscall(NR_fsopen, os.fsencode(fstype), FSOPEN_CLOEXEC), "fsopen", fstype)
    try:
        for key, value in options:
            if value:
                result = syscall(NR_fsconfig, fs_fd, FSCONFIG_SET_STRING, os.fsencode(key), os.fsencode(value), 0)
            else:
                result = syscall(NR_fsconfig, fs_fd, FSCONFIG_SET_FLAG, os.fsencode(key), None, 0)
            _check_fs(result, fs_fd, f"{fstype} {key}={value}")
        _check_fs(syscall(NR_fsconfig, fs_fd, FSCONFIG_CMD_CREATE, None, None, 0), fs_fd, fstype)
        return check(syscall(NR_fsmount, fs_fd, FSMOUNT_CLOEXEC, attributes), "fsmount", fstype)
    finally:
        os.close(fs_fd)


def _path(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _check_fs(result: int, fs_fd: int, what: str) -> None:
    if result != -1:
        return
    err = ffi.get_errno()
    notes = []
    while True:  # the context's log: one message a read, ENODATA at its end
        try:
            notes.append(os.read(fs_fd, 4096).decode("utf-8", "replace").strip())
        except OSError:
            break
    text = "; ".join(notes) or os.strerror(err)
    raise OSError(err, f"fsconfig: {text}", what)
