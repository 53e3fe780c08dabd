"""vzctl exec2: run a command in a CT and end with its own status."""

from __future__ import annotations

from vz.cli.context import mend, prepare
from vz.cli.main import Globals, complain
from vz.container.ct import load
from vz.errors import BadSyntax, ExitCode
from vz.ops.exec import exec_command, shell_argv


def run(argv: list[str], options: Globals, *, shell: bool = True) -> int:
    """vzctl exec2 CTID COMMAND…"""
    node, ctid = prepare(options, argv[0])
    if len(argv) < 2:
        raise BadSyntax(f"{'exec2' if shell else 'exec3'}: a command is missing")
    candidates = shell_argv(argv[1:]) if shell else [argv[1:]]
    mend(options, node, ctid)
    status = exec_command(load(ctid, node), candidates, use_path=not shell)
    if status < 0:
        complain(f"Got signal {-status}", "vzctl")
        return ExitCode.SYSTEM_ERROR
    return status
