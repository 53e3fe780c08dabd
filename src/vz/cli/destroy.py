"""vzctl destroy: remove a CT."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals, flags


def run(argv: list[str], options: Globals) -> int:
    """vzctl destroy CTID"""
    node, ctid = prepare(options, argv[0])
    flags(argv[1:], {})
    from vz.ops.destroy import destroy

    return locked(options, node, ctid, destroy, wanted="destroyed")
