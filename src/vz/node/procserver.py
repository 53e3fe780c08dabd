"""The server of the containers' /proc files: answers the requests of one FUSE mount, for all CTs.

A node id is CTID * 16 + the file's number: a server that takes over from a killed one knows all that it needs.  An
answer that takes longer than LIMIT_S ends the server (SIGALRM), and its holder begins another.
"""

from __future__ import annotations

import _signal
import errno
import os
import select
import struct
import time

from vz.config.nodeconfig import load_node
from vz.config.paths import CONF_DIR, RUN, VZ_CONF
from vz.config.procnames import NAMES
from vz.container import ct as cts
from vz.errors import VzError
from vz.kernel import fuse
from vz.resources import procview

FRESH_S = 0.1
LIMIT_S = 1.0
LOAD_EVERY_S, LOAD_WATCHED_S = 5.0, 300.0
MOST_SNAPSHOTS, MOST_CTS = 4096, 4096


class Server:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.handle = os.getpid() << 32
        self.fresh: dict[int, tuple[float, bytes]] = {}  # by node id
        self.snapshots: dict[int, bytes] = {}  # by handle: what follows the first part of a file read in parts
        self.containers: dict[int, tuple[tuple[tuple[int, ...], ...], cts.Container]] = {}  # with what it was read from
        self.loads: dict[int, procview.Load] = {}
        self.asked: dict[int, float] = {}  # CTIDs whose load was asked for, and when

    def serve(self) -> None:
        """Answer until the mount is gone."""
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
        fuse.resend(self.fd)
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while True:
            if self.asked and not poll.poll(LOAD_EVERY_S * 1000):
                self.sample()
                continue
            try:
                packet = os.read(self.fd, fuse.BUFFER)
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                return  # ENODEV: unmounted
            _signal.setitimer(_signal.ITIMER_REAL, LIMIT_S)
            self.take(fuse.Request(packet))
            _signal.setitimer(_signal.ITIMER_REAL, 0)

    def take(self, request: fuse.Request) -> None:
        if request.opcode in fuse.NO_ANSWER:
            return
        try:
            data = self.answer(request)
        except OSError as exc:
            fuse.answer(self.fd, request.unique, error=exc.errno or errno.EIO)
        except (VzError, ValueError, KeyError, IndexError):  # a conf that cannot be read
            fuse.answer(self.fd, request.unique, error=errno.EIO)
        else:
            fuse.answer(self.fd, request.unique, data)

    def answer(self, request: fuse.Request) -> bytes:
        """Return the answer; OSError with the errno that the caller gets."""
        op, node = request.opcode, request.node
        directory = node == fuse.ROOT or not node & 15
        if op == fuse.READ and not directory:
            handle, offset, size = struct.unpack_from("<QQI", request.body)
            return self.text(node, handle, offset)[offset : offset + size]
        if op == fuse.INIT:
            return fuse.init_answer(request.body)
        if op == fuse.LOOKUP:
            found = child(node, request.body.partition(b"\0")[0])
            return fuse.entry_answer(found, directory=not found & 15)
        if op == fuse.GETATTR:
            return fuse.attr_answer(node, directory=directory)
        if op == fuse.OPEN:
            if struct.unpack_from("<I", request.body)[0] & os.O_ACCMODE != os.O_RDONLY:
                raise OSError(errno.EACCES, "")
            self.handle += 1
            return fuse.open_answer(self.handle, fuse.DIRECT_IO)
        if op == fuse.OPENDIR:
            return fuse.open_answer(0, 0)
        if op == fuse.STATFS:
            return fuse.statfs_answer()
        if op == fuse.RELEASE:
            self.snapshots.pop(struct.unpack_from("<Q", request.body)[0], None)
            return b""
        if op in (fuse.READDIR, fuse.RELEASEDIR, fuse.FLUSH):
            return b""
        raise OSError(errno.EPERM if op == fuse.SETATTR else errno.ENOSYS, "")

    def text(self, node: int, handle: int, offset: int) -> bytes:
        if offset and handle in self.snapshots:
            return self.snapshots[handle]
        now = time.monotonic()
        at, data = self.fresh.get(node, (0.0, b""))
        if not at or now - at > FRESH_S:
            data = filled(self.render(node >> 4, NAMES[(node & 15) - 1], now)).encode()
            if len(self.fresh) > MOST_CTS * len(NAMES):
                self.fresh.clear()
            self.fresh[node] = time.monotonic(), data
        if len(self.snapshots) > MOST_SNAPSHOTS:
            self.snapshots.clear()
        self.snapshots[handle] = data
        return data

    def render(self, ctid: int, name: str, now: float) -> str:
        ct = self.container(ctid)
        if name != "loadavg":
            return str(getattr(procview, name)(ct))
        self.asked[ctid] = now
        running, blocked, total = procview.tasks(ct)
        load = self.loads.get(ctid)
        if load is None:
            load = self.loads[ctid] = procview.Load(now, running + blocked)
        load.sample(now, running + blocked)
        return procview.loadavg(load, running, total)

    def container(self, ctid: int) -> cts.Container:
        """Return the CT as its files are now; they are read again when one of them has changed."""
        stamp = tuple(_stamp(path) for path in (VZ_CONF, f"{CONF_DIR}/{ctid}.conf", f"{RUN}/{ctid}/record"))
        known = self.containers.get(ctid)
        if known is None or known[0] != stamp:
            if len(self.containers) > MOST_CTS:
                self.containers.clear()
            known = self.containers[ctid] = stamp, cts.load(ctid, load_node(), must_exist=False)
        return known[1]

    def sample(self) -> None:
        """Go on with the loads of CTs that have asked lately."""
        now = time.monotonic()
        for ctid, at in list(self.asked.items()):
            try:
                if now - at > LOAD_WATCHED_S:
                    raise OSError(errno.ENOENT, "")
                running, blocked, _ = procview.tasks(self.container(ctid))
                self.loads[ctid].sample(now, running + blocked)
            except (OSError, VzError):
                self.asked.pop(ctid, None)
                self.loads.pop(ctid, None)


def _stamp(path: str) -> tuple[int, ...]:
    try:
        seen = os.stat(path)
    except OSError:
        return ()
    return seen.st_mtime_ns, seen.st_ino, seen.st_size


def filled(text: str) -> str:
    """Return *text* with blanks in its last line, up to a length that seldom changes.

    sendfile(2) (cat of busybox) makes the kernel take the shortest length that it saw for the size of the file.
    """
    if not text:
        return text
    step = 64 if len(text) <= 64 else 512
    return text[:-1] + " " * (-len(text) % step) + text[-1]


def child(node: int, name: bytes) -> int:
    """Return the node id of *name* in directory *node*; ENOENT."""
    if node == fuse.ROOT:
        try:
            return cts.parse_ctid(name.decode("ascii", "replace")) << 4
        except VzError:
            raise OSError(errno.ENOENT, "") from None
    text = name.decode("ascii", "replace")
    if node & 15 or text not in NAMES:
        raise OSError(errno.ENOENT, "")
    return node | (NAMES.index(text) + 1)
