"""What a CT sees of itself in /proc: texts as proc(5) has them, from its cgroups, configuration and record.

The formulas are those of VSwap: what it cannot give back beyond RAM counts as swapped out.
"""

from __future__ import annotations

import math
import os
import time

from vz.config.units import PAGE, UNLIMITED
from vz.container.ct import Container
from vz.kernel import cgroup
from vz.kernel.files import read_text
from vz.resources import census, cgroups, usage

NO_LIMIT = 1 << 60
HZ = 100
MOST_PIDS = 1024  # looked at for the load; more are scaled up
LOAD_MINUTES = (1, 5, 15)


class Memory:
    """In bytes."""

    __slots__ = ("file", "ram", "shmem", "swap", "used")

    def __init__(self, ram: int, swap: int, used: int, file: int, shmem: int) -> None:
        self.ram, self.swap, self.used, self.file, self.shmem = ram, swap, used, file, shmem

    @property
    def held(self) -> int:
        """What cannot be given back, at most RAM."""
        return min(max(self.used - self.file, 0), self.ram)

    @property
    def swapped(self) -> int:
        return min(max(self.used - self.file - self.ram, 0), self.swap)

    @property
    def free(self) -> int:
        return self.ram - min(self.used, self.ram)

    @property
    def cached(self) -> int:
        return min(self.file, self.ram - self.held)


def host_memory() -> tuple[int, int]:
    """Return (RAM, swap) of the node in bytes."""
    fields = dict(line.split(":", 1) for line in read_text("/proc/meminfo").splitlines())
    swap = fields.get("SwapTotal", "0")  # a kernel may have none
    return int(fields["MemTotal"].split()[0]) << 10, int(swap.split()[0]) << 10


def memory(ct: Container) -> Memory:
    """Return the CT's memory; the sum of RAM and swap is the kernel's limit, their proportion the configuration's."""
    version, path = cgroups.limit_dir(ct, "memory")
    table = _table(path, "memory.stat")
    if version == 2:
        limit, held = _limit(path, "memory.max"), usage.number(path, "memory.current")
        file = table.get("active_file", 0) + table.get("inactive_file", 0) + table.get("slab_reclaimable", 0)
    elif version == 1:
        limit, held = _limit(path, "memory.limit_in_bytes"), usage.number(path, "memory.usage_in_bytes")
        file = table.get("total_active_file", 0) + table.get("total_inactive_file", 0)
    else:
        limit, held, file = NO_LIMIT, 0, 0
    host_ram, host_swap = host_memory()
    said = ct.conf.swappages if ct.conf.physpages else None
    swap = said[1] * PAGE if said and said[1] < UNLIMITED else 0
    if limit >= NO_LIMIT:
        ram, swap = host_ram, swap or host_swap
    else:
        ram = limit - swap if limit > swap else limit
        swap = swap if limit > swap else 0
    return Memory(ram, swap, held, min(file, held), table.get("shmem", table.get("total_shmem", 0)))


def meminfo(ct: Container) -> str:
    seen = memory(ct)
    rows = (
        ("MemTotal", seen.ram), ("MemFree", seen.free), ("MemAvailable", seen.free + seen.cached), ("Buffers", 0),
        ("Cached", seen.cached), ("SwapCached", 0), ("Active", seen.held), ("Inactive", seen.cached),
        ("Active(anon)", seen.held), ("Inactive(anon)", 0), ("Active(file)", 0), ("Inactive(file)", seen.cached),
        ("Unevictable", 0), ("Mlocked", 0), ("SwapTotal", seen.swap), ("SwapFree", seen.swap - seen.swapped),
        ("Dirty", 0), ("Writeback", 0), ("AnonPages", seen.held), ("Mapped", 0), ("Shmem", min(seen.shmem, seen.ram)),
        ("Slab", 0), ("SReclaimable", 0), ("SUnreclaim", 0), ("CommitLimit", seen.ram + seen.swap),
        ("Committed_AS", seen.held + seen.swapped),
    )  # fmt: skip
    return "".join(f"{name + ':':<16}{value >> 10:>8} kB\n" for name, value in rows)


def swaps(ct: Container) -> str:
    seen = memory(ct)
    text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    if seen.swap:
        text += f"{'/dev/vswap':<39} partition\t{seen.swap >> 10}\t\t{seen.swapped >> 10}\t\t-2\n"
    return text


def vmstat(ct: Container) -> str:
    seen = memory(ct)
    _, path = cgroups.limit_dir(ct, "memory")
    table = _table(path, "memory.stat")
    pages = (("nr_free_pages", seen.free), ("nr_anon_pages", seen.held), ("nr_file_pages", seen.cached))
    text = "".join(f"{name} {value // PAGE}\n" for name, value in (*pages, ("nr_shmem", seen.shmem)))
    text += "nr_dirty 0\nnr_writeback 0\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n"
    return text + "".join(
        f"{name} {table.get('total_' + name, table.get(name, 0))}\n" for name in ("pgfault", "pgmajfault")
    )


def cpu_numbers(ct: Container) -> list[int]:
    """Return the node's CPUs that stand for the CT's: as many as it may have and cpulimit fills, at least one."""
    allowed = sorted(cgroups.cpus(ct))
    limit = usage.cpu(ct)
    percent = limit[0] if limit else 0
    return allowed[: shown_cpus(len(allowed), percent)]


