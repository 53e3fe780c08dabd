"""Asking the node daemon to run a command, so that it is the parent of the init that this starts.

Only init's parent learns for sure whether it has halted or asked for a reboot, and a process cannot be given another
parent later.  So where the daemon runs, a command that starts a CT runs in a child of it, with this process's words,
streams and directory; this one waits for the status and hands on signals.  Where there is no daemon, or it does not
answer, or it would do it elsewhere (another mount or network namespace), the command runs here, as ever.

One packet each way, over ``/run/vz/eventd``: the words with four descriptors; ``pid N``, or ``no``; ``go``; the exit
status.  Nothing is done before the ``go``, so what has not been answered in time can still be done here.
"""

from __future__ import annotations

import _signal
import _socket
import os
import sys

from vz.config.paths import EVENTD
from vz.errors import VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

PATIENCE_S = 5.0
SCM_RIGHTS = 1
served = False  # this process is the daemon's child already


def ask(words: list[str]) -> int | None:
    """Have the daemon run ``vzctl`` with *words* and return its exit status; None: nothing was done, do it here.

    Raises:
        VzError: the daemon's child was killed (3).
    """
    if served:
        return None
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    here = -1
    try:
        sock.settimeout(PATIENCE_S)
        sock.connect(EVENTD)
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2, here))
        text = "\0".join([stamp(), *words]).encode("utf-8", "surrogateescape")
        sock.sendmsg([text], [(_socket.SOL_SOCKET, SCM_RIGHTS, rights)])
        answer = sock.recv(64)
        if not answer.startswith(b"pid "):
            return None
        pidfd = os.pidfd_open(int(answer[4:]))
    except OSError:
        return None  # no daemon, a dead one, one that hangs
    finally:
        if here >= 0:
            os.close(here)
    _hand_on_signals(pidfd)
    try:
        sock.settimeout(None)
        sock.send(b"go")
    except OSError:
        return None
    try:
        answer = sock.recv(64)
    except OSError:
        answer = b""
    if not answer:
        raise VzError("The command was killed; the next one on this container mends what it left")
    return int(answer)


def stamp() -> str:
    """Return what tells this installation of the package from the one before: an upgrade makes its directory anew."""
    there = os.stat(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return f"{there.st_dev}:{there.st_ino}"


def _hand_on_signals(pidfd: int) -> None:
    """Let SIGINT and SIGTERM go to the process of *pidfd*, which unwinds and then answers."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        try:
            _signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            pass

    for number in (_signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, hand_on)
