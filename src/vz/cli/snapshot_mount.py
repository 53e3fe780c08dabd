"""vzctl snapshot-mount: look at the files of a snapshot."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.cli.snapshot import ID, words
from vz.container.ct import Container


def run(argv: list[str], options: Globals) -> int:
    """vzctl snapshot-mount CTID --id U --target DIR"""
    node, ctid = prepare(options, argv[0])
    given, _ = words(argv[1:], {**ID, "--target": "target"}, needed=("id", "target"))

    def action(ct: Container) -> None:
        from vz.ops.snapshot import mount

        mount(ct, given["id"], given["target"])

    return locked(options, node, ctid, action)
