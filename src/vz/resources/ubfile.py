"""/run/vz/CTID/ub: the limits that a running CT was given and the most that was seen of each beancounter.

One line a counter: ``name maxheld barrier limit``; ``-`` for a limit that nobody set.  It lives as long as the CT runs.
The kernel keeps a maximum of few counters; of the others it is the largest of the values that somebody read.
"""

from __future__ import annotations

import fcntl
import os

from vz.config.paths import RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Kept:
    """What is kept of one counter; *limits* is (barrier, limit) or None."""

    __slots__ = ("limits", "maxheld")

    def __init__(self, maxheld: int = 0, limits: tuple[int, int] | None = None) -> None:
        self.maxheld = maxheld
        self.limits = limits


def read(ctid: int) -> dict[str, Kept]:
    """Return what is kept of CT *ctid*, nothing for one that does not run."""
    try:
        fd = os.open(f"{RUN}/{ctid}/ub", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        return parse(os.read(fd, 65536).decode("ascii", "replace"))
    finally:
        os.close(fd)


def parse(text: str) -> dict[str, Kept]:
    found = {}
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) != 4 or not words[1].isdecimal():
            continue
        pair = words[2].isdecimal() and words[3].isdecimal()
        found[words[0]] = Kept(int(words[1]), (int(words[2]), int(words[3])) if pair else None)
    return found


def set_limits(ctid: int, limits: dict[str, tuple[int, int]]) -> None:
    """Note that *limits* are in force."""

    def change(kept: dict[str, Kept]) -> None:
        for name, pair in limits.items():
            kept.setdefault(name, Kept()).limits = pair

    _update(ctid, change)


def raise_maxima(ctid: int, held: dict[str, int]) -> None:
    """Note that so much was *held*."""

    def change(kept: dict[str, Kept]) -> None:
        for name, value in held.items():
            entry = kept.setdefault(name, Kept())
            entry.maxheld = max(entry.maxheld, value)

    _update(ctid, change)


def _update(ctid: int, change: Callable[[dict[str, Kept]], None]) -> None:
    """Read, *change* and write the file under its lock: two readers must not lose each other's maximum."""
    try:
        fd = os.open(f"{RUN}/{ctid}/ub", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return  # it has stopped
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        kept = parse(os.read(fd, 65536).decode("ascii", "replace"))
        change(kept)
        data = "".join(_line(name, entry) for name, entry in kept.items()).encode()
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def _line(name: str, entry: Kept) -> str:
    barrier, limit = entry.limits or ("-", "-")
    return f"{name} {entry.maxheld} {barrier} {limit}\n"
