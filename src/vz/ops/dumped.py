"""What a dump says of itself, and whether this node can bring it back."""

from __future__ import annotations

import os
import time

from vz.checkpoint.criu import version
from vz.container.ct import Container
from vz.container.record import Record
from vz.disk import layout, overlay
from vz.kernel.files import read_text
from vz.kernel.process import which
from vz.net import claims

# since Linux 6.16 older ones fail at every socket of the network
LEAST_CRIU = (((6, 16), (4, 2)),)
# what criu calls: the contents of tmpfs go through a tar.gz, addresses and routes through ip(8)
TOOLS = ("tar", "gzip", "ip")
# (list of the tables of the old kind that a network namespace has, what criu saves and puts back such rules with)
OLD_TABLES = (("ip_tables_names", "iptables"), ("ip6_tables_names", "ip6tables"))


def facts(ct: Container, record: Record, serial: str) -> dict[str, str | int]:
    """Return the lines of ``info`` for a dump that is being made."""
    system = os.uname()
    name = layout.layout_name(ct)
    return {
        "serial": serial,
        "ctid": ct.ctid,
        "made": int(time.time()),
        "machine": system.machine,
        "kernel": system.release,
        "criu": ".".join(map(str, version())),
        "idmap_base": record.idmap_base,
        "idmap_count": record.idmap_count,
        "cgroup_parent": ct.node.cgroup_parent,
        "layout": name,
        "digest": overlay.lower_digest(ct.private) if name == "overlay" else "",
        "private": ct.private,
        "configured": " ".join(ct.addresses()),
        "addresses": " ".join(claims.read_veip(ct.ctid)),
    }


def addresses(ct: Container, said: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return (the addresses that the CT had, those that it is to have): what was set live stays, what was saved since
    comes."""
    had = said.get("addresses", "").split()
    wanted = had if said.get("configured", "").split() == ct.addresses() else ct.addresses()
    return had, wanted


def refusals(ct: Container, said: dict[str, str], *, any_id: bool = False) -> tuple[list[str], list[str]]:
    """Return (why the dump that says *said* cannot be restored here, what may go wrong)."""
    refused, doubtful = [], []
    system = os.uname()
    if said.get("ctid") != str(ct.ctid) and not any_id:
        refused.append(f"it is a dump of container {said.get('ctid')}")
    if said.get("machine") != system.machine:
        refused.append(f"it was made on {said.get('machine')}, this is {system.machine}")
    ours = version()
    theirs = numbers(said.get("criu", ""))
    if ours < theirs:
        words = ".".join(map(str, ours))
        refused.append(f"it was made by criu {said['criu']}, this is criu {words}: install {said['criu']} or newer")
    refused += old_criu(ours)
    if said.get("kernel") != system.release:
        doubtful.append(f"the dump was made under Linux {said.get('kernel')}, this is {system.release}")
    name = layout.layout_name(ct)
    if said.get("layout") != name:
        refused.append(f"the container's layout was {said.get('layout')} then and is {name} now")
    elif name == "overlay" and said.get("digest") != overlay.lower_digest(ct.private):
        refused.append("the container stands on another template than it did then")
    return refused, doubtful


def old_criu(ours: tuple[int, ...]) -> list[str]:
    """Return why criu of version *ours* cannot work on this kernel; empty when it can."""
    running = numbers(os.uname().release)
    return [
        f"criu {'.'.join(map(str, ours))} is too old for Linux {os.uname().release}: "
        f"{'.'.join(map(str, least))} is needed (tools/install-criu)"
        for kernel, least in LEAST_CRIU
        if running >= kernel and ours < least
    ]


def tools(record: Record) -> list[str]:
    """Return the programs that criu calls for a dump or restore of this CT."""
    found = list(TOOLS)
    for table, program in OLD_TABLES:
        try:
            if read_text(f"/proc/{record.init_pid}/net/{table}"):
                found.append(f"{program}-legacy")
        except OSError:
            pass  # a kernel without
    return found


def missing(programs: list[str]) -> list[str]:
    """Return those of *programs* that this node has not; ``iptables-legacy`` may be just iptables where that is old."""
    return [program for program in programs if not _is_there(program)]


def _is_there(program: str) -> bool:
    try:
        if program.endswith("-legacy"):
            for name in (f"{program}-restore", f"{program.removesuffix('-legacy')}-restore"):
                try:
                    return "nft" not in os.path.realpath(which(name))
                except FileNotFoundError:
                    continue
            return False
        which(program)
    except FileNotFoundError:
        return False
    return True


def memory_bytes(pids: list[int]) -> int:
    """Return about how much the images of *pids* take: their anonymous pages and those of tmpfs."""
    total = 0
    for pid in pids:
        try:
            lines = read_text(f"/proc/{pid}/status").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return total


def lacks_space(path: str, pids: list[int]) -> list[str]:
    """Return a line when the memory of *pids* does not fit where the dump *path* is to be."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    needed = memory_bytes(pids)
    if needed <= free:
        return []
    return [f"{folder} has {free >> 20} MB free, at least {needed >> 20} MB are needed: --dumpfile puts it elsewhere"]


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers at the start of a version: "6.18.0-amd64" → (6, 18, 0)."""
    found = []
    for word in text.split("."):
        digits = ""
        for char in word:
            if not char.isdecimal():
                break
            digits += char
        if not digits:
            break
        found.append(int(digits))
        if digits != word:
            break
    return tuple(found)
