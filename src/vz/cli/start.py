"""vzctl start: boot a stopped CT."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals, flags
from vz.container.ct import Container

# --skip-fsck is true of every layout that has no file system of its own: there is nothing to check
FLAGS = {"--wait": "wait", "--force": "force", "--skip-remount": "skip_remount", "--skip-fsck": "skip_fsck"}


def run(argv: list[str], options: Globals) -> int:
    """vzctl start CTID [--wait] [--force] [--skip-fsck] [--skip-remount]"""
    node, ctid = prepare(options, argv[0])
    given = flags(argv[1:], FLAGS)

    def action(ct: Container) -> None:
        from vz.ops.start import start

        start(ct, wait="wait" in given, force="force" in given, skip_remount="skip_remount" in given)

    return locked(options, node, ctid, action)
