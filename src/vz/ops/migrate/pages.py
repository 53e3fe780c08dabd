"""The way of a container's memory: a stream between the criu here and the one over there, through ssh.

criu's own page traffic is plain TCP without a login.  Here each criu has one end of a socket pair (``--ps-socket``):
on the source the other end is the input and output of an ssh, whose far end is ``vzmigrate --pages ID``; that one
passes everything on to a Unix socket in the run directory, where the helper has connected the other criu.
"""

from __future__ import annotations

import _signal
import os
import time

from vz.checkpoint import criu, options, store
from vz.checkpoint.options import criu_program
from vz.config.paths import RUN
from vz.ops.migrate import log
from vz.ops.migrate.errors import CANT_CONNECT, COPY_FAILED, MigrateFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from vz.ops.migrate.ssh import Route

GREETING = b"vz-pages 1\n"
CHUNK = 1 << 20
PATIENCE_S = 30.0
LOG = "page-server.log"


def socket_path(migration: str) -> str:
    return f"{RUN}/pages-{migration}"


class Stream:
    """The source's end: ``socket`` is for criu, until close()."""

    __slots__ = ("_pid", "socket")

    def __init__(self, route: Route, migration: str, tick: Callable[[], None]) -> None:
        """Open it; criu over there is not needed yet.

        Raises:
            MigrateFailed: no connection (4).
        """
        import socket

        ours, theirs = socket.socketpair()
        with theirs:
            self._pid = route.start(f"vzmigrate --pages {migration}", theirs.fileno(), theirs.fileno())
        self.socket = ours.detach()
        try:
            self._greet(tick)
        except BaseException:
            self.close()
            raise

    def _greet(self, tick: Callable[[], None]) -> None:
        """Read up to the greeting, and nothing of what comes after it."""
        import select

        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        deadline = time.monotonic() + PATIENCE_S
        seen = b""
        while not seen.endswith(GREETING):
            if not poll.poll(200):
                tick()
                if time.monotonic() < deadline:
                    continue
            byte = os.read(self.socket, 1) if time.monotonic() < deadline and len(seen) < 65536 else b""
            if not byte:
                raise MigrateFailed("No second connection to the destination node, for the memory", CANT_CONNECT)
            seen += byte

    def close(self) -> None:
        """Cut it."""
        if self.socket >= 0:
            os.close(self.socket)
            self.socket = -1
        if self._pid:
            try:
                os.kill(self._pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.waitpid(self._pid, 0)
            self._pid = 0


def connect(migration: str) -> socket.socket:
    """Return the destination's end of an open stream, for criu.

    Raises:
        MigrateFailed: there is none (6).
    """
    import socket

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(socket_path(migration))
    except OSError as exc:
        sock.close()
        raise MigrateFailed(f"no stream for the memory: {exc.strerror}", COPY_FAILED) from exc
    return sock


def page_server(dump: str, folder: str, previous: str, sock: int) -> int:
    """Start the criu that writes the memory from *sock* to an empty *folder* of *dump*; return its pid."""
    target = f"{dump}/{folder}"
    store.remove(target)
    os.mkdir(target, 0o755)
    os.chmod(target, 0o755)  # tasks in the CT's user namespace open the images through a descriptor
    return criu.start([criu_program(), *options.page_server(target, dump, previous)], f"{dump}/{LOG}", sock)


def why(dump: str) -> str:
    """Return what the criu that wrote memory into *dump* has said of its failure."""
    return "; ".join(criu.summary(f"{dump}/{LOG}")) or "the connection broke"


def relay(migration: str) -> int:
    """Pass on between our standard streams and the first who connects; the exit status."""
    import select
    import socket
    import threading

    if not log.is_id(migration):
        return 1
    path = socket_path(migration)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path):
            os.unlink(path)  # of an earlier try of this migration
        listener.bind(path)  # the directory is root's, and only root may write to what a bind makes under our umask
        listener.listen(1)
        os.write(1, GREETING)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(0, 0)  # hung up: nobody sends any more
        while listener.fileno() not in (ready := dict(poll.poll())):
            if ready:
                return 1
        connection, _ = listener.accept()
    finally:
        listener.close()
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    def inward() -> None:
        _copy(0, connection.fileno())
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    threading.Thread(target=inward, daemon=True).start()
    _copy(connection.fileno(), 1)
    os._exit(0)  # whoever still reads our input waits for nothing


def _copy(source: int, target: int) -> None:
    # not splice(2): its fragments of pages, left in the socket, fill the sixteen places of criu's own pipe with less
    # than criu waits for, and both wait for ever
    try:
        while data := os.read(source, CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
    except OSError:
        pass  # its other end is gone, and that is the end of it
