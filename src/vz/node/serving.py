"""The daemon's socket: each connection gets a forked child, which reads what is asked, and runs it.

The child has everything loaded already, so that a ``vzctl start`` by the daemon is not slower than one by hand.
"""

from __future__ import annotations

import _signal
import _socket
import gc
import os
import resource
import sys

from vz.config.paths import EVENTD
from vz.kernel import process
from vz.kernel.files import make_dirs, remove
from vz.node import asking
from vz.ops import undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    RunCommand = Callable[[str, list[str]], int]

BACKLOG = 512
ASK_LIMIT_S = 10.0
SHARED = ("mnt", "net", "pid", "user")  # namespaces that a command must have in common with the daemon
files_limit = resource.getrlimit(resource.RLIMIT_NOFILE)  # what the daemon was started with


def raise_files_limit() -> None:
    """Let this process have as many descriptors as it may: a CT takes one or two."""
    hard = files_limit[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listen() -> _socket.socket:
    """Return the daemon's listening socket, which only root can reach.

    Raises:
        OSError: as bind(2).  The caller is the only daemon: a socket that is there is a dead one's.
    """
    make_dirs(os.path.dirname(EVENTD), 0o711)
    remove(EVENTD)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        sock.bind(EVENTD)
    finally:
        os.umask(mask)
    sock.listen(BACKLOG)
    return sock


def accept(sock: _socket.socket, run_command: RunCommand) -> int:
    """Take a connection and return the pid of the child that serves it; 0 when there is none."""
    try:
        fd = sock._accept()[0]  # type: ignore[attr-defined]
    except OSError:
        return 0
    try:
        pid = os.fork()
    except OSError:  # the client sees the end of file, and does it itself
        os.close(fd)
        return 0
    if pid:
        os.close(fd)
        return pid
    try:
        only(fd)
        _serve(_socket.socket(fileno=fd), run_command)
    finally:
        os._exit(1)


def only(fd: int) -> None:
    """Make this forked child a process of its own: none of the daemon's signals, session and descriptors but *fd*.

    And but the file that an installed package's modules are read from.
    """
    keep_only([fd])


def keep_only(fds: list[int]) -> None:
    """Do what ``only`` does, with more descriptors to keep."""
    gc.disable()
    _signal.set_wakeup_fd(-1)
    process.default_signals()
    resource.setrlimit(resource.RLIMIT_NOFILE, files_limit)
    os.setsid()
    first = 3
    for keep in sorted({*fds, *(finder.fd for finder in sys.meta_path if hasattr(finder, "fd"))}):
        if keep >= first:
            os.closerange(first, keep)
            first = keep + 1
    process.close_from(first)
    asking.served = True


def _serve(conn: _socket.socket, run_command: RunCommand) -> None:
    conn.settimeout(ASK_LIMIT_S)
    data, ancillary, _, _ = conn.recvmsg(1 << 16, _socket.CMSG_SPACE(16))
    raw = b"".join(item[2] for item in ancillary)
    fds = [int.from_bytes(raw[at : at + 4], sys.byteorder) for at in range(0, len(raw), 4)]
    stamp, *words = data.decode("utf-8", "surrogateescape").split("\0")
    if len(fds) != 4 or stamp != asking.stamp() or not _is_neighbour(conn):
        conn.send(b"no")
        return
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
    os.fchdir(fds[3])
    for fd in fds:
        os.close(fd)
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write("vzctl")
    undo.catch_signals()  # from here on its signals come to us
    conn.send(f"pid {os.getpid()}".encode())
    if conn.recv(16) != b"go":
        return  # it has given up
    os.umask(0o022)
    conn.settimeout(None)
    status = run_command("vzctl", words)
    conn.send(str(status).encode())
    os._exit(0)


def _is_neighbour(conn: _socket.socket) -> bool:
    """Tell whether the peer is root and would do the same as we: it has our namespaces and our root directory."""
    raw = conn.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    pid, uid = (int.from_bytes(raw[at : at + 4], sys.byteorder) for at in (0, 4))
    try:
        if uid or any(os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}") for kind in SHARED):
            return False
        theirs, ours = os.stat(f"/proc/{pid}/root"), os.stat("/")
    except OSError:
        return False
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
