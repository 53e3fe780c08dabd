"""vzctl snapshot-switch: go back to a snapshot."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.cli.snapshot import ID, words
from vz.container.ct import Container
from vz.errors import BadSyntax

FLAGS = ("--skip-resume", "--must-resume", "--skip-config", "--skip_arpdetect")


def run(argv: list[str], options: Globals) -> int:
    """vzctl snapshot-switch CTID --id U [--skip-resume | --must-resume] [--skip-config] [--skip_arpdetect]"""
    node, ctid = prepare(options, argv[0])
    given, flags = words(argv[1:], ID, FLAGS, ("id",))
    if {"--skip-resume", "--must-resume"} <= flags:
        raise BadSyntax("--skip-resume and --must-resume do not go together")

    def action(ct: Container) -> None:
        from vz.ops.snapshot import switch

        switch(
            ct,
            given["id"],
            resume="--skip-resume" not in flags,
            must_resume="--must-resume" in flags,
            config="--skip-config" not in flags,
            arp="--skip_arpdetect" not in flags,
        )

    return locked(options, node, ctid, action)
