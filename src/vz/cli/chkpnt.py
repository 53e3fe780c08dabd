"""vzctl chkpnt, suspend: save a running CT's state, or do one step of that."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.cli.steps import need_dumpfile, parse
from vz.container.ct import Container
from vz.errors import BadSyntax

STEPS = ("--suspend", "--dump", "--resume", "--kill")


def run(argv: list[str], options: Globals) -> int:
    """vzctl chkpnt CTID [--dumpfile FILE] [--keep-running] [--suspend | --dump | --resume | --kill]"""
    node, ctid = prepare(options, argv[0])
    given = parse(argv[1:], STEPS, ("--keep-running",))
    if given.step and "--keep-running" in given.flags:
        raise BadSyntax(f"--keep-running and {given.step} do not go together")
    need_dumpfile(given, "--dump")

    def action(ct: Container) -> None:
        if not given.step:
            from vz.ops.chkpnt import chkpnt

            return chkpnt(ct, given.dumpfile, keep_running="--keep-running" in given.flags)
        from vz.ops import stages

        if given.step == "--dump":
            return stages.dump(ct, given.dumpfile)
        return {"--suspend": stages.suspend, "--resume": stages.resume, "--kill": stages.kill}[given.step](ct)

    return locked(options, node, ctid, action)
