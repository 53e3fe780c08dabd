"""vzctl set: change a CT's configuration, in its file (--save) and, where it runs, at once."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.cli.options_cli import parse_options
from vz.container.ct import Container
from vz.errors import BadValue
from vz.requests import Change


def run(argv: list[str], options: Globals) -> int:
    """vzctl set CTID OPTIONS… [--save] [--force] [--setmode restart|ignore], or --reset_ub"""
    if argv[0] == "0":
        raise BadValue("Bad CT ID 0: the node's own limits are not available in this version")
    node, ctid = prepare(options, argv[0])
    values, flags, _ = parse_options(argv[1:], None, "set")
    change = Change.of(values, flags)

    def action(ct: Container) -> int:
        from vz.ops.set import reset_ub, set_values

        if "reset_ub" in flags:
            return reset_ub(ct)
        return set_values(ct, change)

    return locked(options, node, ctid, action, must_exist=False)
