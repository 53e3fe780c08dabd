"""vzctl console: a login on a terminal of the CT."""

from __future__ import annotations

from vz.cli.context import prepare
from vz.cli.main import Globals
from vz.container.ct import load
from vz.errors import BadSyntax, BadValue


def run(argv: list[str], options: Globals) -> int:
    """vzctl console CTID [N]"""
    node, ctid = prepare(options, argv[0])
    words = [word for word in argv[1:] if word not in ("-s", "--start")]
    if len(words) > 1:
        raise BadSyntax("console: one terminal number at most")
    if words and not (words[0].isascii() and words[0].isdigit()):
        raise BadValue(f"console: {''.join(c if c.isprintable() else '?' for c in words[0])} is not a number")
    from vz.ops.console import console

    console(load(ctid, node))
    return 0
