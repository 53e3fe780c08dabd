"""What a running CT uses now, read from its cgroups: held, the most so far, and how often the limit was met."""

from __future__ import annotations

import os

from vz.config.units import PAGE, UNLIMITED
from vz.container.ct import Container
from vz.kernel import cgroup
from vz.resources.cgroups import limit_dir


def counter(ct: Container, name: str) -> tuple[int, int, int]:
    """Return (held, maxheld, failcnt) of a beancounter that cgroups count, in its own unit; zeros for another one."""
    if name == "numproc":
        return _numproc(ct)
    if name == "physpages":
        return _physpages(ct)
    if name == "kmemsize":
        return _kmemsize(ct)
    if name == "shmpages":
        return _stat_pages(ct, "shmem")
    return 0, 0, 0


def number(path: str, key: str) -> int:
    """Return the number in cgroup file *key*, 0 where there is none."""
    try:
        return int(cgroup.read(path, key))
    except (OSError, ValueError):
        return 0


def table(path: str, key: str) -> dict[str, int]:
    """Return the flat table *key*: {word: number}.  OSError: the cgroup, or this file, is not there."""
    return {word: int(value) for word, value in map(str.split, cgroup.read(path, key).splitlines())}


def event(path: str, key: str, word: str) -> int:
    """Return the number beside *word* in the flat table *key*, 0 where there is none."""
    try:
        return table(path, key).get(word, 0)
    except (OSError, ValueError):
        return 0


def _numproc(ct: Container) -> tuple[int, int, int]:
    version, path = limit_dir(ct, "pids")
    if not version:
        return 0, 0, 0
    held = number(path, "pids.current")
    return held, max(number(path, "pids.peak"), held), event(path, refusals(path), "max")


def refusals(path: str) -> str:
    """Return the file of the pids cgroup *path* that counts what this group's own limit has refused.

    From Linux 6.11 on version 2 ``pids.events`` counts the limits below it too, the TasksMax= of a CT's own units.
    """
    return "pids.events.local" if os.path.exists(f"{path}/pids.events.local") else "pids.events"


def _physpages(ct: Container) -> tuple[int, int, int]:
    version, path = limit_dir(ct, "memory")
    if version == 2:
        held = number(path, "memory.current")
        return held // PAGE, max(number(path, "memory.peak"), held) // PAGE, event(path, "memory.events", "oom_kill")
    if version == 1:
        held = number(path, "memory.usage_in_bytes")
        peak = max(number(path, "memory.max_usage_in_bytes"), held)
        return held // PAGE, peak // PAGE, event(path, "memory.oom_control", "oom_kill")
    return 0, 0, 0


def _kmemsize(ct: Container) -> tuple[int, int, int]:
    version, path = limit_dir(ct, "memory")
    if version == 2:
        held = event(path, "memory.stat", "kernel")
        return held, held, 0
    if version == 1:
        held = number(path, "memory.kmem.usage_in_bytes")
        return held, max(number(path, "memory.kmem.max_usage_in_bytes"), held), number(path, "memory.kmem.failcnt")
    return 0, 0, 0


def _stat_pages(ct: Container, word: str) -> tuple[int, int, int]:
    version, path = limit_dir(ct, "memory")
    if not version:
        return 0, 0, 0
    held = event(path, "memory.stat", word) // PAGE
    return held, held, 0


def cpu(ct: Container) -> tuple[int, int] | None:
    """Return (limit in per cent of one CPU, 0 for none; CPU units) as the kernel has them, or None."""
    version, path = limit_dir(ct, "cpu")
    try:
        if version == 2:
            quota, _, period = cgroup.read(path, "cpu.max").partition(" ")
            limit = 0 if quota == "max" else round(int(quota) * 100 / int(period))
            return limit, int(cgroup.read(path, "cpu.weight")) * 10
        if version == 1:
            quota_us = number(path, "cpu.cfs_quota_us")
            limit = 0 if quota_us <= 0 else round(quota_us * 100 / int(cgroup.read(path, "cpu.cfs_period_us")))
            return limit, round(int(cgroup.read(path, "cpu.shares")) / 1.024)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    return None


def numproc_limit(ct: Container) -> int | None:
    """Return how many processes the CT may have; None where the kernel does not count them."""
    version, path = limit_dir(ct, "pids")
    if not version:
        return None
    try:
        text = cgroup.read(path, "pids.max")
        return UNLIMITED if text == "max" else int(text)
    except (OSError, ValueError):
        return None
