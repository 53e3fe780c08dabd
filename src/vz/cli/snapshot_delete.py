"""vzctl snapshot-delete: forget a snapshot."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.cli.snapshot import ID, words
from vz.container.ct import Container


def run(argv: list[str], options: Globals) -> int:
    """vzctl snapshot-delete CTID --id U"""
    node, ctid = prepare(options, argv[0])
    given, _ = words(argv[1:], ID, needed=("id",))

    def action(ct: Container) -> None:
        from vz.ops.snapshot import delete

        delete(ct, given["id"])

    return locked(options, node, ctid, action)
