"""User beancounters of a running CT: held, maxheld, barrier, limit, failcnt, and how well each limit is kept.

Sources: the cgroups (processes, memory), a census of the processes, the network namespace.  What the kernel does not
count has failcnt 0; where it keeps no maximum, maxheld is the largest value that was read, kept in /run/vz/CTID/ub.
"""

from __future__ import annotations

import os

from vz.config import ubc
from vz.config.units import PAGE, UNLIMITED
from vz.container.ct import Container
from vz.kernel import cgroup
from vz.resources import ubfile, usage, vswap
from vz.resources.cgroups import limit_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.resources.census import Census
    from vz.resources.netcount import NetCount

# how well a limit is kept on this kernel
ENFORCED = "enforced"  # the kernel refuses what goes beyond it
APPROXIMATE = "approximate"  # each process alone, or a part of what is counted, is held to it
COUNTED = "counted"  # shown, and nothing more
KERNEL_STACK = 16 << 10

_FROM_CENSUS = frozenset("privvmpages vmguarpages lockedpages numfile numsiginfo numflock".split())
_FROM_NETWORK = frozenset("numtcpsock numothersock tcpsndbuf tcprcvbuf dgramrcvbuf othersockbuf numiptent".split())


class Counter:
    """One row, in the counter's own unit."""

    __slots__ = ("barrier", "failcnt", "held", "limit", "maxheld")

    def __init__(self, held: int, maxheld: int, barrier: int, limit: int, failcnt: int) -> None:
        self.held = held
        self.maxheld = maxheld
        self.barrier = barrier
        self.limit = limit
        self.failcnt = failcnt

    def fields(self) -> tuple[int, int, int, int, int]:
        return self.held, self.maxheld, self.barrier, self.limit, self.failcnt


