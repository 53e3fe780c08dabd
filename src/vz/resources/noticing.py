"""What the kernel has refused a CT, slowed it for or killed in it since somebody looked last, made into events.

Whoever looks (the node daemon's worker every few seconds, ``vzctl why`` when it is asked) compares the kernel's
counters with those in ``CTID.seen`` and notes what has been added, once: the file is locked meanwhile.  Only what the
kernel counts can be noticed; docs/why.md names what it does not.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time

from vz.config.units import PAGE, UNLIMITED
from vz.container import events
from vz.container.ct import Container
from vz.kernel import cgroup
from vz.resources import usage
from vz.resources.cgroups import ct_dir, limit_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KMSG_BYTES = 8192  # the longest record of /dev/kmsg
KMSG_RECORDS = 20000
SLOWED_S = 1.0  # less than this since the last look is not worth a line
# mm/oom_kill.c, dump_oom_summary; a CT chooses the names of its groups and programs, so each end is looked for where
# nothing of that can stand
KILLED = re.compile(
    r"^oom-kill:constraint=(?P<constraint>\w+),.*?"
    r"(?:,oom_memcg=|,global_oom,task_memcg=)(?P<group>/.*),task=(?P<name>.*),pid=(?P<pid>\d+),uid=\d+$"
)
OURS, PROGRAMS, NODES = "container", "program", "node"  # whose limit it was


def counters(ct: Container) -> dict[str, float]:
    """Return the kernel's counters of what it refused, killed and slowed, by the name of the resource."""
    found: dict[str, float] = {}
    version, path = limit_dir(ct, "pids")
    if version:
        found["numproc"] = usage.event(path, "pids.events", "max")
    version, path = limit_dir(ct, "memory")
    if version:
        found["physpages"] = usage.event(path, "memory.events" if version == 2 else "memory.oom_control", "oom_kill")
        if version == 1:
            found["tcpsndbuf"] = usage.number(path, "memory.kmem.tcp.failcnt")
    version, path = limit_dir(ct, "cpu")
    if version == 2:
        found["cpulimit"] = usage.event(path, "cpu.stat", "throttled_usec") / 1e6
    elif version == 1:
        found["cpulimit"] = usage.event(path, "cpu.stat", "throttled_time") / 1e9
    if "NUMTCPSOCK" in ct.conf.values or "NUMOTHERSOCK" in ct.conf.values:
        from vz.resources import socklimits

        for name in ("numtcpsock", "numothersock"):
            counted = socklimits.counter(ct, name, UNLIMITED)
            if counted is not None:
                found[name] = counted[2]
    return found


def look(ct: Container, now: dict[str, float] | None = None) -> None:
    """Note what has been added to the counters (*now*, or as they are) of the running *ct* since the last look."""
    now = counters(ct) if now is None else now
    path = f"{events.FOLDER}/{ct.ctid}.seen"
    try:
        os.makedirs(events.FOLDER, 0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return  # a full disk, or one that cannot be written: the counters stay, the next one who looks notes it
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        run = _run_of(ct)
        before = _parse(os.read(fd, 65536))
        if before.get("run") != run:
            before = {"at": _began(ct), "counters": {}}  # another start: it began with zeros
        for name, value in now.items():
            added = value - before["counters"].get(name, 0)
            if added > 0 and (name != "cpulimit" or added >= SLOWED_S):
                events.note(ct.ctid, **_event(ct, name, added, float(before["at"])))
            elif name == "cpulimit":
                now[name] = before["counters"].get(name, 0.0)  # so that little adds up
        text = json.dumps({"run": run, "at": round(time.time(), 1), "counters": now}).encode()
        os.pwrite(fd, text.ljust(os.fstat(fd).st_size), 0)
        os.ftruncate(fd, len(text))
    except OSError:
        pass
    finally:
        os.close(fd)


def _run_of(ct: Container) -> int:
    """Return what tells this run of the CT from others: the number of its cgroup, which is never used again."""
    try:
        return os.stat(ct_dir(ct)).st_ino
    except OSError:
        return 0


def _began(ct: Container) -> float:
    """Return since when the CT runs, in seconds since 1970; 0 where that is not known."""
    try:
        return round(os.stat(f"{ct.run_dir}/record").st_mtime, 1)
    except OSError:
        return 0.0


def _parse(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
        return found if isinstance(found.get("counters"), dict) and float(found["at"]) >= 0 else {}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _event(ct: Container, name: str, added: float, since: float) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "limit", "what": name, "since": since}
    if name == "cpulimit":
        found |= {"seconds": round(added, 1), "limit": (usage.cpu(ct) or (0, 0))[0]}
        return found
    found["count"] = int(added)
    if name == "physpages":
        version, path = limit_dir(ct, "memory")
        key = "memory.max" if version == 2 else "memory.limit_in_bytes"
        try:
            word = cgroup.read(path, key)
            limit = int(word) if word.isdecimal() else 0
        except OSError:
            limit = 0
        ram, swap = ct.conf.physpages, ct.conf.swappages
        found["limit"] = limit // PAGE
        if ram and ram[1] < UNLIMITED:
            found["ram"] = ram[1]
            found["swap"] = swap[1] if swap and swap[1] < UNLIMITED else 0
        kills = killed(ct, int(added), since)
        if kills:
            found["processes"] = [process for process, _ in kills]
            found["whose"] = kills[-1][1]
    elif name == "numproc":
        found["limit"] = usage.numproc_limit(ct) or 0
    else:
        pair = getattr(ct.conf, name)
        found["limit"] = pair[1] if pair else 0
    return found


def killed(ct: Container, count: int, since: float) -> list[tuple[str, str]]:
    """Return (process, whose limit it was) of the CT's last *count* that the kernel's log says were killed.

    *since*: seconds since 1970 before which it is another run's, or has been told.
    """
    earliest_us = (time.monotonic() - (time.time() - since) - 1.0) * 1e6 if since else 0.0
    found: list[tuple[str, str]] = []
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        for _ in range(KMSG_RECORDS):
            try:
                record = os.read(fd, KMSG_BYTES)
            except BlockingIOError:
                break
            except BrokenPipeError:  # records were overwritten before they were read: go on with the oldest
                continue
            if b";oom-kill:" in record:
                kill = parse_kill(record.decode("utf-8", "replace"), f"/{ct.node.cgroup_parent}/{ct.ctid}")
                if kill is not None and kill[0] >= earliest_us:
                    found.append(kill[1:])
    except OSError:
        pass
    finally:
        os.close(fd)
    return found[-min(count, 5) :]


def parse_kill(record: str, top: str) -> tuple[int, str, str] | None:
    """Return (time in microseconds, process, whose limit) of a *record* of /dev/kmsg; None: not of the CT at *top*.

    Only the beginning of a path is trusted: below it the CT has named the groups.
    """
    head, _, text = record.partition(";")
    match = KILLED.match(text.partition("\n")[0])
    if match is None or not head.split(",")[2].isdecimal():
        return None
    group = match["group"] + ","
    if match["constraint"] != "CONSTRAINT_MEMCG":
        whose = NODES
    elif group.startswith((f"{top},", f"{top}/")):
        whose = OURS if group.startswith((f"{top},", f"{top}/ct,")) else PROGRAMS
    else:  # a limit above the containers
        above, _, group = group.partition(",task_memcg=")
        whose = NODES
        if not f"{top}/".startswith(f"{above.rstrip('/')}/"):
            return None
    if not group.startswith((f"{top},", f"{top}/")):
        return None
    name = "".join(char if char.isprintable() else "?" for char in match["name"])
    return int(head.split(",")[2]), f"{name} (pid {match['pid']})", whose
