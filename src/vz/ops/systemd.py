"""Which systemd a CT has, from the name of its library: nothing of the CT is run or read for it."""

from __future__ import annotations

import os

from vz.kernel.openat import open_in_root

LIBRARY = "libsystemd-shared-"
PLACES = ("usr/lib/systemd", "usr/lib64/systemd", f"usr/lib/{os.uname().machine}-linux-gnu/systemd")
# From 256 on systemd knows processes by the inode numbers of their pidfds (Linux 6.9), which a restore changes; it
# would take no message from its services any more.  257 is the last that goes on without pidfds.
KNOWS_BY_PIDFD, NEEDS_PIDFDS = 256, 258


def version(root: str) -> int:
    """Return the number of the systemd below the directory *root*; 0: none, or in no place that is known."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for place in PLACES:
            try:
                folder = open_in_root(top, place, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                names = os.listdir(folder)
            finally:
                os.close(folder)
            for name in names:
                if name.startswith(LIBRARY):
                    number = name[len(LIBRARY) : len(LIBRARY) + 3]
                    if number.isascii() and number.isdigit():
                        return int(number)
    finally:
        os.close(top)
    return 0


def must_not_see_pidfds(root: str) -> bool:
    return KNOWS_BY_PIDFD <= version(root) < NEEDS_PIDFDS


def doubt(root: str) -> str:
    """Return what is lost of the CT at *root* by a dump and restore on this kernel; "" for nothing."""
    number = version(root)
    if number < NEEDS_PIDFDS or not pidfds_have_inodes():
        return ""
    return (
        f"systemd {number} in the container knows its services by pidfds, which a restore changes: "
        "services with a watchdog (journald, logind) are restarted some minutes after it"
    )


def pidfds_have_inodes() -> bool:
    """Tell whether each process's pidfd has an inode of its own (Linux 6.9); before, all share one."""
    ours, parents = os.pidfd_open(os.getpid()), os.pidfd_open(1)
    try:
        return os.fstat(ours).st_ino != os.fstat(parents).st_ino
    finally:
        os.close(ours)
        os.close(parents)
