"""vzctl check: whether a running CT can be checkpointed, and what stands in the way."""

from __future__ import annotations

import os

from vz.cli.context import locked, prepare
from vz.cli.main import Globals, flags
from vz.container.ct import Container
from vz.errors import ExitCode


def run(argv: list[str], options: Globals) -> int:
    """vzctl check CTID"""
    node, ctid = prepare(options, argv[0])
    flags(argv[1:], {})

    def action(ct: Container) -> int:
        from vz.ops.chkpnt import Dump, need_running, obstacles

        found = obstacles(ct, need_running(ct), Dump(ct.dump_path))
        lines = found or [f"Container {ct.ctid} can be checkpointed"]
        os.write(1, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
        return ExitCode.CHKPNT_ERROR if found else ExitCode.OK

    return locked(options, node, ctid, action)
