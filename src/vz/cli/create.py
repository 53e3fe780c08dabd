"""vzctl create: make a CT."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.cli.options_cli import parse_options
from vz.container.ct import Container
from vz.ops.create import create
from vz.requests import Change


def run(argv: list[str], options: Globals) -> int:
    """vzctl create CTID [--ostemplate N] [--config N] [--layout L] …"""
    node, ctid = prepare(options, argv[0])
    values, flags, _ = parse_options(argv[1:], None, "create")
    change = Change.of(values, flags)

    def action(ct: Container) -> None:
        create(ct, change)

    return locked(options, node, ctid, action, must_exist=False)
