"""Ranges of host ids for CTs, taken from the node's pool; one file per range in ``/var/lib/vzctl/ids``.

A range is never given twice while its file is there; the file goes when the CT's last file has gone.  A file stands
for the 65,536 ids from its name on.
"""

from __future__ import annotations

import fcntl
import os

from vz.config.nodeconfig import NodeConfig
from vz.config.paths import STATE
from vz.errors import ExitCode, VzError
from vz.kernel.files import make_dirs, read_text, write_atomically

IDS_DIR = f"{STATE}/ids"
RANGE = 65536
FIRST_ID = 65536  # below are the node's own users
LAST_ID = 4294967294


def allocate(node: NodeConfig, ctid: int, count: int = RANGE) -> int:
    """Return the first id of a free range of *count* ids (whole multiples of 65,536) and keep it for *ctid*.

    Raises:
        VzError: the pool is used up (status 6).
    """
    slots = -(-count // RANGE)
    base = node.local_uid
    total = min(node.local_uid_pool, LAST_ID - base) // RANGE
    with _Lock() as lock:
        taken: set[int] = set()
        for first in kept():  # another LOCAL_UID in vz.conf, once, or a conf's own: not every range is one of our slots
            taken.update(((first - base) // RANGE, (first + RANGE - 1 - base) // RANGE))
        word = os.pread(lock, 32, 0).strip()
        start = int(word) if word.isdigit() else 0
        for step in range(total):
            slot = (start + step) % total
            if slot + slots > total or any(slot + i in taken for i in range(slots)):
                continue
            for i in range(slots):
                _keep(base + (slot + i) * RANGE, ctid)
            os.pwrite(lock, f"{(slot + slots) % total:<31}\n".encode(), 0)
            return base + slot * RANGE
    raise VzError("no free range of host ids; raise LOCAL_UID_POOL in /etc/vz/vz.conf", ExitCode.RESOURCE_ERROR)


def register(ctid: int, first: int, count: int) -> None:
    """Keep the range that a conf names for *ctid*; nothing where it is kept already.

    Raises:
        VzError: another CT has a part of it, or the node's own users have (status 6).
    """
    last = first + count - 1
    if first < FIRST_ID or last > LAST_ID:
        raise VzError(
            f"LOCAL_UID: host ids {first}-{last} cannot be a container's, only {FIRST_ID}-{LAST_ID}: remove LOCAL_UID "
            "and LOCAL_GID from the conf to get a free range",
            ExitCode.RESOURCE_ERROR,
        )
    starts = range(first, first + count, RANGE)
    if all(owner_of(start) == ctid for start in starts):
        return
    with _Lock():
        for other in kept():
            owner = owner_of(other)
            if owner != ctid and other <= last and first < other + RANGE:
                raise VzError(
                    f"host ids {first}-{last} belong to container {owner}: remove LOCAL_UID and LOCAL_UID_COUNT from "
                    "the conf to get a free range",
                    ExitCode.RESOURCE_ERROR,
                )
        for start in starts:
            if owner_of(start) != ctid:
                _keep(start, ctid)


def kept() -> list[int]:
    """Return the first id of each stretch of 65,536 that is kept for some CT."""
    return [int(name) for name in os.listdir(IDS_DIR) if name.isascii() and name.isdigit()]


def owner_of(first: int) -> int | None:
    """Return the CT that the range beginning at *first* is kept for, or None."""
    try:
        text = read_text(f"{IDS_DIR}/{first}").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def ranges_of(ctid: int) -> list[int]:
    """Return the first ids of the ranges that are kept for CT *ctid*."""
    try:
        return sorted(first for first in kept() if owner_of(first) == ctid)
    except FileNotFoundError:
        return []


def release(first: int, count: int, ctid: int) -> None:
    """Give the range of *count* ids from *first* on back to the pool, as far as it is kept for *ctid*."""
    for start in range(first, first + count, RANGE):
        if owner_of(start) == ctid:
            try:
                os.unlink(f"{IDS_DIR}/{start}")
            except FileNotFoundError:
                pass


class _Lock:
    """Hold the pool for the length of a ``with`` block; gives the lock file, which has the next slot in it."""

    __slots__ = ("_fd",)

    def __enter__(self) -> int:
        make_dirs(IDS_DIR, 0o700)
        self._fd = os.open(f"{IDS_DIR}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _keep(first: int, ctid: int) -> None:
    write_atomically(f"{IDS_DIR}/{first}", f"{ctid}\n".encode(), 0o600, durable=False)
