"""vzctl create: make a CT."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.cli.options_cli import parse_options
from vz.config.nodeconfig import NodeConfig
from vz.container.ct import Container
from vz.errors import VzError
from vz.ops.create import create
from vz.ops.report import say, warn
from vz.requests import Change


def run(argv: list[str], options: Globals) -> int:
    """vzctl create CTID [--ostemplate N] [--config N] [--layout L] …"""
    node, ctid = prepare(options, argv[0])
    values, flags, _ = parse_options(argv[1:], None, "create")
    change = Change.of(values, flags)

    def action(ct: Container) -> None:
        create(ct, change, lambda name: fetch(node, name))

    return locked(options, node, ctid, action, must_exist=False)


def fetch(node: NodeConfig, name: str) -> None:
    """Let vztmpl-dl get the template, where download.conf names a mirror; its failure is said, and then ours."""
    from vz.cli import vztmpl_dl

    try:
        if vztmpl_dl.has_mirror():
            say(f"OS template {name} is not in {node.template}/cache: trying to download it")
            vztmpl_dl.fetch(node, name)
    except VzError as exc:
        warn(str(exc))
