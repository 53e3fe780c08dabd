"""vzctl stop: stop a running CT."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals, flags
from vz.container.ct import Container

FLAGS = {"--fast": "fast", "--skip-umount": "skip_umount"}


def run(argv: list[str], options: Globals) -> int:
    """vzctl stop CTID [--fast] [--skip-umount]"""
    node, ctid = prepare(options, argv[0])
    given = flags(argv[1:], FLAGS)

    def action(ct: Container) -> None:
        from vz.ops.stop import stop

        stop(ct, fast="fast" in given, skip_umount="skip_umount" in given)

    return locked(options, node, ctid, action)
