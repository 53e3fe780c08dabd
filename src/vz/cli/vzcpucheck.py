"""vzcpucheck: the CPU units that running CTs and the node itself were given, against the node's power."""

from __future__ import annotations

import os

from vz.cli.main import Globals
from vz.container.ct import printable
from vz.errors import VzError

USAGE = """\
Usage: vzcpucheck [-v]
  -v  each container"""
UNITS_PER_BOGOMIPS = 25
DEFAULT_UNITS = 1000


def run(argv: list[str], options: Globals) -> int:
    """vzcpucheck [-v]; 2: wrong usage."""
    if argv not in ([], ["-v"]):
        os.write(1 if argv == ["--help"] else 2, (USAGE + "\n").encode())
        return 0 if argv == ["--help"] else 2
    from vz.config.nodeconfig import load_node
    from vz.ops import nodeview
    from vz.resources import usage

    if os.geteuid() != 0:
        os.write(2, b"vzcpucheck: this needs root\n")
        return 1
    try:
        node = load_node()
        units = {0: node.number("VE0CPUUNITS")}
        for ct in nodeview.running(node):
            found = usage.cpu(ct)
            units[ct.ctid] = found[1] if found is not None else ct.conf.cpuunits or DEFAULT_UNITS
    except VzError as exc:
        os.write(2, f"{printable(str(exc))}\n".encode())
        return 1
    os.write(1, report(units, power(), bool(argv)).encode())
    return 0


def report(units: dict[int, int], node_power: int, verbose: bool) -> str:
    out = []
    if verbose:
        out += ["VEID\t\tCPUUNITS", "-" * 25]
        out += [f"{ctid}\t\t{count}" for ctid, count in units.items()]
    used = sum(units.values())
    out += [f"Current CPU utilization: {used}", f"Power of the node: {node_power}"]
    if used > node_power:
        out.append("Warning: hardware node is overcommitted")
    return "\n".join(out) + "\n"


def power() -> int:
    """Return the power of the node in CPU units: the bogomips of its CPUs, times 25."""
    total = 0.0
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip().lower() == "bogomips":
                total += float(value)
    return int(total * UNITS_PER_BOGOMIPS)
