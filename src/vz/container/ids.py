"""Ranges of host ids for CTs, taken from the node's pool; one file per range in ``/var/lib/vzctl/ids``.

A range is never given twice while its file is there; the file goes when the CT's last file has gone.  A counter
makes taking one cheap however many CTs there are.
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
LAST_ID = 4294967294


def allocate(node: NodeConfig, ctid: int, count: int = RANGE) -> int:
    """Return the first id of a free range of *count* ids (whole multiples of 65,536) and keep it for *ctid*.

    Raises:
        VzError: the pool is used up (status 6).
    """
    slots = -(-count // RANGE)
    base = node.local_uid
    total = min(node.local_uid_pool, LAST_ID - base) // RANGE
    make_dirs(IDS_DIR, 0o700)
    lock = os.open(f"{IDS_DIR}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        word = os.pread(lock, 32, 0).strip()
        start = int(word) if word.isdigit() else 0
        for step in range(total):
            slot = (start + step) % total
            if slot + slots > total or any(_taken(base + (slot + i) * RANGE) for i in range(slots)):
                continue
            for i in range(slots):
                _keep(base + (slot + i) * RANGE, ctid)
            os.pwrite(lock, f"{(slot + slots) % total:<31}\n".encode(), 0)
            return base + slot * RANGE
    finally:
        os.close(lock)
    raise VzError("no free range of host ids; raise LOCAL_UID_POOL in /etc/vz/vz.conf", ExitCode.RESOURCE_ERROR)


def register(ctid: int, first: int, count: int) -> None:
    """Keep the range that a conf names (an imported CT's) for *ctid*.

    Raises:
        VzError: another CT has it (status 6).
    """
    make_dirs(IDS_DIR, 0o700)
    for slot in range(first // RANGE * RANGE, first + count, RANGE):
        owner = owner_of(first if slot < first else slot)
        if owner is None:
            _keep(max(slot, first), ctid)
        elif owner != ctid:
            raise VzError(
                f"host ids {first}-{first + count - 1} belong to container {owner}: remove LOCAL_UID from the conf "
                "to get a free range",
                ExitCode.RESOURCE_ERROR,
            )


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
        names = os.listdir(IDS_DIR)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isdecimal() and owner_of(int(name)) == ctid)


def release(first: int, ctid: int) -> None:
    """Give the ranges from *first* on that are kept for *ctid* back to the pool; nothing when there are none."""
    while owner_of(first) == ctid:
        try:
            os.unlink(f"{IDS_DIR}/{first}")
        except FileNotFoundError:
            return
        first += RANGE


def _taken(first: int) -> bool:
    return os.path.exists(f"{IDS_DIR}/{first}")


def _keep(first: int, ctid: int) -> None:
    write_atomically(f"{IDS_DIR}/{first}", f"{ctid}\n".encode(), 0o600, durable=False)
