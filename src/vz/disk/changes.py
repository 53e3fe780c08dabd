"""What changed in a tree of files between two looks: by inode, kind and change time, which no process inside can set.

For a tree that is being copied while a CT writes to it.  It is read through a mount of its own that is read-only and
on which the kernel follows no symbolic link: a CT that swaps a directory for a link gains nothing.

A page that is mapped and dirty is written to without a new change time until it has been written back.  So the file
system is synced after each look (``settle_dirty``): whatever is written later than that leaves its mark.
"""

from __future__ import annotations

import os
import stat
import time

from vz.kernel import mounts
from vz.kernel.libc import check, libc

_REALTIME_COARSE = 5  # CLOCK_REALTIME_COARSE of <linux/time.h>


class Tree:
    """``with Tree(path) as tree``: the files below *path* as nobody else can bend them; ``tree.path`` leads there.

    The path is good in this process and, since the descriptor is inherited, in programs that it runs.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: str) -> None:
        self.fd = mounts.open_tree(path)
        attributes = mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSYMFOLLOW
        mounts.mount_setattr(self.fd, attr_set=attributes, propagation=mounts.MS_PRIVATE)
        os.set_inheritable(self.fd, True)
        self.path = f"/proc/self/fd/{self.fd}"

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def settle_dirty(self) -> None:
        """Write back the file system's dirty pages; see syncfs(2)."""
        top = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the tree's own descriptor is O_PATH
        try:
            check(int(libc.syncfs(top)), "syncfs", self.path)
        finally:
            os.close(top)


class Look:
    """The files of a tree at one time: ``entries`` maps a path below it to (inode, kind, change time in ns, links)."""

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries: dict[str, tuple[int, int, int, int]] = {}
        self.bytes = 0  # on disk


def look(top: str) -> Look:
    """Look at everything below the directory *top*, and at itself (path ``""``); what vanishes meanwhile is left."""
    found = Look()
    status = os.lstat(top + "/")
    found.entries[""] = (status.st_ino, stat.S_IFMT(status.st_mode), status.st_ctime_ns, 1)
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            entries = os.scandir(f"{top}/{folder}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                kind = stat.S_IFMT(status.st_mode)
                name = f"{folder}{entry.name}"
                found.bytes += status.st_blocks * 512
                if kind == stat.S_IFDIR:
                    found.entries[name] = (status.st_ino, kind, status.st_ctime_ns, 1)
                    pending.append(f"{name}/")
                else:
                    found.entries[name] = (status.st_ino, kind, status.st_ctime_ns, status.st_nlink)
    return found


def compare(old: Look, new: Look, since_ns: int) -> tuple[list[str], list[str]]:
    """Return (gone, changed): paths to remove with what is below them, then paths to copy.

    *since_ns* is when the look *old* began: what changed at that time or later may have been copied before the change.
    """
    changed = []
    gone = {path for path in old.entries if path not in new.entries}
    for path, entry in new.entries.items():
        before = old.entries.get(path)
        if before is None or entry != before or entry[2] >= since_ns:
            changed.append(path)
            if before is not None and before[1] != entry[1]:
                gone.add(path)
    return sorted(path for path in gone if path.rpartition("/")[0] not in gone), changed


def now_ns() -> int:
    """Return the time that a change made now would be stamped with: the kernel's coarse clock."""
    return time.clock_gettime_ns(_REALTIME_COARSE)
