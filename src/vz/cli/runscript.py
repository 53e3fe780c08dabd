"""vzctl runscript: run a script of the node in a CT."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.container.ct import Container
from vz.errors import BadSyntax


def run(argv: list[str], options: Globals) -> int:
    """vzctl runscript CTID FILE"""
    node, ctid = prepare(options, argv[0])
    if len(argv) != 2:
        raise BadSyntax("runscript: CTID and one script")

    def action(ct: Container) -> int:
        from vz.ops.runscript import runscript

        return runscript(ct, argv[1])

    return locked(options, node, ctid, action)
