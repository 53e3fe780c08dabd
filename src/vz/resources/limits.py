"""CPU, memory and process limits in the cgroups: each declared once with a writer per cgroup version.

What is held elsewhere (limits of processes, of namespaces) is in ``rlimits`` and ``guestlimits``.  RAM and
swap together are a hard limit of the kernel's; who slows between the two is ``vz.node.pacing``.  A limit that the
kernel cannot keep is said, not pretended.
"""

from __future__ import annotations

import errno
import os

from vz.config.units import PAGE, UNLIMITED
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import cgroup, namespaces
from vz.kernel.network import read_sysctl
from vz.resources.cgroups import ct_dir, limit_dir

DEFAULT_PIDS = 8192
PERIOD_US = 100000
PTY_DEFAULT = 1024
MIN_PTYS = 1
USER_LIMITS = (
    "max_inotify_instances max_inotify_watches max_cgroup_namespaces max_ipc_namespaces max_mnt_namespaces "
    "max_net_namespaces max_pid_namespaces max_time_namespaces max_user_namespaces max_uts_namespaces"
).split()


def apply(ct: Container, changed: set[str] | None) -> None:
    """Write the limits of *ct* to the kernel: all for None (a CT that starts) and for an empty set (one that
    runs), else those that *changed* names.

    Raises:
        VzError: the kernel refused one: CPU 2, memory and processes 1.
    """
    for attrs, writer in _WRITERS:
        if changed is None or not changed or changed & attrs:
            writer(ct, changed is None)


def warnings(ct: Container) -> list[str]:
    """Return a line for each thing that the configuration asks for and this kernel cannot keep."""
    found = []
    for controller, keys in (
        ("pids", ("NUMPROC",)),
        ("memory", ("PHYSPAGES",)),
        ("cpu", ("CPUUNITS", "CPULIMIT")),
        ("cpuset", ("CPUMASK", "NODEMASK")),
    ):
        asked = [key for key in keys if key in ct.conf.values]
        if asked and cgroup.hierarchies().version(controller) == 0:
            found.append(f"WARNING: this kernel has no {controller} controller: {', '.join(asked)} cannot be kept")
    asked = [key for key in ("IOPRIO", "IOLIMIT", "IOPSLIMIT") if key in ct.conf.values]
    if asked:
        from vz.resources import blkio

        found += [f"WARNING: {text}" for text in blkio.problems(ct, {key.lower() for key in asked})]
    return found


def pty_limit(ct: Container) -> int:
    """Return how many pseudo-terminals the CT may have: NUMPTY, or 1024."""
    value = ct.conf.numpty
    return max(MIN_PTYS, min(value[1], 1 << 20)) if value else PTY_DEFAULT


def shm_bytes(ct: Container) -> int:
    """Return the size of /dev/shm and /run from SHMPAGES; 0: the kernel's default."""
    value = _said(ct, "shmpages")
    return max(value[1], 1) * PAGE if value and value[1] < UNLIMITED else 0


def before_user_namespace(ct: Container) -> None:
    """Set what the CT's user namespace is to be born with: the sum of queued signals over all its users."""
    value = _said(ct, "numsiginfo")
    namespaces.cap_signals(value[1] if value and value[1] < UNLIMITED else 0)


