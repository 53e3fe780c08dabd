"""vzctl chkpnt, suspend: save a running CT's state."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.container.ct import Container


def run(argv: list[str], options: Globals) -> int:
    """vzctl chkpnt CTID"""
    node, ctid = prepare(options, argv[0])

    def action(ct: Container) -> None:
        from vz.ops.chkpnt import chkpnt

        chkpnt(ct)

    return locked(options, node, ctid, action)
