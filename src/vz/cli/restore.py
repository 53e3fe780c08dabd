"""vzctl restore, resume: bring a suspended CT back, or do one step of that."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.cli.steps import need_dumpfile, parse
from vz.container.ct import Container

STEPS = ("--undump", "--resume", "--kill")
# --skip-fsck is true of every layout that has no file system of its own: there is nothing to check
FLAGS = ("--skip-remount", "--skip-fsck")


def run(argv: list[str], options: Globals) -> int:
    """vzctl restore CTID [--dumpfile FILE] [--skip_arpdetect] [--skip-remount] [--undump | --resume | --kill]"""
    node, ctid = prepare(options, argv[0])
    given = parse(argv[1:], STEPS, FLAGS)
    need_dumpfile(given, "--undump")
    how = {"skip_remount": "--skip-remount" in given.flags, "skip_arpdetect": "--skip_arpdetect" in given.flags}

    def action(ct: Container) -> None:
        if not given.step:
            from vz.ops.restore import restore

            return restore(ct, given.dumpfile, **how)
        from vz.ops import stages

        if given.step == "--undump":
            return stages.undump(ct, given.dumpfile, **how)
        return {"--resume": stages.resume_undumped, "--kill": stages.kill_undumped}[given.step](ct)

    return locked(options, node, ctid, action)
