"""Beancounters that the kernel holds each process to: setrlimit(2), at birth and live.

A CT's processes inherit them from init and from what exec starts; its root cannot raise them.  None is a sum over the
CT: so many processes of so much each can there be.
"""

from __future__ import annotations

import errno

from vz.config.units import PAGE, UNLIMITED
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel.inherited import LIMITS
from vz.kernel.rlimits import INFINITY, RLIMIT_DATA, RLIMIT_MEMLOCK, RLIMIT_NOFILE, RLIMIT_SIGPENDING, prlimit

NUMBERS = {
    "privvmpages": RLIMIT_DATA,
    "numfile": RLIMIT_NOFILE,
    "lockedpages": RLIMIT_MEMLOCK,
    "numsiginfo": RLIMIT_SIGPENDING,
}
PASSES = 10  # a process that is born while the others are changed has its parent's limits


def wanted(limits: dict[str, tuple[int, int]]) -> dict[int, int]:
    """Return {RLIMIT_ number: hard limit} for those of *limits* that are no unlimited ones."""
    found = {}
    for name, number in NUMBERS.items():
        limit = limits.get(name, (UNLIMITED, UNLIMITED))[1]
        if limit < UNLIMITED:
            found[number] = limit * PAGE if name in ("privvmpages", "lockedpages") else limit
    return found


def apply_live(ct: Container, numbers: dict[int, int | None]) -> None:
    """Set the limits *numbers* (None: what a CT has that says nothing) of every process of a running CT.

    Raises:
        VzError: this node may not raise what its processes have (1).
    """
    from vz.resources import census

    targets = {}
    for number, value in numbers.items():
        ours = prlimit(0, number)[1]  # without CAP_SYS_RESOURCE a CT that starts has no more than its starter
        default = ours if LIMITS[number][1] < 0 else LIMITS[number][1]
        targets[number] = min(default if value is None else value, ours)
    done: set[int] = set()
    for _ in range(PASSES):
        fresh = [pid for pid in census.pids(ct) if pid not in done]
        if not fresh:
            return
        for pid in fresh:
            for number, value in targets.items():
                _set(pid, number, value)
        done.update(fresh)


def _set(pid: int, number: int, hard: int) -> None:
    try:
        soft, before = prlimit(pid, number)
        # what had been cut to the limit follows it; NOFILE has a soft limit of its own
        kept = min(soft, hard) if number == RLIMIT_NOFILE or soft < min(before, INFINITY) else hard
        prlimit(pid, number, (kept, hard))
    except OSError as exc:
        if exc.errno == errno.ESRCH:
            return
        name = next(name for name, its in NUMBERS.items() if its == number)
        why = "to raise it takes CAP_SYS_RESOURCE on the node, or a restart of the container"
        raise VzError(f"Unable to set {name} of running processes: {why}", ExitCode.SETUBC_ERROR) from exc
