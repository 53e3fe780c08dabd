"""vzctl mount: attach the root of a stopped CT."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals, flags


def run(argv: list[str], options: Globals) -> int:
    """vzctl mount CTID"""
    node, ctid = prepare(options, argv[0])
    flags(argv[1:], {})
    from vz.ops.mount import mount

    return locked(options, node, ctid, mount)
