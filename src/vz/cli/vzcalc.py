"""vzcalc: which share of the node one CT uses, was promised, and may take at most."""

from __future__ import annotations

import os

from vz.cli.main import Globals
from vz.cli.vzcfgvalidate import host_memory
from vz.config import ubc
from vz.container.ct import Container, find, load, printable
from vz.errors import VzError
from vz.resources import commitment
from vz.resources.commitment import Node, Share
from vz.resources.proctext import Row

USAGE = "Usage: vzcalc [-v] CTID|NAME"
HEADER = "Resource     Current(%)  Promised(%)  Max(%)"


def run(argv: list[str], options: Globals) -> int:
    """vzcalc [-v] CTID; 1 for anything wrong."""
    verbose = "-v" in argv
    words = [word for word in argv if word != "-v"]
    if len(words) != 1 or words[0].startswith("-"):
        os.write(1 if argv == ["--help"] else 2, (USAGE + "\n").encode())
        return 0 if argv == ["--help"] else 1
    from vz.config.nodeconfig import load_node

    try:
        if os.geteuid() != 0:
            raise VzError("vzcalc: this needs root")
        ct = load(find(words[0]), load_node())
        rows = rows_of(ct)
    except VzError as exc:
        os.write(2, f"{printable(str(exc))}\n".encode("utf-8", "surrogateescape"))
        return 1
    node = Node(*host_memory(), task_limit())
    os.write(1, report(commitment.share(rows, node), rows["numproc"], node, ct.is_running(), verbose).encode())
    return 0


def rows_of(ct: Container) -> dict[str, Row]:
    """Return the CT's beancounters; of a stopped one the limits of its conf."""
    from vz.ops import nodeview

    if ct.is_running():
        return nodeview.read(ct)
    return {name: (0, 0, *pair, 0) for name, pair in ubc.effective(ct.conf).items()}


def report(share: Share, processes: Row, node: Node, running: bool, verbose: bool) -> str:
    """Return the table; *processes* is the row of numproc."""
    low_use, low_promise, ram_use, swap_use, swap_promise, alloc_use, alloc_promise, alloc_limit = (
        commitment.percent(value, whole) for value, whole in zip(share.values, commitment.capacity(node))
    )
    out = [HEADER]
    if verbose:
        out += [
            _line("Low Mem", low_use if running else None, low_promise, low_promise),
            _line("Total RAM", ram_use if running else None, None, None),
            _line("Mem + Swap", swap_use if running else None, swap_promise, None),
            _line("Alloc. Mem", alloc_use if running else None, alloc_promise, alloc_limit),
            _line(
                "Num. Proc",
                commitment.percent(processes[0], node.tasks) if running else None,
                None,
                commitment.percent(processes[3] if processes[3] < node.tasks else node.tasks, node.tasks),
            ),
            "-" * 44,
        ]
    current = max(low_use, ram_use, swap_use, alloc_use) if running else None
    promised = max(low_promise, swap_promise, alloc_promise)
    out.append(_line("Memory", current, promised, max(low_promise, alloc_limit)))
    return "\n".join(out) + "\n"


def _line(label: str, current: float | None, promised: float | None, most: float | None) -> str:
    first = f"{'n/a':>10}" if current is None else f"{current:10.2f}"
    rest = [f"{'n/a':>10}" if value is None else f"{value:10.2f}" for value in (promised, most)]
    return f"{label:<11}{first} {' '.join(rest)}"


def task_limit() -> int:
    """Return how many tasks the kernel can have."""
    found = []
    for name in ("threads-max", "pid_max"):
        with open(f"/proc/sys/kernel/{name}", encoding="ascii") as file:
            found.append(int(file.read()))
    return min(found)
