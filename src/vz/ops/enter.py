"""enter: a login shell in a running CT, on a pseudo-terminal that was made inside it."""

from __future__ import annotations

import os

from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import handover
from vz.ops.join import HELPER_PATH
from vz.ops.terminal import Operator, open_session, write_all

SHELLS = ("/bin/bash", "/bin/sh")


def enter(ct: Container, typed: str = "") -> None:
    """Give the operator a login shell in the CT; *typed* is entered first, as if by hand.

    Raises:
        NotRunning: 31.  VzError: the CT has no shell or no pseudo-terminal (47).
    """
    term = os.environ.get("TERM", "linux")

    def shell() -> None:
        env = {
            "USER": "root",
            "LOGNAME": "root",
            "HOME": "/root",
            "TERM": term,
            "HISTFILE": "/dev/null",
            "PATH": HELPER_PATH,
        }
        try:
            os.chdir("/root")
        except OSError:
            pass
        for path in SHELLS:
            if os.path.exists(path):
                handover.execute(path, [f"-{os.path.basename(path)}"], env)
        os.write(2, b"the container has no shell\r\n")

    session = open_session(ct, shell)
    if session is None:
        raise VzError("Unable to open a terminal in the container", ExitCode.FS_BAD_TMPL)
    write_all(1, f"entered into CT {ct.ctid}\n".encode())
    if typed:
        write_all(session.master, (typed + "\n").encode("utf-8", "surrogateescape"))
    with Operator() as operator:
        operator.relay(session)
    session.close()
    write_all(1, f"exited from CT {ct.ctid}\n".encode())
