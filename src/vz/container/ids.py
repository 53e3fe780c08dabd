"""Ranges of host ids for CTs, taken from the node's pool, and who has which: ``/var/lib/vzctl/ids``.

One small file per 65,536 host ids has a line ``FIRST COUNT CTID`` for each range that reaches into them, so that
whether a range is free is seen from as many files as it is long, however many CTs there are and wherever vz.conf's
pool begins by now.  A range goes when the CT's last file has gone: until then its line ends in ``destroyed``.
A counter makes taking one cheap.

Before, there was one file per 65,536 ids of a CT, named by the first of them and with the CTID in it: the first
command that takes the table's lock turns those into lines.
"""

from __future__ import annotations

import fcntl
import os

from vz.config.nodeconfig import NodeConfig
from vz.config.paths import STATE
from vz.errors import ExitCode, VzError
from vz.kernel.files import make_dirs, read_text, remove, write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IDS_DIR = f"{STATE}/ids"
RANGE = 65536
FIRST_ID = 65536  # below are the node's own users
LAST_ID = 4294967294
DESTROYED = "destroyed"
COUNTER_SIZE = 32  # bytes at the start of the lock file: the next slot
MARK = b"2"  # follows it where the table has lines


class Kept:
    """A range that is kept for CT *ctid*, alive or *destroyed* with files that are still being deleted."""

    __slots__ = ("count", "ctid", "destroyed", "first")

    def __init__(self, first: int, count: int, ctid: int, destroyed: bool) -> None:
        self.first = first
        self.count = count
        self.ctid = ctid
        self.destroyed = destroyed

    def line(self) -> str:
        return f"{self.first} {self.count} {self.ctid}{' ' + DESTROYED if self.destroyed else ''}\n"


