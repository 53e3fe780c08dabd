"""VSwap: the RAM and the swap of a CT as two numbers, kept where whoever slows it finds them.

The sum of the two is the kernel's hard limit (``limits``).  RAM alone is a mark on the CT's cgroup2 directory, an
extended attribute: it is there exactly as long as the CT runs, changes with ``vzctl set`` at once, and nobody inside
can see or write it (xattr(7): trusted).  Who slows: ``vz.node.pacing``.
"""

from __future__ import annotations

import errno
import os

from vz.kernel import cgroup

MARK = "trusted.vz.vswap"
# what no reclaim can free while a CT does not swap; version 1 cannot tell the kernel's caches from its other memory
FIXED_V1 = ("total_rss", "total_shmem", "total_unevictable")
FIXED_V2 = ("anon", "shmem", "kernel_stack", "pagetables", "slab_unreclaimable")


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


def fixed_bytes(version: int, path: str) -> int:
    """Return how much memory of cgroup *path* no reclaim can free; page cache is not among it.

    Raises:
        OSError: ENOENT, ENODEV: the cgroup has gone.
    """
    names = FIXED_V1 if version == 1 else FIXED_V2
    held = dict(line.split() for line in cgroup.read(path, "memory.stat").splitlines())
    values = [int(held.get(name, 0)) for name in names]
    if version == 1:  # locked pages are among the anonymous ones, files apart
        rss, shmem, unevictable = values
        return max(rss + shmem, unevictable)
    return sum(values)
