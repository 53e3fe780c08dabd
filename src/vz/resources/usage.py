"""What a running CT uses now, read from its cgroups: held, the most so far, and how often the limit was met."""

from __future__ import annotations

from vz.container.ct import Container
from vz.kernel import cgroup
from vz.resources.groups import limit_dir

PAGE = 4096


def counter(ct: Container, name: str) -> tuple[int, int, int]:
    """Return (held, maxheld, failcnt) of beancounter *name* in its own unit; zeros where the kernel does not say."""
    if name == "numproc":
        return _numproc(ct)
    if name == "physpages":
        return _physpages(ct)
    if name == "kmemsize":
        return _kmemsize(ct)
    if name == "shmpages":
        return _stat_pages(ct, "shmem")
    if name == "lockedpages":
        return _stat_pages(ct, "unevictable")
    return 0, 0, 0


def _number(path: str, key: str) -> int:
    try:
        return int(cgroup.read(path, key))
    except (OSError, ValueError):
        return 0


def _event(path: str, key: str, word: str) -> int:
    try:
        fields = dict(line.split() for line in cgroup.read(path, key).splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get(word, 0))


def _numproc(ct: Container) -> tuple[int, int, int]:
    version, path = limit_dir(ct, "pids")
    if not version:
        return 0, 0, 0
    held = _number(path, "pids.current")
    return held, max(_number(path, "pids.peak"), held), _event(path, "pids.events", "max")


def _physpages(ct: Container) -> tuple[int, int, int]:
    version, path = limit_dir(ct, "memory")
    if version == 2:
        held = _number(path, "memory.current")
        return held // PAGE, max(_number(path, "memory.peak"), held) // PAGE, _event(path, "memory.events", "oom_kill")
    if version == 1:
        held = _number(path, "memory.usage_in_bytes")
        peak = max(_number(path, "memory.max_usage_in_bytes"), held)
        return held // PAGE, peak // PAGE, _event(path, "memory.oom_control", "oom_kill")
    return 0, 0, 0


def _kmemsize(ct: Container) -> tuple[int, int, int]:
    version, path = limit_dir(ct, "memory")
    if version == 2:
        held = _event(path, "memory.stat", "kernel")
        return held, held, 0
    if version == 1:
        held = _number(path, "memory.kmem.usage_in_bytes")
        return held, max(_number(path, "memory.kmem.max_usage_in_bytes"), held), _number(path, "memory.kmem.failcnt")
    return 0, 0, 0


def _stat_pages(ct: Container, word: str) -> tuple[int, int, int]:
    version, path = limit_dir(ct, "memory")
    if not version:
        return 0, 0, 0
    held = _event(path, "memory.stat", word) // PAGE
    return held, held, 0
