"""The kernel's counters of what it has refused a CT, killed in it and slowed it for."""

from __future__ import annotations

from vz.config.units import UNLIMITED
from vz.container.ct import Container
from vz.resources import usage
from vz.resources.cgroups import limit_dir


def counters(ct: Container) -> dict[str, float]:
    """Return them by the name of the resource, cpulimit in seconds; one that cannot be read now is left out."""
    found: dict[str, float] = {}

    def count(name: str, path: str, key: str, word: str, unit: float = 1) -> None:
        try:
            found[name] = usage.table(path, key).get(word, 0) / unit
        except (OSError, ValueError):
            pass

    version, path = limit_dir(ct, "pids")
    if version:
        count("numproc", path, usage.refusals(path), "max")
    version, path = limit_dir(ct, "memory")
    if version == 2:
        count("physpages", path, "memory.events", "oom_kill")
    elif version == 1:
        count("physpages", path, "memory.oom_control", "oom_kill")
        found["tcpsndbuf"] = usage.number(path, "memory.kmem.tcp.failcnt")
    version, path = limit_dir(ct, "cpu")
    if version == 2:
        count("cpulimit", path, "cpu.stat", "throttled_usec", 1e6)
    elif version == 1:
        count("cpulimit", path, "cpu.stat", "throttled_time", 1e9)
    if "NUMTCPSOCK" in ct.conf.values or "NUMOTHERSOCK" in ct.conf.values:
        from vz.resources import socklimits

        for name in ("numtcpsock", "numothersock"):
            counted = socklimits.counter(ct, name, UNLIMITED)
            if counted is not None:
                found[name] = counted[2]
    return found
