"""What a process has from whoever started it, put back to what a service of a freshly booted system has.

A CT must be the same whether it was started by hand, by cron at ``nice 19`` or by a service with an OOM score of
-1000: setrlimit(2), setpriority(2), sched_setscheduler(2), ioprio_set(2), personality(2), proc(5) oom_score_adj.
"""

from __future__ import annotations

import os
import struct
import sys

from . import ffi
from .libc import libc, nr, syscall

INFINITY = (1 << 64) - 1
KEEP = -1  # what the kernel worked out for this machine
# by the numbers of <asm-generic/resource.h>: (soft, hard)
LIMITS: tuple[tuple[int, int], ...] = (
    (INFINITY, INFINITY),  # CPU
    (INFINITY, INFINITY),  # FSIZE
    (INFINITY, INFINITY),  # DATA
    (8 << 20, INFINITY),  # STACK
    (0, INFINITY),  # CORE
    (INFINITY, INFINITY),  # RSS
    (KEEP, KEEP),  # NPROC
    (1024, 524288),  # NOFILE, as systemd has it
    (8 << 20, 8 << 20),  # MEMLOCK
    (INFINITY, INFINITY),  # AS
    (INFINITY, INFINITY),  # LOCKS
    (KEEP, KEEP),  # SIGPENDING
    (819200, 819200),  # MSGQUEUE
    (0, 0),  # NICE
    (0, 0),  # RTPRIO
    (INFINITY, INFINITY),  # RTTIME
)
MEMLOCK, SIGPENDING, MSGQUEUE = 8, 11, 12
_NR_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}


def reset(own: dict[int, int] | None = None) -> None:
    """Put the limits, priorities and odd modes of this process back to ordinary ones, as far as it may.

    *own* has hard limits that the CT has in their place, by number: those of MEMLOCK and SIGPENDING are set here, where
    they can be raised, the rest by ``lower`` when nothing but execve is left.

    A hard limit that the caller has lowered is kept where CAP_SYS_RESOURCE is not there to raise it.
    """
    for number, (soft, hard) in enumerate(LIMITS):
        if own and number in own and number in (MEMLOCK, SIGPENDING):
            soft = hard = own[number]
        _set_limit(number, soft, hard)
    if os.getpriority(os.PRIO_PROCESS, 0):
        _try(os.setpriority, os.PRIO_PROCESS, 0, 0)
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        _try(os.sched_setscheduler, 0, os.SCHED_OTHER, os.sched_param(0))
    _try(os.sched_setaffinity, 0, range(os.sysconf("SC_NPROCESSORS_CONF")))
    syscall(nr(_NR_IOPRIO_SET), 1, 0, 0)
    libc.personality(ffi.c_ulong(0))
    _reset_oom_score()


def lower(own: dict[int, int]) -> None:
    """Set those of the hard limits *own* that ``reset`` has left, the soft ones no higher."""
    for number, hard in own.items():
        if number not in (MEMLOCK, SIGPENDING):
            _set_limit(number, LIMITS[number][0], hard)


def seal_imports() -> None:
    """Import nothing from files any more: after a change of root the search path leads to somebody else's.

    What is loaded or built into the interpreter can still be had.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "PathFinder"]
    sys.path_importer_cache.clear()
    sys.path.clear()


def _set_limit(number: int, soft: int, hard: int) -> None:
    pair = ffi.create_string_buffer(16)
    libc.getrlimit(ffi.c_int(number), pair)
    _, now_hard = struct.unpack("QQ", pair.raw)
    hard = now_hard if hard == KEEP else hard
    for top in (hard, min(hard, now_hard)):
        wanted = top if soft == KEEP else min(soft, top)
        if libc.setrlimit(ffi.c_int(number), struct.pack("QQ", wanted, top)) == 0:
            return


def lower_counted_limits(signals: int = 0) -> None:
    """Lower what becomes the cap of a user namespace made next to a quarter of this user's own, who is charged too.

    *signals* is the cap of queued signals in place of that.  The hard limits stay: a child can have its own back, not
    the namespace.  See user_namespaces(7), getrlimit(2).
    """
    pair = ffi.create_string_buffer(16)
    for number in (SIGPENDING, MSGQUEUE):
        libc.getrlimit(ffi.c_int(number), pair)
        _, hard = struct.unpack("QQ", pair.raw)
        cap = min(signals, hard) if signals and number == SIGPENDING else hard // 4
        libc.setrlimit(ffi.c_int(number), struct.pack("QQ", cap, hard))


def _reset_oom_score() -> None:
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if os.read(fd, 16).strip() != b"0":
            os.write(fd, b"0")
    except OSError:
        pass
    finally:
        os.close(fd)


def _try(function: object, *args: object) -> None:
    try:
        function(*args)  # type: ignore[operator]
    except OSError:
        pass  # no right to: it stays as it is
