"""vzctl compact: give what is free in a ploop image back to the node."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals, flags


def run(argv: list[str], options: Globals) -> int:
    """vzctl compact CTID"""
    node, ctid = prepare(options, argv[0])
    flags(argv[1:], {})
    from vz.ops.image import compact

    return locked(options, node, ctid, compact)
