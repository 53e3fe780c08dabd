"""What a CT finds on another node beside space for its files: memory, criu's tools, neighbours, the time of day.

``of_ct`` is what its own node says of it, ``check_*`` what the destination finds of that in itself.
"""

from __future__ import annotations

import os
import time

from vz.config.nodeconfig import NodeConfig
from vz.config.units import PAGE, UNLIMITED
from vz.container.ct import Container, printable
from vz.container.record import Record
from vz.kernel.files import read_text
from vz.kernel.network import device_address
from vz.kernel.process import which
from vz.kernel.rtnetlink import Route
from vz.net import carried, firewall, uplinks
from vz.ops import dumped
from vz.ops.migrate.errors import IP_IN_USE, NOT_RUNNING, START_FAILED
from vz.ops.mount import HOST_MOUNT
from vz.resources import cgroups, usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vz.net.neighbours import Probe

RESERVE_BYTES = 128 << 20  # of memory, left free on the destination
NEIGHBOURS_S = 0.05  # how long a neighbour may take for its answer: nobody waits for a start here
CLOCK_S = 2.0  # so far apart two clocks may be without a word
SAMPLES = 3


def of_ct(ct: Container, record: Record) -> dict[str, Any]:
    """Return what a node that is to restore the running *ct* has to have, beside what criu itself wants."""
    limit = ct.conf.physpages
    return {
        "ram": resident_bytes(ct),
        "ram_limit": limit[1] * PAGE if limit is not None and limit[1] < UNLIMITED else 0,
        "tools": dumped.tools(record),
        "rules": has_rules(record),
        "mounts": [item.target for item in record.externals if item.key.startswith(HOST_MOUNT)],
    }


def resident_bytes(ct: Container) -> int:
    """Return the memory that a CT needs to be what it is now: its own pages and those of tmpfs, swapped out or not."""
    version, path = cgroups.limit_dir(ct, "memory")
    if not version:
        return dumped.memory_bytes(cgroups.pids(ct))
    words = ("rss", "shmem", "swap") if version == 1 else ("anon", "shmem")
    total = sum(usage.event(path, "memory.stat", word) for word in words)
    return total + (usage.number(path, "memory.swap.current") if version == 2 else 0)


def has_rules(record: Record) -> bool:
    """Tell whether the CT has nftables rules of its own."""
    try:
        return bool(carried.in_netns(record.init_pid, lambda: firewall.dump(firewall.save())))
    except OSError:
        return False


def own_macs() -> list[str]:
    """Return the addresses by which this node answers its neighbours, for its CTs too."""
    found = set()
    with Route() as sock:
        for uplink in uplinks.uplinks(sock):
            try:
                found.add(device_address(uplink.name).hex())
            except OSError:
                continue  # gone since
    return sorted(found)


# -- on the destination ------------------------------------------------------------------------------------------------


def check_memory(live: dict[str, Any], problem: Any) -> None:
    """Compare what the CT holds, and what it may, with this node's memory."""
    fields = meminfo()
    free = fields.get("MemAvailable", 0) + fields.get("SwapFree", 0)
    wanted = live["ram"] + RESERVE_BYTES
    if wanted > free:
        problem(
            START_FAILED,
            f"the destination node has {free >> 20} MB of memory and swap free, the container needs {wanted >> 20} MB "
            f"({RESERVE_BYTES >> 20} MB of it stay free)",
            "memory",
        )
    if live["ram_limit"] > fields.get("MemTotal", 0):
        problem(
            START_FAILED,
            f"the container may use {live['ram_limit'] >> 20} MB of memory, the destination node has "
            f"{fields.get('MemTotal', 0) >> 20} MB: set --ram to less",
            "memory",
        )


def meminfo() -> dict[str, int]:
    """Return the lines of /proc/meminfo in bytes; see proc(5)."""
    lines = [line.split() for line in read_text("/proc/meminfo").splitlines()]
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if words[2:] == ["kB"]}


def check_tools(live: dict[str, Any], problem: Any) -> None:
    """Look for the programs that criu calls, and for a packet filter where the CT has rules."""
    for program in dumped.missing([str(name) for name in live["tools"]]):
        problem(NOT_RUNNING, f"{program} is not installed on the destination node: criu needs it for the restore")
    if live["rules"] and not firewall.is_there():
        problem(NOT_RUNNING, "the kernel of the destination node has no nftables for the container's packet filter")


