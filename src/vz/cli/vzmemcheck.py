"""vzmemcheck: how much memory of the node is in use, promised, and at most allowed."""

from __future__ import annotations

import os

from vz.cli.main import Globals
from vz.cli.vzcfgvalidate import host_memory
from vz.container.ct import printable
from vz.errors import VzError
from vz.resources import commitment
from vz.resources.commitment import Node, Share

USAGE = """\
Usage: vzmemcheck [-v] [-A]
  -v  each container, then the sum
  -A  in Mbytes"""
HEADER = (
    " LowMem  LowMem     RAM MemSwap MemSwap   Alloc   Alloc   Alloc",
    "   util  commit    util    util  commit    util  commit   limit",
)
MB = 1 << 20


def run(argv: list[str], options: Globals) -> int:
    """vzmemcheck [-v] [-A]; 1 for anything wrong."""
    letters = "".join(word[1:] for word in argv if word.startswith("-") and not word.startswith("--"))
    if not set(letters) <= set("vA") or any(word[:1] != "-" or word[:2] == "--" or word == "-" for word in argv):
        os.write(1 if argv == ["--help"] else 2, (USAGE + "\n").encode())
        return 0 if argv == ["--help"] else 1
    if os.geteuid() != 0:
        os.write(2, b"vzmemcheck: this needs root\n")
        return 1
    from vz.config.nodeconfig import load_node
    from vz.ops import nodeview

    try:
        blocks = nodeview.read_all(load_node())
    except VzError as exc:
        os.write(2, f"{printable(str(exc))}\n".encode())
        return 1
    host = Node(*host_memory())
    shares = {ctid: commitment.share(rows, host) for ctid, rows in blocks.items()}
    os.write(1, report(shares, host, "v" in letters, "A" in letters).encode())
    return 0


def report(shares: dict[int, Share], node: Node, verbose: bool, absolute: bool) -> str:
    """Return the text: *absolute* in megabytes with the node's totals, else in per cent of those."""
    whole = commitment.capacity(node)

    def line(share: Share) -> str:
        pairs = zip(share.values, whole)
        words = [value / MB if absolute else commitment.percent(value, top) for value, top in pairs]
        return " ".join(f"{word:7.2f}" for word in words)

    out = [f"Output values in {'Mbytes' if absolute else '%'}"]
    first, second = HEADER
    out += [f"{'CTID':<11}{first}", f"{'':11}{second}"] if verbose else [first, second]
    if verbose:
        out += [f"{ctid:<10} {line(share)}" for ctid, share in shares.items()]
        out.append("-" * 74)
    out.append(("Summary:   " if verbose else "") + line(commitment.total(list(shares.values()))))
    if absolute:
        out.append(("           " if verbose else "") + " ".join(f"{top / MB:7.2f}" for top in whole))
    return "\n".join(out) + "\n"
