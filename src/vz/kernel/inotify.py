"""inotify(7): which names come and go in directories, told by a descriptor that can be polled."""

from __future__ import annotations

import os
import struct

from . import ffi
from .libc import check, libc

IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
_HEADER = struct.Struct("iIII")  # struct inotify_event without its name


def inotify_init() -> int:
    """Return a new inotify descriptor, close-on-exec, whose read(2) does not wait; EMFILE: the user has too many."""
    return check(libc.inotify_init1(ffi.c_int(os.O_CLOEXEC | os.O_NONBLOCK)), "inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch *path* for the events of *mask* and return the watch's number; ENOSPC: the user has too many watches."""
    result = libc.inotify_add_watch(ffi.c_int(fd), ffi.c_char_p(os.fsencode(path)), ffi.c_uint(mask))
    return check(int(result), "inotify_add_watch", path)


def read_events(fd: int) -> list[tuple[int, int, str]]:
    """Return (watch, mask, name) of what has happened since the last time; IN_Q_OVERFLOW: and more, which is lost."""
    found: list[tuple[int, int, str]] = []
    while True:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return found
        at = 0
        while at < len(data):
            watch, mask, _cookie, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            found.append((watch, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))))
            at += length
