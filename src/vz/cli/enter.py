"""vzctl enter: a login shell in a CT."""

from __future__ import annotations

from vz.cli.context import mend, prepare
from vz.cli.main import Globals
from vz.container.ct import load
from vz.errors import BadSyntax


def run(argv: list[str], options: Globals) -> int:
    """vzctl enter CTID [--exec COMMAND…]"""
    node, ctid = prepare(options, argv[0])
    typed = ""
    if len(argv) > 1:
        if argv[1] != "--exec" or len(argv) < 3 or not argv[2]:
            raise BadSyntax("enter: only --exec COMMAND may follow")
        typed = " ".join(argv[2:])
    from vz.ops.enter import enter

    mend(options, node, ctid)
    enter(load(ctid, node), typed)
    return 0
