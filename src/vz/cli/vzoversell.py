"""vzoversell: how much RAM and swap of the node is promised to running containers, and what they make of it."""

from __future__ import annotations

import os

from vz.cli.main import Globals
from vz.cli.vzcfgvalidate import host_memory
from vz.config.units import PAGE, UNLIMITED
from vz.container.ct import printable
from vz.errors import VzError
from vz.resources import proctext
from vz.resources.proctext import Row

USAGE = """\
Usage: vzoversell [FILE]
  FILE  in place of this node's containers: a /proc/bc/resources that was saved; -: standard input

In Mbytes.  Flags: U, RAM or swap without limit, which counts as none; R, more than nine tenths of the RAM in use;
S, swap in use; f, F: RAM, swap has been refused."""
COUNTERS = (("RAM", "physpages", "f"), ("Swap", "swappages", "F"))
MB = 1 << 20
HELD, MAXHELD, LIMIT, FAILCNT = 0, 1, 3, 4


def run(argv: list[str], options: Globals) -> int:
    """vzoversell [FILE]; 1 for anything wrong."""
    if len(argv) > 1 or argv[:1] in (["-h"], ["--help"]) or any(word.startswith("--") for word in argv):
        asked = argv in (["-h"], ["--help"])
        os.write(1 if asked else 2, (USAGE + "\n").encode())
        return 0 if asked else 1
    try:
        blocks = from_file(argv[0]) if argv else from_node()
    except (VzError, OSError, ValueError) as exc:
        text = str(exc.strerror) if isinstance(exc, OSError) and argv else str(exc)
        text = f"{argv[0]}: {text}" if argv else text
        os.write(2, f"vzoversell: {printable(text)}\n".encode())
        return 1
    ram, swap = host_memory()
    os.write(1, report(blocks, ram, swap).encode())
    return 0


def from_node() -> dict[int, dict[str, Row]]:
    """Return the rows of this node's running CTs.  VzError: no root."""
    if os.geteuid() != 0:
        raise VzError("this needs root")
    from vz.config.nodeconfig import load_node
    from vz.ops import nodeview

    return nodeview.read_all(load_node())


def from_file(name: str) -> dict[int, dict[str, Row]]:
    """Return the rows of a saved /proc/bc/resources or /proc/user_beancounters, without the node's own."""
    with open(0 if name == "-" else name, "rb") as file:
        blocks = proctext.parse(file.read().decode("utf-8", "replace"))
    found = {ctid: rows for ctid, rows in blocks.items() if ctid and all(key in rows for _, key, _ in COUNTERS)}
    if not found and any(blocks):
        raise ValueError("no swappages in it: not of a kernel with VSwap")
    return found


def report(blocks: dict[int, dict[str, Row]], ram: int, swap: int) -> str:
    """Return the text; *ram* and *swap* are the node's, in bytes."""
    titles = "".join(f"{title + ' (MB)':^31}" for title, _, _ in COUNTERS)
    out = [
        f"{'':10} {titles}".rstrip(),
        f"{'CTID':>10} " + f"{'used':>8}{'peak':>8}{'limit':>8}{'fails':>7}" * 2 + "  Flags",
    ]
    sums = [[0, 0, 0, 0], [0, 0, 0, 0]]
    for ctid, rows in sorted(blocks.items()):
        words, flags = [], ""
        for place, (title, name, failed) in enumerate(COUNTERS):
            row = rows[name]
            limit = row[LIMIT] * PAGE if row[LIMIT] < UNLIMITED else None
            values = [row[HELD] * PAGE, row[MAXHELD] * PAGE, limit or 0, row[FAILCNT]]
            sums[place] = [before + value for before, value in zip(sums[place], values, strict=True)]
            words.append(_cells(values, "-" if limit is None else ""))
            flags += _flags(title, values, limit, failed)
        out.append(f"{ctid:>10} {''.join(words)}  {''.join(sorted(set(flags), key='RUSfF'.index))}".rstrip())
    out.append(f"{'TOTAL':>10} {''.join(_cells(values, '') for values in sums)}")
    promised = [sums[0][2], sums[1][2]]
    for title, whole, given in (
        ("RAM", ram, promised[0]),
        ("Swap", swap, promised[1]),
        ("RAM+Swap", ram + swap, sum(promised)),
    ):
        out.append(
            f"{title:<10} available: {whole // MB}  allocated: {given // MB}  oversell: {_percent(given, whole)}"
        )
    return "\n".join(out) + "\n"


def _flags(title: str, values: list[int], limit: int | None, failed: str) -> str:
    found = "U" if limit is None else ""
    if title == "RAM" and limit and values[HELD] * 10 > limit * 9:
        found += "R"
    if title == "Swap" and values[HELD]:
        found += "S"
    return found + (failed if values[-1] else "")


def _cells(values: list[int], limit: str) -> str:
    used, peak, most, fails = values
    return f"{used // MB:>8}{peak // MB:>8}{limit or str(most // MB):>8}{fails:>7}"


def _percent(given: int, whole: int) -> str:
    """Return how much more than *whole* was given away; below it, 0%."""
    return f"{max(given - whole, 0) * 100 // whole}%" if whole else ("0%" if not given else "n/a")
