"""Opening a path below a root that is not ours; see openat2(2)."""

from __future__ import annotations

import os

from . import ffi
from .libc import check, libc, syscall

NR_openat2 = 437
RESOLVE_NO_XDEV = 1
RESOLVE_NO_MAGICLINKS = 2
RESOLVE_NO_SYMLINKS = 4
RESOLVE_BENEATH = 8
RESOLVE_IN_ROOT = 16


class open_how(ffi.Structure):
    """``struct open_how`` of <linux/openat2.h>."""

    _fields_ = [("flags", ffi.c_uint64), ("mode", ffi.c_uint64), ("resolve", ffi.c_uint64)]


def openat2(dir_fd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open *path* below *dir_fd* as *resolve* allows; see openat2(2).  EXDEV: it led outside; ELOOP: a refused link."""
    how = open_how(flags | os.O_CLOEXEC, mode, resolve)
    result = syscall(NR_openat2, dir_fd, os.fsencode(path), ffi.byref(how), ffi.sizeof(how))
    return check(result, "openat2", path)


def name_to_handle_at(dir_fd: int, path: str) -> bytes:
    """Return the handle (type and bytes) of *path* below *dir_fd*, a last link not followed: of no other file, ever.

    See name_to_handle_at(2).  EOPNOTSUPP: the file system has none.
    """
    handle = (ffi.c_uint * 34)(128)
    mount_id = ffi.c_int()
    result = libc.name_to_handle_at(dir_fd, os.fsencode(path), ffi.byref(handle), ffi.byref(mount_id), 0)
    check(int(result), "name_to_handle_at", path)
    return bytes(handle)[4 : 8 + handle[0]]


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open *path* as a process chrooted to *root_fd* would: no link leads out of it (RESOLVE_IN_ROOT)."""
    return openat2(root_fd, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, mode)
