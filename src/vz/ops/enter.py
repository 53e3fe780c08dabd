"""enter: a login shell in a running CT, on a pseudo-terminal that was made inside it.

The operator's terminal never gets in: the child opens the CT's own /dev/ptmx after it has joined, passes the master
back over a socket, and this process copies bytes both ways.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import termios
import tty

import _signal
import _socket

from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.ops.join import HELPER_PATH, open_init, spawn_in_ct

SHELLS = ("/bin/bash", "/bin/sh")
CHUNK = 16384


def enter(ct: Container, typed: str = "") -> None:
    """Give the operator a login shell in the CT; *typed* is entered first, as if by hand.

    Raises:
        NotRunning: 31.  VzError: the CT has no shell or no pseudo-terminal (47).
    """
    _, pidfd = open_init(ct)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    term = os.environ.get("TERM", "linux")

    def run() -> None:
        master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        number = array.array("i", [0])
        fcntl.ioctl(master, 0x40045431, array.array("i", [0]))  # TIOCSPTLCK: unlock
        fcntl.ioctl(master, 0x80045430, number)  # TIOCGPTN
        slave = os.open(f"/dev/pts/{number[0]}", os.O_RDWR)
        theirs.sendmsg([b"+"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [master]))])
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for fd in range(3):
            os.dup2(slave, fd)
        os.closerange(3, 1 << 16)
        env = {"USER": "root", "LOGNAME": "root", "HOME": "/root", "TERM": term, "HISTFILE": "/dev/null", "PATH": HELPER_PATH}
        try:
            os.chdir("/root")
        except OSError:
            pass
        for shell in SHELLS:
            try:
                os.execve(shell, [f"-{os.path.basename(shell)}"], env)
            except FileNotFoundError:
                continue
        os._exit(127)

    pid = spawn_in_ct(ct, pidfd, run)
    theirs.close()
    os.close(pidfd)
    master = _receive(ours)
    if master < 0:
        os.waitpid(pid, 0)
        raise VzError("Unable to open a terminal in the container", ExitCode.FS_BAD_TMPL)
    os.write(1, f"entered into CT {ct.ctid}\n".encode())
    if typed:
        os.write(master, (typed + "\n").encode("utf-8", "surrogateescape"))
    relay(master, pid)
    os.waitpid(pid, 0)
    os.write(1, f"exited from CT {ct.ctid}\n".encode())


def relay(master: int, pid: int, escape: bytes = b"") -> None:
    """Copy between our terminal and *master* until the process *pid* ends, the other side hangs up, or *escape* is typed."""
    is_terminal = os.isatty(0)
    saved = termios.tcgetattr(0) if is_terminal else None
    pidfd = os.pidfd_open(pid) if pid else -1

    def resize(*_: object) -> None:
        try:
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(master, termios.TIOCSWINSZ, size)
        except OSError:
            pass

    if is_terminal:
        resize()
        _signal.signal(_signal.SIGWINCH, resize)
        tty.setraw(0)
    poll = select.poll()
    poll.register(master, select.POLLIN)
    poll.register(0, select.POLLIN)
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    try:
        _copy(poll, master, pidfd, escape)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)


def _copy(poll: select.poll, master: int, pidfd: int, escape: bytes) -> None:
    line_start, pending = True, b""
    while True:
        for fd, _ in poll.poll():
            if fd == master and not _forward(master, 1):
                return
            if fd == pidfd:
                os.set_blocking(master, False)
                while _forward(master, 1):
                    pass
                return
            if fd == 0:
                data = _read(0)
                if not data:
                    poll.unregister(0)
                    if not os.isatty(0):
                        _write_all(master, b"\x04")  # end of file, as a terminal says it
                    continue
                if escape and (pending or line_start) and (pending + data)[: len(escape)] == escape:
                    return
                pending = data if escape and line_start and escape.startswith(data) else b""
                if not pending:
                    _write_all(master, data)
                line_start = data[-1:] in (b"\r", b"\n")


def _forward(source: int, target: int) -> bool:
    data = _read(source)
    if data:
        _write_all(target, data)
    return bool(data)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, CHUNK)
    except OSError as exc:
        if exc.errno in (errno.EIO, errno.EAGAIN, errno.EINTR):  # EIO: the last slave has been closed
            return b""
        raise


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            select.select([], [fd], [], 1)
        except OSError:
            return


def _receive(sock: _socket.socket) -> int:
    """Return the descriptor that the child sent, -1 when it sent none."""
    _, extra, _, _ = sock.recvmsg(1, _socket.CMSG_SPACE(4))
    sock.close()
    for level, kind, data in extra:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[:4])
            os.set_inheritable(numbers[0], False)
            return numbers[0]
    return -1
