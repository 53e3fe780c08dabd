"""Resource limits of any process; see prlimit(2).  The numbers are those of <asm-generic/resource.h>."""

from __future__ import annotations

import struct

from . import ffi
from .libc import check, libc

RLIMIT_DATA, RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_SIGPENDING = 2, 7, 8, 11
INFINITY = (1 << 64) - 1


def prlimit(pid: int, number: int, new: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return (soft, hard) of limit *number* of process *pid* (0: this one) as it was, and set *new* where it is given.

    Raises:
        OSError: ESRCH: it has gone; EPERM: to raise a hard limit takes CAP_SYS_RESOURCE of the host's own.
    """
    old = ffi.create_string_buffer(16)
    data = struct.pack("QQ", *new) if new is not None else None
    result = libc.prlimit(ffi.c_int(pid), ffi.c_int(number), data, old)
    check(int(result), "prlimit")
    soft, hard = struct.unpack("QQ", old.raw)
    return soft, hard