def ask_neighbours(node: NodeConfig, addresses: list[str], macs: list[str]) -> Probe | None:
    """Ask this node's neighbours for *addresses*; the source, which answers for a CT that it runs, has *macs*."""
    from vz import net

    known = frozenset(bytes.fromhex(mac) for mac in macs)
    return net.ask_neighbours(node, addresses, known=known, wait_s=NEIGHBOURS_S)


def check_neighbours(probe: Probe | None, problem: Any) -> None:
    """Name each address that somebody has who is neither of the two nodes."""
    if probe is None:
        return
    for address, mac in sorted(probe.answers().items()):
        problem(
            IP_IN_USE,
            f"address {address} is in use by another host of the destination node's network: {mac} answered",
            "address",
        )
    probe.close()


# -- the time of day ---------------------------------------------------------------------------------------------------


def clock_offset(ask: Callable[[], Any], now: Callable[[], float] = time.time) -> tuple[float, float] | None:
    """Return how far the other clock is ahead and how sure that is, both in seconds; None where it tells no time.

    *ask* returns the other node's time.  Of some questions the one with the shortest way there and back counts: its
    answer was given within it, most likely in the middle.
    """
    best: tuple[float, float] | None = None
    for _ in range(SAMPLES):
        before = now()
        theirs = ask()
        after = now()
        if not isinstance(theirs, (int, float)):
            return None
        unsure = (after - before) / 2
        if best is None or unsure < best[1]:
            best = theirs - (before + after) / 2, unsure
    return best


def clock_warning(measured: tuple[float, float] | None) -> str:
    """Return a line for two clocks that differ by more than the measurement and CLOCK_S explain; else ""."""
    if measured is None:
        return ""
    offset, unsure = measured
    if abs(offset) - unsure <= CLOCK_S:
        return ""
    way = "ahead of" if offset > 0 else "behind"
    return (
        f"the clock of the destination node is {abs(offset):.0f} s {way} this node's: file times, cron and TLS see the "
        "time of day jump (timers do not): let both nodes keep time by NTP"
    )


# -- what no destination is asked for ----------------------------------------------------------------------------------


def missing_here() -> list[str]:
    """Return a line for each program that this node lacks to send a CT anywhere."""
    found = []
    for program, package in (("ssh", "openssh-client"), ("rsync", "rsync")):
        try:
            which(program)
        except FileNotFoundError:
            found.append(f"{program} is not installed: install {package}")
    return found


def wanted_there(facts: dict[str, Any]) -> list[str]:
    """Return what another node must have for the CT of *facts*, a line each."""
    live = facts["live"]
    found = [
        f"a processor with all that this one can do ({len(live['cpu'])} features), {os.uname().machine}",
        f"criu {'.'.join(map(str, live['criu']))} or newer; {', '.join(['rsync', 'nft', *live['tools']])}",
        f"{(live['ram'] + RESERVE_BYTES) >> 20} MB of memory free",
        f"{facts['size'] >> 20} MB for its files, {live['memory'] >> 20} MB for its memory where dumps go",
    ]
    if live["ram_limit"]:
        found.append(f"{live['ram_limit'] >> 20} MB of memory in all: its limit")
    if facts["digest"]:
        found.append(f"template {facts['template'] or facts['digest']}, or {facts['template_size'] >> 20} MB for it")
    found += [f"address {address}, which nobody else has" for address in facts["addresses"]]
    found += [f"network device {device}" for device in facts["bridges"]]
    found += [f"device /dev/{device}" for device in facts["devnodes"]]
    found += [f"a mount script that mounts {printable(target)}" for target in live["mounts"]]
    return found


def mount_warning(live: dict[str, Any]) -> str:
    """Return a line about what mount scripts of this node have mounted in the CT, "" when there is nothing."""
    if not live["mounts"]:
        return ""
    return (
        f"mounted by a mount script of this node: {' '.join(map(printable, live['mounts']))}: the files there are not "
        "copied, a script of the destination node has to mount the like"
    )
