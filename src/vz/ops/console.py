"""console: a login prompt in the CT, on a terminal of its own, started for this operator.

OpenVZ's kernel kept terminals that outlived everybody; on a mainline kernel that would take a resident process per
CT, and a dump would have to carry it.  So each console is a fresh getty (docs/decisions/0003-console.md).
"""

from __future__ import annotations

import array
import fcntl
import os
import termios

import _socket

from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.ops.enter import _receive, relay
from vz.ops.join import HELPER_PATH, open_init, spawn_in_ct
from vz.ops.report import warn

ESCAPE = b"\x1b."
LOGINS = (("/bin/login", ["login"]), ("/usr/bin/login", ["login"]), ("/sbin/sulogin", ["sulogin"]))


def console(ct: Container) -> None:
    """Attach a login of the CT to our terminal; ``ESC .`` at the start of a line detaches and ends it.

    Raises:
        NotRunning: 31.  VzError: the CT has no login program (47).
    """
    _, pidfd = open_init(ct)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)

    def run() -> None:
        programs = [(path, argv) for path, argv in LOGINS if os.access(path, os.X_OK)]
        if not programs:
            os._exit(127)
        master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        number = array.array("i", [0])
        fcntl.ioctl(master, 0x40045431, array.array("i", [0]))  # TIOCSPTLCK
        fcntl.ioctl(master, 0x80045430, number)  # TIOCGPTN
        slave = os.open(f"/dev/pts/{number[0]}", os.O_RDWR)
        theirs.sendmsg([b"+"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [master]))])
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for fd in range(3):
            os.dup2(slave, fd)
        os.closerange(3, 1 << 16)
        os.execve(programs[0][0], programs[0][1], {"TERM": os.environ.get("TERM", "linux"), "PATH": HELPER_PATH})

    pid = spawn_in_ct(ct, pidfd, run)
    theirs.close()
    os.close(pidfd)
    master = _receive(ours)
    if master < 0:
        os.waitpid(pid, 0)
        raise VzError("The container has no login program for a console: use vzctl enter", ExitCode.FS_BAD_TMPL)
    warn(f"Attached to CT {ct.ctid} (ESC . to detach)")
    try:
        relay(master, pid, ESCAPE)
    finally:
        os.close(master)  # hangs up what is left
        os.waitpid(pid, 0)
        warn(f"Detached from CT {ct.ctid}")