def shown_cpus(allowed: int, percent: int) -> int:
    """Return how many CPUs a CT sees that may use *allowed* and has *percent* of one (0: no limit)."""
    return max(1, min(allowed, math.ceil(percent / 100))) if percent else max(1, allowed)


def cpu_online(ct: Container) -> str:
    count = len(cpu_numbers(ct))
    return f"0-{count - 1}\n" if count > 1 else "0\n"


def cpuinfo(ct: Container) -> str:
    return renumbered(read_text("/proc/cpuinfo"), cpu_numbers(ct))


def renumbered(text: str, numbers: list[int]) -> str:
    """Return of a cpuinfo the blocks of CPUs *numbers*, counted from 0."""
    found: list[str] = []
    for block in text.strip().split("\n\n"):
        first, _, rest = block.partition("\n")
        name, _, value = first.partition(":")
        if name.strip() != "processor":
            found.append(block)  # arm64, s390: what holds for all
        elif int(value) in numbers:
            found.append(f"{name}: {numbers.index(int(value))}\n{rest}")
    return "\n\n".join(found) + "\n\n"


def up_s(ct: Container, now: float) -> float:
    """Return for how long the CT runs; a restored one goes on where it was."""
    record = ct.record()
    return max(now - record.started_at, 0.0) if record is not None and record.started_at else 0.0


def cpu_used_s(ct: Container) -> tuple[float, float]:
    """Return (user, system) seconds; the cgroup2 tree counts them with or without a controller."""
    table = _table(cgroups.ct_dir(ct), "cpu.stat")
    return table.get("user_usec", 0) / 1e6, table.get("system_usec", 0) / 1e6


def uptime(ct: Container) -> str:
    up = up_s(ct, time.time())
    idle = max(up * len(cpu_numbers(ct)) - sum(cpu_used_s(ct)), 0.0)
    return f"{up:.2f} {idle:.2f}\n"


def stat(ct: Container) -> str:
    now = time.time()
    count = len(cpu_numbers(ct))
    user, system = cpu_used_s(ct)
    up = up_s(ct, now)
    idle = max(up * count - user - system, 0.0)

    def row(name: str, share: int) -> str:
        used = " ".join(str(int(value * HZ / share)) for value in (user, 0, system, idle))
        return f"{name} {used} 0 0 0 0 0 0\n"

    running, _, total = tasks(ct)
    text = row("cpu ", 1) + "".join(row(f"cpu{number}", count) for number in range(count))
    text += f"intr 0\nctxt 0\nbtime {int(now - up)}\nprocesses {total}\n"
    return text + f"procs_running {max(running, 1)}\nprocs_blocked 0\n"


def tasks(ct: Container) -> tuple[int, int, int]:
    """Return (running, waiting for a disk, all) processes; of more than MOST_PIDS a part is looked at."""
    pids = census.pids(ct)
    states = [_state(pid) for pid in pids[:MOST_PIDS]]
    scale = max(len(pids) / MOST_PIDS, 1.0)
    return round(states.count("R") * scale), round(states.count("D") * scale), len(pids)


class Load:
    """The three load averages of a CT, from samples at any distance."""

    __slots__ = ("at", "values")

    def __init__(self, now: float, active: int) -> None:
        self.at = now
        self.values = [float(active)] * 3

    def sample(self, now: float, active: int) -> None:
        for place, minutes in enumerate(LOAD_MINUTES):
            decay = math.exp(-(now - self.at) / (60 * minutes))
            self.values[place] = self.values[place] * decay + active * (1 - decay)
        self.at = now


def loadavg(load: Load, running: int, total: int) -> str:
    return " ".join(f"{value:.2f}" for value in load.values) + f" {running}/{total} {total}\n"


def diskstats(ct: Container) -> str:
    """Return the CT's own transfers per disk; nothing where its cgroups do not count them."""
    version, path = cgroups.limit_dir(ct, "io")
    if version != 2:
        return ""
    text = ""
    try:
        lines = cgroup.read(path, "io.stat").splitlines()
    except OSError:
        return ""
    for line in lines:
        device, *words = line.split()
        figures = dict(word.split("=") for word in words if "=" in word)
        major, minor = device.split(":")
        name = os.path.basename(os.path.realpath(f"/sys/dev/block/{device}"))
        reads, writes = int(figures.get("rios", 0)), int(figures.get("wios", 0))
        read, written = int(figures.get("rbytes", 0)) >> 9, int(figures.get("wbytes", 0)) >> 9
        text += f"{major:>4} {minor:>7} {name} {reads} 0 {read} 0 {writes} 0 {written} 0 0 0 0\n"
    return text


def _state(pid: int) -> str:
    try:
        return read_text(f"/proc/{pid}/stat").rpartition(") ")[2][:1]
    except OSError:
        return ""


def _limit(path: str, key: str) -> int:
    try:
        text = cgroup.read(path, key)
        return NO_LIMIT if text == "max" else int(text)
    except (OSError, ValueError):
        return NO_LIMIT


def _table(path: str, key: str) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in (line.split() for line in cgroup.read(path, key).splitlines())}
    except (OSError, ValueError):
        return {}
