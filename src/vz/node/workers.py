"""Parts of the node daemon that are processes of their own: forked from it, told what runs, begun again when they end.

A worker is a function ``main(feed)``.  What it does may take time or fail, the daemon goes on.  *feed* is a packet
socket: the daemon sends ``+CTID PID`` for each CT that runs, then ``=`` once they all were told, later ``+CTID PID``
and ``-CTID`` as CTs start and end.  End of file means that the daemon has ended or becomes another version: the worker
ends too.
"""

from __future__ import annotations

import _signal
import _socket
import os
import sys
import time

from vz.node import serving

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STEADY_S = 10.0  # a worker that ran longer than this is begun again at once
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0
FEED_BYTES = 1 << 20  # what may wait for a worker that is busy
PACKET = 64


class Worker:
    """A function in a process of its own; *mend* is called by the daemon when it has ended, before the next one."""

    def __init__(self, name: str, main: Callable[[Feed], None], mend: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.main = main
        self.mend = mend
        self.pid = 0
        self.sock: _socket.socket | None = None
        self.began = 0.0
        self.pause = FIRST_PAUSE_S
        self.at = 0.0  # not begun before this, by the monotonic clock


class Feed:
    """The worker's end: which CTs run."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.inits: dict[int, int] = {}  # pid of the init by CTID
        self.complete = False  # all that ran at the beginning are in it

    def fileno(self) -> int:
        return self.sock.fileno()

    def read(self) -> list[tuple[int, int]] | None:
        """Take what has come, without waiting: (CTID, pid; 0 when it has ended) of each change; None: the end."""
        changes: list[tuple[int, int]] = []
        while True:
            try:
                packet = self.sock.recv(PACKET, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                return changes
            if not packet:
                return None
            if packet == b"=":
                self.complete = True
                continue
            ctid, _, pid = packet[1:].partition(b" ")
            if packet[:1] == b"+":
                self.inits[int(ctid)] = int(pid)
            else:
                self.inits.pop(int(ctid), None)
            changes.append((int(ctid), int(pid or b"0")))


class Workers:
    """All workers of the daemon; *inits* returns {CTID: pid} of what runs, *tell* writes to the log."""

    def __init__(
        self,
        workers: list[Worker],
        inits: Callable[[], dict[int, int]],
        tell: Callable[[int, str], None],
    ) -> None:
        self.workers = workers
        self.inits = inits
        self.tell = tell

    def begin(self) -> None:
        """Fork those that do not run and whose time has come."""
        for worker in self.workers:
            if not worker.pid and time.monotonic() >= worker.at:
                self._fork(worker)

    def next_at(self) -> float | None:
        """Return when ``begin`` has something to do, by the monotonic clock."""
        return min((worker.at for worker in self.workers if not worker.pid), default=None)

    def changed(self, ctid: int, pid: int) -> None:
        """Tell all workers of a CT's start, or with *pid* 0 of its end."""
        for worker in self.workers:
            if worker.sock is not None:
                self._send(worker, b"+%d %d" % (ctid, pid) if pid else b"-%d" % ctid)

    def ended(self, pid: int, status: int) -> bool:
        """Take a child's wait status; False when it is none of these."""
        for worker in self.workers:
            if worker.pid and worker.pid == pid:
                break
        else:
            return False
        worker.pid = 0
        if worker.sock is not None:
            worker.sock.close()
            worker.sock = None
        how = f"by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"with status {os.WEXITSTATUS(status)}"
        now = time.monotonic()
        worker.pause = FIRST_PAUSE_S if now - worker.began > STEADY_S else min(2 * worker.pause, LONGEST_PAUSE_S)
        worker.at = now + worker.pause
        self.tell(0, f"The {worker.name} has ended {how}: beginning it again")
        self._mend(worker)
        return True

    def end(self) -> None:
        """Let all end, and wait for it; what they leave is mended."""
        for worker in self.workers:
            if worker.sock is not None:
                worker.sock.close()
                worker.sock = None
        for worker in self.workers:
            if worker.pid:
                _wait(worker.pid)
                worker.pid = 0
                self._mend(worker)

    def _mend(self, worker: Worker) -> None:
        try:
            worker.mend()
        except Exception as exc:
            self.tell(0, f"Mending what the {worker.name} has left: {exc}")

    def _send(self, worker: Worker, packet: bytes) -> None:
        assert worker.sock is not None
        try:
            worker.sock.send(packet)
        except OSError:  # it hangs, or is dead and not reaped yet: the next one is told all
            try:
                os.kill(worker.pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass
            worker.sock.close()
            worker.sock = None

    def _fork(self, worker: Worker) -> None:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)  # type: ignore[attr-defined]
        ours.setblocking(False)
        ours.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, FEED_BYTES)
        try:
            worker.pid = os.fork()
        except OSError as exc:
            self.tell(0, f"Unable to begin the {worker.name}: {exc.strerror}; trying again")
            worker.at = time.monotonic() + LONGEST_PAUSE_S
            ours.close()
            theirs.close()
            return
        if worker.pid == 0:
            self._be(worker, theirs)
        theirs.close()
        worker.sock = ours
        worker.began = time.monotonic()
        for ctid, pid in self.inits().items():
            self._send(worker, b"+%d %d" % (ctid, pid))
            if worker.sock is None:
                return
        self._send(worker, b"=")

    def _be(self, worker: Worker, sock: _socket.socket) -> None:
        """Be the worker, in the forked child; does not return."""
        status = 1
        try:
            fd = sock.fileno()
            serving.only(fd)
            _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # of the daemon's terminal; it says itself when to end
            with open("/proc/self/comm", "w", encoding="ascii") as comm:
                comm.write(f"vz-{worker.name}"[:15])
            worker.main(Feed(sock))
            status = 0
        except BaseException as exc:
            if not isinstance(exc, SystemExit):
                sys.excepthook(type(exc), exc, exc.__traceback__)
        finally:
            os._exit(status)


def _wait(pid: int, limit_s: float = 5.0) -> None:
    """Wait for a child that was told to end, and kill it if it does not."""
    deadline = time.monotonic() + limit_s
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            os.kill(pid, _signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.01)