class Reading:
    """The beancounters of one CT at one time; each source is looked at once, when a counter of its is asked for.

    ``keep`` writes new maxima down.
    """

    __slots__ = ("_census", "_kept", "_limits", "_memory", "_network", "_new", "ct")

    def __init__(self, ct: Container) -> None:
        self.ct = ct
        self._kept = ubfile.read(ct.ctid)
        self._limits: dict[str, tuple[int, int]] | None = None
        self._memory: dict[str, int] | None = None
        self._census: Census | None = None
        self._network: NetCount | None = None
        self._new: dict[str, int] = {}

    def counter(self, name: str) -> Counter:
        """Return the row of counter *name*."""
        held, peak, failcnt = self._now(name)
        kept = self._kept.get(name)
        before = kept.maxheld if kept else 0
        most = max(held, peak, before)
        if most > before:
            self._new[name] = most
        barrier, limit = self.limits(name)
        return Counter(held, most, barrier, limit, failcnt)

    def all(self) -> dict[str, Counter]:
        """Return every row, by name."""
        return {name: self.counter(name) for name in ubc.NAMES}

    def keep(self) -> None:
        """Write down the maxima of what was asked for."""
        if self._new:
            ubfile.raise_maxima(self.ct.ctid, self._new)
            self._new = {}

    def limits(self, name: str) -> tuple[int, int]:
        """Return (barrier, limit) of *name* as they are in force; those of the conf for a CT that noted none."""
        if name == "numproc":  # there always is one
            limit = usage.numproc_limit(self.ct)
            if limit is not None:
                return limit, limit
        kept = self._kept.get(name)
        if kept is not None and kept.limits is not None:
            return kept.limits
        if self._limits is None:
            self._limits = ubc.effective(self.ct.conf)
        return self._limits[name]

    def _now(self, name: str) -> tuple[int, int, int]:
        """Return (held, the kernel's own maximum or 0, failcnt)."""
        if name in _FROM_CENSUS:
            return self._of_processes(name), 0, 0
        if name in ("numtcpsock", "numothersock"):
            return self._sockets(name)
        if name in _FROM_NETWORK:
            return self._of_network(name), 0, self._tcp_failures(name)
        if name == "numpty":
            from vz.resources import census

            return census.terminals(self.ct.init_pid()), 0, 0
        if name == "swappages":
            return self._swap_pages(), 0, 0
        if name == "oomguarpages":
            held, peak, _ = usage.counter(self.ct, "physpages")
            return held, peak, usage.counter(self.ct, "physpages")[2]
        if name == "dcachesize":
            return self._dcache_bytes(), 0, 0
        return usage.counter(self.ct, name)

    def _of_processes(self, name: str) -> int:
        if self._census is None:
            from vz.resources import census

            self._census = census.take(self.ct)
        if name in ("privvmpages", "vmguarpages"):
            return (self._census.data_kb << 10) // PAGE
        if name == "lockedpages":
            return (self._census.locked_kb << 10) // PAGE
        if name == "numfile":
            return self._census.files
        return self._census.signals if name == "numsiginfo" else self._census.locks

    def _sockets(self, name: str) -> tuple[int, int, int]:
        """Return what the CT's own programs have counted, where it has them; all kinds of other sockets together."""
        held, peak, failed = self._of_network(name), 0, 0
        limit = self.limits(name)[1]
        if limit < UNLIMITED:
            from vz.resources import socklimits

            found = socklimits.counter(self.ct, name, limit)
            if found is not None:
                failed = found[2]
                if name == "numtcpsock":
                    held, peak = found[0], found[1]
        return held, peak, failed

    def _of_network(self, name: str) -> int:
        if self._network is None:
            from vz.resources import netcount

            self._network = netcount.take(self.ct.init_pid())
        if name == "numtcpsock":
            return self._network.tcp
        if name == "numothersock":
            return max(self._network.used - self._network.tcp, 0)
        value: int = getattr(self._network, name)
        return value

    def _tcp_failures(self, name: str) -> int:
        """Version 1 counts refused TCP memory, of both directions together."""
        version, path = limit_dir(self.ct, "memory")
        if version != 1 or name not in ("tcpsndbuf", "tcprcvbuf"):
            return 0
        return usage.number(path, "memory.kmem.tcp.failcnt")

    def _statistics(self) -> dict[str, int]:
        if self._memory is None:
            version, path = limit_dir(self.ct, "memory")
            try:
                self._memory = usage.table(path, "memory.stat") if version else {}
            except OSError:
                self._memory = {}
        return self._memory

    def _swap_pages(self) -> int:
        """Return what is above RAM of memory that no reclaim could free: virtual swap, kept in RAM, and real swap."""
        ram, swap = self.limits("physpages")[1], self.limits("swappages")[1]
        if ram >= UNLIMITED:
            return 0
        memory = self._statistics()
        version = limit_dir(self.ct, "memory")[0]
        fixed = vswap.fixed_bytes(version, memory) + memory.get("total_swap", 0)
        return min(max(-(-fixed // PAGE) - ram, 0), swap)

    def _dcache_bytes(self) -> int:
        """Return reclaimable kernel memory; a guess on version 1, which tells the whole: all but the stacks."""
        version, path = limit_dir(self.ct, "memory")
        if version == 2:
            return self._statistics().get("slab_reclaimable", 0)
        kernel = usage.number(path, "memory.kmem.usage_in_bytes") if version else 0
        return max(kernel - usage.counter(self.ct, "numproc")[0] * KERNEL_STACK, 0)


def kept_how(name: str) -> str:
    """Return ENFORCED, APPROXIMATE or COUNTED: what a limit of *name* is worth on this kernel."""
    places = cgroup.hierarchies()
    if name == "numproc":
        return ENFORCED if places.version("pids") else COUNTED
    if name in ("physpages", "swappages"):
        return ENFORCED if places.version("memory") else COUNTED
    if name in ("numtcpsock", "numothersock"):
        from vz.resources import socklimits

        return APPROXIMATE if socklimits.available() else COUNTED
    if name == "vmguarpages":
        return APPROXIMATE if places.version("memory") == 2 else COUNTED
    return APPROXIMATE if name in APPROXIMATELY else COUNTED


# what of each is kept; the rest of the beancounters is counted only
APPROXIMATELY = {
    "lockedpages": "each process alone is held to it (RLIMIT_MEMLOCK)",
    "privvmpages": "each process alone is held to it (RLIMIT_DATA)",
    "numfile": "each process alone is held to it (RLIMIT_NOFILE)",
    "numsiginfo": "each user alone is held to it (RLIMIT_SIGPENDING)",
    "shmpages": "System V shared memory and /dev/shm are each held to it, other tmpfs are not",
    "numpty": "the devpts at /dev/pts is held to it; the root of the container can mount it anew",
    "numtcpsock": "socket(2) is refused beyond it (ENOBUFS), connections that a listener takes are not",
    "numothersock": "UDP and raw sockets are refused beyond it (ENOBUFS), Unix and netlink sockets are not",
    "tcpsndbuf": "each socket alone is held to it; on cgroup version 1 tcpsndbuf and tcprcvbuf together, too",
    "tcprcvbuf": "each socket alone is held to it; on cgroup version 1 tcpsndbuf and tcprcvbuf together, too",
    "vmguarpages": "its barrier is spared when the node reclaims memory, as long as others have some",
}


def not_kept(limits: dict[str, tuple[int, int]]) -> list[str]:
    """Return which of *limits* this kernel only counts, in the order of the rows; unlimited is none."""
    names = [
        name
        for name in ubc.NAMES
        if name in limits and (0 < limits[name][0] < UNLIMITED or limits[name][1] < UNLIMITED)
    ]
    return [name for name in names if kept_how(name) == COUNTED]


def node_counters() -> dict[str, int]:
    """Return what the whole node holds of each counter that it can be asked for: processes, memory, files, sockets."""
    memory = _fields("/proc/meminfo", 1024)
    stat = _fields("/proc/net/sockstat", 1)
    found = dict.fromkeys(ubc.NAMES, 0)
    found["kmemsize"] = sum(memory.get(word, 0) for word in ("Slab", "KernelStack", "PageTables", "Percpu"))
    found["lockedpages"] = memory.get("Mlocked", 0) // PAGE
    found["privvmpages"] = found["vmguarpages"] = memory.get("Committed_AS", 0) // PAGE
    found["shmpages"] = memory.get("Shmem", 0) // PAGE
    used = memory.get("MemTotal", 0) - memory.get("MemFree", 0)
    swapped = memory.get("SwapTotal", 0) - memory.get("SwapFree", 0)
    found["physpages"] = used // PAGE
    found["oomguarpages"] = (used + swapped) // PAGE
    found["swappages"] = swapped // PAGE
    found["dcachesize"] = memory.get("SReclaimable", 0)
    found["numproc"] = _processes()
    found["numfile"] = int(_text("/proc/sys/fs/file-nr").split()[0] or 0)
    found["numpty"] = int(_text("/proc/sys/kernel/pty/nr") or 0)
    found["numflock"] = sum(1 for line in _text("/proc/locks").splitlines() if "->" not in line)
    found["numtcpsock"] = stat.get("TCP", 0)
    found["numothersock"] = max(stat.get("sockets", 0) - found["numtcpsock"], 0)
    return found


def _processes() -> int:
    word = _text("/proc/loadavg").split()[3]
    return int(word.partition("/")[2])


def _fields(path: str, unit: int) -> dict[str, int]:
    """Return {name: number} of ``Name: 12 kB`` and ``TCP: inuse 5 …`` lines."""
    found = {}
    for line in _text(path).splitlines():
        name, _, rest = line.partition(":")
        words = [word for word in rest.split() if word.isdecimal()]
        if words:
            found[name] = int(words[0]) * unit
    return found


def _text(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
