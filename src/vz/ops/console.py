"""console: a login prompt in the CT, on a terminal of its own, started for this operator.

OpenVZ's kernel kept terminals that outlived everybody; on a mainline kernel that would take a resident process per
CT, and a dump would have to carry it.  So each console is a fresh login (docs/decisions/0003-console.md).
"""

from __future__ import annotations

import _signal
import os

from vz.container.ct import Container
from vz.errors import ExitCode, NotRunning, VzError
from vz.kernel import handover
from vz.ops.join import HELPER_PATH
from vz.ops.report import warn
from vz.ops.terminal import SAK, Operator, Session, open_session

LOGINS = (("/bin/login", ["login"]), ("/usr/bin/login", ["login"]), ("/sbin/sulogin", ["sulogin"]))
LOOK_S = 0.25


def console(ct: Container) -> None:
    """Attach a login of the CT to our terminal, once it runs.

    ``ESC .`` at the start of a line detaches and hangs up; ``ESC !`` kills what holds the terminal and gives a new
    login.

    Raises:
        VzError: the CT has no login program, or no pseudo-terminal (47).
    """
    warn(f"Attached to CT {ct.ctid} (ESC . to detach)")
    try:
        with Operator() as operator:
            while (session := _session(ct, operator)) is not None:
                ending = operator.relay(session, escapes=True)
                if ending == SAK:
                    session.child.forward(_signal.SIGKILL)
                session.close()
                if ending != SAK:
                    return
    finally:
        warn(f"Detached from CT {ct.ctid}")


def _session(ct: Container, operator: Operator) -> Session | None:
    """Wait until the CT runs and return a login in it; None when the operator would not wait."""
    term = os.environ.get("TERM", "linux")

    def login() -> None:
        for path, argv in LOGINS:
            if os.path.exists(path):
                handover.execute(path, argv, {"TERM": term, "PATH": HELPER_PATH})
        os.write(2, b"The container has no login program for a console: use vzctl enter\r\n")

    while True:
        try:
            session = open_session(ct, login)
        except NotRunning:
            if operator.wait(LOOK_S):
                return None
            ct.forget_record()
            continue
        if session is None:
            raise VzError("Unable to open a terminal in the container", ExitCode.FS_BAD_TMPL)
        return session
