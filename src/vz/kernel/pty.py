"""Pseudo-terminals, devpts(7) and ioctl_tty(2), and passing one to another process over a socket, unix(7)."""

from __future__ import annotations

import _socket
import fcntl
import os
import termios

TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441


def open_pair() -> tuple[int, int]:
    """Open a new pseudo-terminal of the devpts behind /dev/ptmx and return (master, slave).

    The slave is asked of the master, not looked up by name: a /dev that somebody else arranged cannot swap it.

    Raises:
        OSError: ENOSPC: no more of them allowed (``max=`` or pty.max); ENOTTY: /dev/ptmx is something else.
    """
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(master, True)
        fcntl.ioctl(master, TIOCSPTLCK, bytes(4))
        slave: int = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.close(master)
        raise
    return master, slave


def control(slave: int) -> None:
    """Make *slave* the controlling terminal and the streams of this process, which leads a session without one."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)


def copy_size(source: int, target: int) -> None:
    """Give terminal *target* the rows and columns of *source*; nothing where either is no terminal."""
    try:
        fcntl.ioctl(target, termios.TIOCSWINSZ, fcntl.ioctl(source, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        pass


def send_fd(sock: _socket.socket, fd: int) -> None:
    """Pass *fd* to the process at the other end of *sock*."""
    sock.sendmsg([b"+"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, "little"))])


def receive_fd(sock: _socket.socket) -> int:
    """Return the descriptor that was passed, close-on-exec; -1 when the other end closed without one."""
    _, extra, _, _ = sock.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in extra:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return int.from_bytes(data[:4], "little", signed=True)
    return -1
