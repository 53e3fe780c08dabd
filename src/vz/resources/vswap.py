"""VSwap: the RAM and the swap of a CT as two numbers, kept where whoever slows it finds them.

The sum of the two is the kernel's hard limit (``limits``).  RAM alone is a mark on the CT's cgroup2 directory, an
extended attribute: it is there exactly as long as the CT runs, changes with ``vzctl set`` at once, and nobody inside
can see or write it (xattr(7): trusted).  Who slows: ``vz.node.pacing``.
"""

from __future__ import annotations

import errno
import os

MARK = "trusted.vz.vswap"


def mark(own: str, ram: int, swap: int) -> None:
    """Note *ram* and *swap*, in bytes, on the CT's cgroup2 directory *own*; without swap there is nothing to note."""
    if swap > 0:
        os.setxattr(own, MARK, b"%d %d" % (ram, swap))
        return
    try:
        os.removexattr(own, MARK)
    except OSError as exc:
        if exc.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise


def marked(own: str) -> tuple[int, int] | None:
    """Return (RAM, swap) in bytes of the CT with the directory *own*; None: it has no virtual swap, or does not run."""
    try:
        ram, swap = os.getxattr(own, MARK).split()
    except OSError:
        return None
    return int(ram), int(swap)


def fixed_bytes(version: int, table: dict[str, int]) -> int:
    """Return how much memory no reclaim can free, of the *table* memory.stat of a cgroup of *version*; without swap.

    Anonymous and shared memory, files that are on no list of reclaimable ones (ramfs, locked ones), and on version 2
    the kernel's for the CT, pipes and sockets included.  Version 1 cannot tell the kernel's caches from its other
    memory: none of it counts there.
    """
    of = table.get
    if version == 1:
        files = of("total_cache", 0) - of("total_shmem", 0)
        return (
            of("total_rss", 0)
            + of("total_shmem", 0)
            + max(files - of("total_active_file", 0) - of("total_inactive_file", 0), 0)
        )
    files = of("file", 0) - of("shmem", 0) - of("swapcached", 0)
    parts = of("kernel_stack", 0) + of("pagetables", 0) + of("slab_unreclaimable", 0)
    kernel = of("kernel", 0) - of("slab_reclaimable", 0) if "kernel" in table else parts  # Linux 5.18
    unlisted = max(files - of("active_file", 0) - of("inactive_file", 0), 0)
    return of("anon", 0) + of("shmem", 0) + unlisted + of("sock", 0) + max(kernel, 0)
