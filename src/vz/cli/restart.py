"""vzctl restart: stop a CT if it runs, and start it; one lock over both."""

from __future__ import annotations

from vz.cli import start as start_cli
from vz.cli import stop as stop_cli
from vz.cli.context import locked, prepare
from vz.cli.main import Globals, flags
from vz.container.ct import Container


def run(argv: list[str], options: Globals) -> int:
    """vzctl restart CTID [the options of start and stop]"""
    node, ctid = prepare(options, argv[0])
    given = flags(argv[1:], {**start_cli.FLAGS, **stop_cli.FLAGS})

    def action(ct: Container) -> None:
        from vz.ops.restart import restart

        restart(
            ct,
            fast="fast" in given,
            skip_umount="skip_umount" in given,
            wait="wait" in given,
            force="force" in given,
            skip_remount="skip_remount" in given,
        )

    return locked(options, node, ctid, action)