def allocate(node: NodeConfig, ctid: int, count: int = RANGE, note: Callable[[int], None] | None = None) -> int:
    """Return the first id of a free range of *count* ids (whole multiples of 65,536) and keep it for *ctid*.

    *note* is told the first id before anything is kept.

    Raises:
        VzError: the pool is used up (status 6).
    """
    slots = -(-count // RANGE)
    base = node.local_uid
    total = min(node.local_uid_pool, LAST_ID - base) // RANGE
    lock = _lock()
    try:
        word = os.pread(lock, COUNTER_SIZE, 0).strip()
        start = int(word) if word.isdigit() else 0
        for step in range(total):
            slot = (start + step) % total
            first = base + slot * RANGE
            if slot + slots > total or _overlapping(first, slots * RANGE):
                continue
            os.pwrite(lock, f"{(slot + slots) % total:<31}\n".encode(), 0)
            if note is not None:
                note(first)
            _keep(Kept(first, slots * RANGE, ctid, False))
            return first
    finally:
        os.close(lock)
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
    lock = _lock()
    try:
        others = _overlapping(first, count)
        for other in others:
            if other.ctid != ctid:
                raise VzError(
                    f"host ids {first}-{last} belong to container {other.ctid}: remove LOCAL_UID and LOCAL_UID_COUNT "
                    "from the conf to get a free range",
                    ExitCode.RESOURCE_ERROR,
                )
        whole = [(other.first, other.count, other.destroyed) for other in others] == [(first, count, False)]
        if not whole or len(_slots(first, count)) > 1:  # of several files, a killed command may have written some
            for other in others:
                _drop(other)
            _keep(Kept(first, count, ctid, False))
    finally:
        os.close(lock)


def owner_of(first: int) -> int | None:
    """Return the living CT that the range beginning at *first* is kept for, or None."""
    return next((kept.ctid for kept in _read(first // RANGE) if kept.first == first and not kept.destroyed), None)


def is_free(first: int, count: int, ctid: int) -> bool:
    """Tell whether nobody but *ctid* has a part of the range of *count* ids from *first* on, with files that are still
    being deleted too."""
    return all(kept.ctid == ctid for kept in _overlapping(first, count))


def ranges_of(ctid: int) -> list[int]:
    """Return the first ids of the ranges that are kept for the living CT *ctid*."""
    try:
        slots = [int(name) for name in os.listdir(IDS_DIR) if name.isascii() and name.isdigit()]
    except FileNotFoundError:
        return []
    return sorted({kept.first for slot in slots for kept in _read(slot) if kept.ctid == ctid and not kept.destroyed})


def retire(first: int, ctid: int, *, back: bool = False) -> None:
    """Note that the CT of the range at *first* is being destroyed: once its files are gone, release() follows.

    With *back*, that it is not destroyed after all.
    """
    if not os.path.isdir(IDS_DIR):
        return
    lock = _lock()
    try:
        for kept in _read(first // RANGE):
            if kept.first == first and kept.ctid == ctid and kept.destroyed == back:
                kept.destroyed = not back
                _keep(kept)
    finally:
        os.close(lock)


def release(first: int, ctid: int, *, destroyed: bool = False) -> None:
    """Give the range at *first* that is kept for *ctid* back to the pool; nothing when there is none.

    With *destroyed*, only one that was retired: the id may have a new CT by now, on the same range.
    """
    if not os.path.isdir(IDS_DIR):
        return
    lock = _lock()
    try:
        for kept in _read(first // RANGE):
            if kept.first == first and kept.ctid == ctid and (kept.destroyed or not destroyed):
                _drop(kept)
    finally:
        os.close(lock)


def _lock() -> int:
    if not os.path.isdir(IDS_DIR):
        make_dirs(IDS_DIR, 0o700)
    lock = os.open(f"{IDS_DIR}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.pread(lock, 1, COUNTER_SIZE) != MARK:
        _convert()
        os.pwrite(lock, MARK, COUNTER_SIZE)
    return lock


def _convert() -> None:
    """Turn the files of the table as it was before into lines; stretches of a CT that touch were one range."""
    old = sorted(int(name) for name in os.listdir(IDS_DIR) if name.isascii() and name.isdigit() and int(name) >= RANGE)
    ranges: list[Kept] = []
    for first in old:
        word = read_text(f"{IDS_DIR}/{first}").strip()
        if not (word.isascii() and word.isdigit()):
            continue
        if ranges and ranges[-1].ctid == int(word) and ranges[-1].first + ranges[-1].count == first:
            ranges[-1].count += RANGE
        else:
            ranges.append(Kept(first, RANGE, int(word), False))
    for kept in ranges:
        _keep(kept)
    for first in old:
        remove(f"{IDS_DIR}/{first}")


def _slots(first: int, count: int) -> range:
    return range(first // RANGE, (first + max(count, 1) - 1) // RANGE + 1)


def _overlapping(first: int, count: int) -> list[Kept]:
    found = {}
    for slot in _slots(first, count):
        for kept in _read(slot):
            if kept.first < first + count and first < kept.first + kept.count:
                found[kept.first, kept.ctid] = kept
    return list(found.values())


def _read(slot: int) -> list[Kept]:
    try:
        text = read_text(f"{IDS_DIR}/{slot}")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and all(word.isascii() and word.isdigit() for word in words[:3]):
            found.append(Kept(int(words[0]), int(words[1]), int(words[2]), words[3:] == [DESTROYED]))
    return found


def _keep(new: Kept) -> None:
    for slot in _slots(new.first, new.count):
        _write(slot, [*(kept for kept in _read(slot) if (kept.first, kept.ctid) != (new.first, new.ctid)), new])


def _drop(old: Kept) -> None:
    for slot in reversed(_slots(old.first, old.count)):  # the slot that owner_of() reads goes last
        _write(slot, [kept for kept in _read(slot) if (kept.first, kept.ctid) != (old.first, old.ctid)])


def _write(slot: int, lines: list[Kept]) -> None:
    path = f"{IDS_DIR}/{slot}"
    if lines:
        write_atomically(path, "".join(kept.line() for kept in lines).encode(), 0o600, durable=False)
    else:
        remove(path)
