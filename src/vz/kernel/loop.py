"""Loop devices: a file as a block device; see loop(4) and <linux/loop.h>.  Every errno is the ioctl's own."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from _struct import pack, unpack_from

LOOP_GET_STATUS64 = 0x4C05
LOOP_SET_CAPACITY = 0x4C07
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16
INFO_BYTES, NAME_AT = 232, 56  # struct loop_info64, lo_file_name in it
MAJOR = 7
TRIES = 100


def attach(path: str, *, read_only: bool = False, offset: int = 0, size: int = 0, mark: bytes = b"") -> tuple[int, str]:
    """Make the file *path* a loop device; return a descriptor that holds it and its path.

    The device is *size* bytes (0: all) from *offset* on.  *mark*, up to 63 bytes, is what marks() tells of it.
    It goes with its last user (LO_FLAGS_AUTOCLEAR): nothing is left behind, whoever is killed.  I/O is direct
    where the file system below can.  OSError as open(2) and ioctl(2): ENODEV without loop devices.
    """
    mode = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    backing = os.open(path, mode)
    try:
        for _ in range(TRIES):  # another may take the free one first
            name = _free()
            device = os.open(name, mode)
            try:
                _configure(device, backing, read_only, offset, size, mark)
                return device, name
            except OSError as exc:
                os.close(device)
                if exc.errno != errno.EBUSY:
                    raise
            except BaseException:
                os.close(device)
                raise
        raise OSError(errno.EBUSY, "no free loop device", path)
    finally:
        os.close(backing)


def _free() -> str:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
    finally:
        os.close(control)
    name = f"/dev/loop{number}"
    if not os.path.exists(name):  # a /dev that is no devtmpfs
        try:
            os.mknod(name, stat.S_IFBLK | 0o600, os.makedev(MAJOR, number))
        except FileExistsError:
            pass
    return name


def _configure(device: int, backing: int, read_only: bool, offset: int, size: int, mark: bytes) -> None:
    flags = LO_FLAGS_AUTOCLEAR | (LO_FLAGS_READ_ONLY if read_only else 0)
    for extra in (LO_FLAGS_DIRECT_IO, 0):
        info = pack("=5Q4I", 0, 0, 0, offset, size, 0, 0, 0, flags | extra) + mark
        info = info.ljust(INFO_BYTES, b"\0")
        config = pack("=2I", backing, 0) + info + bytes(64)
        try:
            fcntl.ioctl(device, LOOP_CONFIGURE, config)
            return
        except OSError as exc:
            if not extra or exc.errno != errno.EINVAL:  # EINVAL: a file system without direct I/O
                raise


def find(path: str) -> list[str]:
    """Return the loop devices whose file is *path*, by device and inode: their names may have changed."""
    wanted = os.stat(path)
    found = []
    for entry in sorted(os.listdir("/sys/block")):
        if not entry.startswith("loop") or not os.path.exists(f"/sys/block/{entry}/loop"):
            continue
        try:
            device = os.open(f"/dev/{entry}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            info = fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(INFO_BYTES))
            if unpack_from("=2Q", info) == (wanted.st_dev, wanted.st_ino):
                found.append(f"/dev/{entry}")
        except OSError:  # ENXIO: cleared meanwhile
            pass
        finally:
            os.close(device)
    return found


def marks() -> dict[str, tuple[bytes, str]]:
    """Return device → (mark that attach() gave it, path of its file as of now, perhaps with `` (deleted)``)."""
    found = {}
    for entry in sorted(os.listdir("/sys/block")):
        try:
            with open(f"/sys/block/{entry}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file:
                path = file.read().rstrip("\n")
            device = os.open(f"/dev/{entry}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # no loop device, or not in use
            continue
        try:
            info = fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(INFO_BYTES))
            found[f"/dev/{entry}"] = (info[NAME_AT : NAME_AT + 64].rstrip(b"\0"), path)
        except OSError:
            pass
        finally:
            os.close(device)
    return found


def file_has_grown(name: str) -> None:
    """Give the device *name* the size that its file has now."""
    device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, LOOP_SET_CAPACITY)
    finally:
        os.close(device)
