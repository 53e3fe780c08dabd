"""The FUSE protocol over /dev/fuse, as far as small read-only files need it; see fuse(4) and linux/fuse.h (7.31 on).

Nothing is kept between requests but what the kernel sends back: a process can go on where another was killed.
"""

from __future__ import annotations

import os
import struct

from vz.kernel import mounts

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT = 1, 2, 3, 4, 14, 15, 17, 18, 25, 26
OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 27, 28, 29, 36, 38, 42
NO_ANSWER = (FORGET, BATCH_FORGET, INTERRUPT, DESTROY)
ROOT = 1  # its node id
DIRECT_IO = 1
NOTIFY_RESEND = 7  # Linux 6.9
INIT_EXT, HAS_RESEND = 1 << 30, 1 << 7  # the second in flags2
MAX_WRITE = 1 << 16
BUFFER = MAX_WRITE + 4096
VALID_S = 3600  # how long names hold: they never change
SIZE = 1 << 18
_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")


class Request:
    __slots__ = ("body", "node", "opcode", "unique")

    def __init__(self, packet: bytes) -> None:
        _, self.opcode, self.unique, self.node, _, _, _, _ = _IN.unpack_from(packet)
        self.body = packet[_IN.size :]


def mount(place: str) -> int:
    """Mount a file system on *place* and return the descriptor that its requests come from; ENOENT, ENODEV: no FUSE."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        mounts.mount("vzproc", place, "fuse", mounts.MS_NOSUID | mounts.MS_NODEV, options)
    except OSError:
        os.close(fd)
        raise
    return fd


def answer(fd: int, unique: int, data: bytes = b"", error: int = 0) -> None:
    """Answer a request; one whose caller has gone (ENOENT) is forgotten."""
    try:
        os.write(fd, _OUT.pack(_OUT.size + len(data), -error, unique) + data)
    except OSError:
        pass


def resend(fd: int) -> None:
    """Ask for the requests that a killed server had taken; a kernel before 6.9 cannot, they wait until a signal."""
    answer(fd, 0, b"", -NOTIFY_RESEND)


def init_answer(body: bytes) -> bytes:
    """Agree upon the protocol; constant, for the servers that come later are not asked again."""
    _, minor, ahead, flags = struct.unpack_from("<4I", body)
    return struct.pack(
        "<4IHHIIHHI7I", 7, min(minor, 39), ahead, flags & INIT_EXT, 16, 12, MAX_WRITE, 1, 16, 0, HAS_RESEND, *([0] * 7)
    )


def attributes(node: int, *, directory: bool) -> bytes:
    """Return a struct fuse_attr; the size is constant (criu compares it), and not 0: sendfile(2) would read nothing."""
    size = 0 if directory else SIZE
    mode, links = (0o040555, 2) if directory else (0o100444, 1)
    return struct.pack("<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)


def attr_answer(node: int, *, directory: bool) -> bytes:
    return struct.pack("<QII", 0, 0, 0) + attributes(node, directory=directory)


def entry_answer(node: int, *, directory: bool) -> bytes:
    return struct.pack("<4QII", node, 0, VALID_S, 0, 0, 0) + attributes(node, directory=directory)


def open_answer(handle: int, flags: int) -> bytes:
    return struct.pack("<QII", handle, flags, 0)


def statfs_answer() -> bytes:
    """Return a struct fuse_kstatfs without blocks: df(1) leaves such out."""
    return struct.pack("<5Q10I", 0, 0, 0, 0, 0, 4096, 255, 4096, 0, *([0] * 6))