def user_limits() -> dict[str, int]:
    """Return {name in /proc/sys/user: limit}: what a CT's user namespace may hold of things that the node counts.

    A quarter of the node's own limit, or half of it up to 128: no CT can use up what the node and the others need.
    """
    found = {}
    for name in USER_LIMITS:
        value = read_sysctl(f"user/{name}")
        if value.isdecimal():
            found[name] = max(int(value) // 4, min(int(value) // 2, 128))
    return found


def memory_ceiling_bytes(ct: Container) -> int | None:
    """Return RAM plus swap of the CT; nine tenths of the node's memory where nothing is said, None for unlimited."""
    ram = ct.conf.physpages
    if not ram:
        return os.sysconf("SC_PHYS_PAGES") * 9 // 10 * PAGE
    if ram[1] >= UNLIMITED:
        return None
    swap = ct.conf.swappages
    extra = swap[1] if swap and swap[1] < UNLIMITED else 0
    return int((ram[1] + extra) * PAGE)


def _write(
    ct: Container, controller: str, writes: dict[int, list[tuple[str, str | int]]], code: int, what: str
) -> None:
    version, path = limit_dir(ct, controller)
    if not version:
        return
    for key, value in writes.get(version, []):
        try:
            cgroup.write(path, key, value)
        except OSError as exc:
            raise VzError(f"Unable to set {what} to {value}: {os.strerror(exc.errno or 0)}", code) from exc


def _numproc(ct: Container, fresh: bool) -> None:
    value = ct.conf.numproc
    limit = DEFAULT_PIDS if value is None else value[1]
    text = "max" if limit >= UNLIMITED else str(limit)
    _write(ct, "pids", {1: [("pids.max", text)], 2: [("pids.max", text)]}, ExitCode.SETUBC_ERROR, "numproc")


def _memory(ct: Container, fresh: bool) -> None:
    ceiling = memory_ceiling_bytes(ct)
    version, path = limit_dir(ct, "memory")
    if not version or (ceiling is None and fresh):
        return
    try:
        if version == 2:
            if ceiling is not None and not fresh and _unreclaimable_v2(path) > ceiling:
                raise OSError(errno.EBUSY, "in use")  # the kernel would kill; version 1 refuses itself
            cgroup.write(path, "memory.max", "max" if ceiling is None else ceiling)
            if os.path.exists(f"{path}/memory.swap.max"):
                cgroup.write(path, "memory.swap.max", "max" if ceiling is None else 0)
        else:
            _memory_v1(path, -1 if ceiling is None else ceiling)
        _virtual_swap(ct, fresh)
    except OSError as exc:
        reason = "it uses more than that" if exc.errno == errno.EBUSY else os.strerror(exc.errno or 0)
        raise VzError(f"Unable to set the memory limit to {ceiling} bytes: {reason}", ExitCode.SETUBC_ERROR) from exc


def _virtual_swap(ct: Container, fresh: bool) -> None:
    """Note RAM and swap for the node daemon, which slows what grows above the first."""
    ram, swap = ct.conf.physpages, ct.conf.swappages
    size = swap[1] if ram and swap and ram[1] < UNLIMITED and swap[1] < UNLIMITED else 0
    if size or not fresh:
        from vz.resources import vswap

        vswap.mark(ct_dir(ct), ram[1] * PAGE if ram else 0, size * PAGE)


def _memory_v1(path: str, ceiling: int) -> None:
    """Set the limit of memory and of memory plus swap to one value; the second must never be below the first."""
    plain, total = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    if not os.path.exists(f"{path}/{total}"):
        cgroup.write(path, plain, ceiling)
        return
    grows = ceiling < 0 or ceiling > int(cgroup.read(path, total))
    if grows:
        cgroup.write(path, total, ceiling)
        cgroup.write(path, plain, ceiling)
        return
    before = cgroup.read(path, plain)
    cgroup.write(path, plain, ceiling)
    try:
        cgroup.write(path, total, ceiling)
    except OSError:
        cgroup.write(path, plain, before)
        raise


def _unreclaimable_v2(path: str) -> int:
    """Return the bytes that no reclaim can free: swap is off for a CT, so all but files and the kernel's caches."""
    held = dict(line.split() for line in cgroup.read(path, "memory.stat").splitlines())
    return sum(int(held.get(word, 0)) for word in ("anon", "shmem", "kernel_stack", "pagetables", "slab_unreclaimable"))


def _tcp_memory(ct: Container, fresh: bool) -> None:
    """Limit the memory of all TCP sockets, sent and received, on version 1; there it is a counter of its own."""
    version, path = limit_dir(ct, "memory")
    if version != 1 or not os.path.exists(f"{path}/memory.kmem.tcp.limit_in_bytes"):
        return
    pair = [value[1] for value in (_said(ct, "tcpsndbuf"), _said(ct, "tcprcvbuf")) if value and value[1] < UNLIMITED]
    if len(pair) == 2:
        limit = sum(pair)
    elif fresh:
        return
    else:
        limit = -1
    _write(ct, "memory", {1: [("memory.kmem.tcp.limit_in_bytes", limit)]}, ExitCode.SETUBC_ERROR, "TCP buffers")


def _guarantee(ct: Container, fresh: bool) -> None:
    """Protect vmguarpages (its barrier) from reclaim on version 2, as far as the groups above the CT's pass it on."""
    version, path = limit_dir(ct, "memory")
    value = _said(ct, "vmguarpages")
    if version != 2 or (fresh and not value):
        return
    size = "max" if value and value[0] >= UNLIMITED else value[0] * PAGE if value else 0
    own = os.path.dirname(path)
    parent = os.path.dirname(own)
    try:
        for folder in (path, own):
            cgroup.write(folder, "memory.low", size)
        words = [cgroup.read(f"{parent}/{name}", "memory.low") for name in os.listdir(parent) if name.isdigit()]
        whole = "max" if "max" in words else sum(map(int, words))
        cgroup.write(parent, "memory.low", whole)
    except OSError as exc:
        text = f"Unable to set vmguarpages: {os.strerror(exc.errno or 0)}"
        raise VzError(text, ExitCode.SETUBC_ERROR) from exc


def _said(ct: Container, attr: str) -> tuple[int, int] | None:
    """Return beancounter *attr* of the configuration; a key that is not there is not parsed."""
    if attr not in ct.conf.__dict__ and attr.upper() not in ct.conf.values:
        return None
    value: tuple[int, int] | None = getattr(ct.conf, attr)
    return value


def _cpuunits(ct: Container, fresh: bool) -> None:
    units = ct.conf.cpuunits
    if units is None:
        if fresh:
            return
        units = 1000
    shares = min(max(round(units * 1.024), 2), 262144)
    weight = min(max(round(units / 10), 1), 10000)
    _write(ct, "cpu", {1: [("cpu.shares", shares)], 2: [("cpu.weight", weight)]}, ExitCode.SETFSHD_ERROR, "cpuunits")


def _cpulimit(ct: Container, fresh: bool) -> None:
    percent = ct.conf.cpulimit or 0
    cpus = ct.conf.cpus or 0
    if cpus and (not percent or percent > cpus * 100):
        percent = cpus * 100
    if not percent and fresh:
        return
    quota = percent * PERIOD_US // 100
    v1: list[tuple[str, str | int]] = [("cpu.cfs_period_us", PERIOD_US), ("cpu.cfs_quota_us", quota if percent else -1)]
    v2: list[tuple[str, str | int]] = [("cpu.max", f"{quota if percent else 'max'} {PERIOD_US}")]
    _write(ct, "cpu", {1: v1, 2: v2}, ExitCode.SETFSHD_ERROR, "cpulimit")


def _cpuset(ct: Container, fresh: bool) -> None:
    mask, nodes, cpus = ct.conf.cpumask, ct.conf.nodemask, ct.conf.cpus or 0
    if fresh and not mask and not nodes and not cpus:
        return
    version, path = limit_dir(ct, "cpuset")
    if not version:  # built without SMP
        if (mask or "all") not in ("all", "auto"):
            raise VzError(
                f"Unable to set cpumask to {mask}: this kernel has no cpuset controller", ExitCode.SETFSHD_ERROR
            )
        return
    parent = os.path.dirname(path)
    available = cgroup.read(parent, "cpuset.cpus" if version == 1 else "cpuset.cpus.effective")
    wanted = available if mask in (None, "all", "auto") else mask
    if cpus and mask in (None, "all"):
        wanted = ",".join(str(cpu) for cpu in pick_cpus(expand_list(available), cpus, ct.ctid))
    writes: list[tuple[str, str | int]] = [("cpuset.cpus", wanted or "")]
    if nodes and nodes != "all":
        writes.append(("cpuset.mems", nodes))
    _write(ct, "cpuset", {1: writes, 2: writes}, ExitCode.SETFSHD_ERROR, "cpumask")


def _sockets(ct: Container, fresh: bool) -> None:
    pairs = {name: value for name in ("numtcpsock", "numothersock") if (value := _said(ct, name)) is not None}
    if not pairs or (fresh and all(value[1] >= UNLIMITED for value in pairs.values())):
        return
    from vz.resources import socklimits

    socklimits.apply(ct, pairs, running=not fresh)


def _io(ct: Container, fresh: bool) -> None:
    if not any(key in ct.conf.values or key.lower() in ct.conf.__dict__ for key in ("IOPRIO", "IOLIMIT", "IOPSLIMIT")):
        return
    from vz.resources import blkio

    blkio.apply(ct, running=not fresh)


def expand_list(text: str) -> list[int]:
    """Return the numbers of a list such as ``0-3,7``."""
    found: list[int] = []
    for part in text.split(","):
        if part:
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    return found


def pick_cpus(available: list[int], count: int, seed: int) -> list[int]:
    """Return *count* of the *available* CPUs, a different stretch for each CT, so that small CTs spread."""
    count = min(count, len(available))
    start = seed * count % len(available)
    return sorted((available + available)[start : start + count])


_WRITERS = (
    (frozenset(("numproc",)), _numproc),
    (frozenset(("physpages", "swappages")), _memory),
    (frozenset(("tcpsndbuf", "tcprcvbuf")), _tcp_memory),
    (frozenset(("vmguarpages",)), _guarantee),
    (frozenset(("cpuunits",)), _cpuunits),
    (frozenset(("cpulimit", "cpus")), _cpulimit),
    (frozenset(("cpumask", "nodemask", "cpus")), _cpuset),
    (frozenset(("numtcpsock", "numothersock")), _sockets),
    (frozenset(("ioprio", "iolimit", "iopslimit")), _io),
)
ATTRS = frozenset().union(*(attrs for attrs, _ in _WRITERS))
