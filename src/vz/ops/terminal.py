"""A terminal of the CT and the operator's own, joined: what ``enter`` and ``console`` have in common.

The operator's terminal never gets in: the child opens a pseudo-terminal of the CT after it has joined, passes the
master back over a socket, and this process copies bytes both ways.  Nobody of ours stays behind.
"""

from __future__ import annotations

import _signal
import _socket
import errno
import os
import select
import termios
import tty

from vz.container.ct import Container
from vz.kernel import process, pty
from vz.ops.join import open_init, spawn_in_ct
from vz.ops.relay import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 16384
LAST_CHUNKS = 1024  # the kernel keeps at most 640 KiB of a terminal's output, in pieces of any size
ENDED, DETACHED, SAK = "ended", "detached", "sak"
END_OF_FILE = b"\x04"
_DEADLY = (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT)


class Session:
    """A process of the CT that leads a session on a terminal: its pid on the host and the terminal's master."""

    __slots__ = ("child", "master")

    def __init__(self, pid: int, master: int) -> None:
        self.child = Child(pid)
        self.master = master

    def close(self) -> None:
        """Hang up; who ignores that goes on as a child of the node's init."""
        os.close(self.master)
        self.child.reap()
        self.child.close()


def open_session(ct: Container, execute: Callable[[], None]) -> Session | None:
    """Start *execute*, which ends in execve, on a new terminal of the running CT; None when it could not be had.

    Raises:
        NotRunning: 31.
    """
    _, pidfd = open_init(ct)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)

    def run() -> None:
        master, slave = pty.open_pair()
        pty.send_fd(theirs, master)
        pty.control(slave)
        process.close_from(3)
        execute()
        os._exit(127)

    pid = spawn_in_ct(ct, pidfd, run)
    theirs.close()
    os.close(pidfd)
    master = pty.receive_fd(ours)
    ours.close()
    if master < 0:
        os.waitpid(pid, 0)
        return None
    return Session(pid, master)


class Operator:
    """``with Operator() as operator:`` standard input in raw mode, and as it was again on any way out."""

    __slots__ = ("_input_open", "_line_start", "_pending", "_saved", "_session")

    def __init__(self) -> None:
        self._saved: list[object] | None = None
        self._session: Session | None = None
        self._input_open = True
        self._line_start = True  # only there an escape is one
        self._pending = b""  # an ESC that may begin one

    def __enter__(self) -> Operator:
        for number in _DEADLY:
            if _signal.getsignal(number) != _signal.SIG_IGN:  # nohup
                _signal.signal(number, self._die)
        if os.isatty(0):
            self._saved = termios.tcgetattr(0)
            _signal.signal(_signal.SIGWINCH, self._resize)
            tty.setraw(0, termios.TCSADRAIN)  # what is typed ahead stays
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._saved is not None:
            try:
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
            except termios.error:
                pass  # it has gone
            self._saved = None

    def _die(self, number: int, _: object) -> None:
        self._restore()
        _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _resize(self, *_: object) -> None:
        if self._session is not None:
            pty.copy_size(0, self._session.master)

    def relay(self, session: Session, escapes: bool = False) -> str:
        """Copy both ways until the session is over (ENDED) or, with *escapes*, ``ESC .`` or ``ESC !`` was typed.

        The end of an input that is no terminal is passed on as its end-of-file character, and again now and then:
        a program in between may have taken the first for itself.
        """
        self._session = session
        self._resize()
        poll = select.poll()
        poll.register(session.master, select.POLLIN)
        poll.register(session.child.pidfd, select.POLLIN)
        if self._input_open:
            poll.register(0, select.POLLIN)
        pause_s = 1
        try:
            while True:
                events = poll.poll(None if self._input_open else pause_s * 1000)
                if not events:
                    write_all(session.master, END_OF_FILE)
                    pause_s = min(pause_s * 2, 60)
                for fd, _ in events:
                    if fd == session.child.pidfd:
                        os.set_blocking(session.master, False)  # what it wrote; its children may go on for ever
                        for _ in range(LAST_CHUNKS):
                            if not _forward(session.master):
                                break
                        return ENDED
                    if fd == session.master and not _forward(session.master):
                        return ENDED
                    if fd == 0:
                        found = self._typed(session.master, escapes)
                        if found:
                            return found
                        if not self._input_open:
                            poll.unregister(0)
        finally:
            self._session = None

    def wait(self, timeout_s: float) -> bool:
        """Wait for *timeout_s*, and tell whether the operator typed ``ESC .`` or hung up meanwhile."""
        if not select.select([0], [], [], timeout_s)[0]:
            return False
        return self._typed(-1, True) == DETACHED or not self._input_open

    def _typed(self, master: int, escapes: bool) -> str:
        """Pass on what was typed (to nobody: -1); DETACHED or SAK when it held that escape."""
        data = _read(0)
        if not data:
            self._input_open = False
            if master >= 0:  # on a line that is not empty its character means something else
                write_all(master, END_OF_FILE if self._line_start else b"\n" + END_OF_FILE)
            return ""
        passed, found = self._scan(data) if escapes else (data, "")
        if passed:
            self._line_start = passed[-1:] in (b"\r", b"\n")
            if master >= 0:
                write_all(master, passed)
        return found

    def _scan(self, data: bytes) -> tuple[bytes, str]:
        """Return what of *data* to pass on, and the escape that ends it; an ESC that may begin one is kept back."""
        data = self._pending + data
        self._pending = b""
        at = 0
        while at < len(data):
            start = self._line_start if at == 0 else data[at - 1] in b"\r\n"
            if start and data[at : at + 1] == b"\x1b":
                if at + 1 == len(data):
                    self._pending = data[at:]
                    return data[:at], ""
                if data[at + 1] in b".!":
                    return data[:at], DETACHED if data[at + 1 : at + 2] == b"." else SAK
            at += 1
        return data, ""


def _forward(master: int) -> bool:
    """Pass on a chunk of output; False at the end, or when nobody reads ours."""
    data = _read(master)
    return bool(data) and write_all(1, data)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, CHUNK)
    except OSError as exc:
        if exc.errno in (errno.EIO, errno.EAGAIN):  # EIO: the last slave has been closed, or our terminal has gone
            return b""
        raise


def write_all(fd: int, data: bytes) -> bool:
    """Write *data*; False when nobody reads it any more."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            select.select([], [fd], [], 1)
        except OSError:
            return False
    return True
