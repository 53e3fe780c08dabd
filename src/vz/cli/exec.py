"""vzctl exec: run a command in a CT; every failure is status 8."""

from __future__ import annotations

from vz.cli.context import mend, prepare
from vz.cli.main import Globals, complain
from vz.container.ct import load
from vz.errors import BadSyntax, ExitCode, NotRunning, VzError
from vz.ops.exec import exec_command, shell_argv


def run(argv: list[str], options: Globals) -> int:
    """vzctl exec CTID COMMAND…"""
    node, ctid = prepare(options, argv[0])
    if len(argv) < 2:
        raise BadSyntax("exec: a command is missing")
    mend(options, node, ctid)
    try:
        status = exec_command(load(ctid, node), shell_argv(argv[1:]))
    except (NotRunning, VzError) as exc:
        if exc.code == ExitCode.NOVECONFIG:
            raise
        complain(exc, "vzctl")
        return ExitCode.COMMAND_EXECUTION_ERROR
    return ExitCode.COMMAND_EXECUTION_ERROR if status else ExitCode.OK
