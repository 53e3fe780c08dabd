"""The helper on the destination: does what the source asks, through the pipes of an ssh session.

It holds the CT's lock from ``begin`` on.  When the source is gone, what has not been taken is given back.
"""

from __future__ import annotations

import _signal
import os
import time

from vz.config.nodeconfig import NodeConfig, load_node
from vz.container.ct import MAX_CTID, Container, load
from vz.container.lock import CTLock
from vz.disk import moved, templates
from vz.errors import ExitCode, Interrupted, Locked, NoGlobalConfig, VzError
from vz.kernel.files import make_dirs
from vz.net.connect import hand_in
from vz.ops import journal, report
from vz.ops.migrate import checks, incoming, log
from vz.ops.migrate.errors import COPY_FAILED, LOCKED, NO_REMOTE_CONFIG, MigrateFailed
from vz.ops.migrate.pages import connect, page_server, why
from vz.ops.migrate.wire import GREETING, Broken, Channel
from vz.ops.settle import settle
from vz.ops.undo import catch_signals, check_interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    Handler = Callable[["Server", dict[str, Any], bytes], dict[str, Any] | None]

# the longest that a source is silent: one that copies for hours says now and then that it is there
SILENCE_S = 900.0
LAZY_SILENCE_S = 10.0
TAKEN_PATIENCE_S = 60.0


class Server:
    """One session: at most one CT comes in it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.node: NodeConfig | None = None
        self.lock: CTLock | None = None
        self.entry: log.Log | None = None
        self.ct: Container | None = None
        self.template_lock = -1
        self.pages = 0  # a criu that writes memory to files
        self.stream: socket.socket | None = None  # for memory that is fetched later

    def run(self) -> None:
        """Answer until the source hangs up."""
        self.channel.write(GREETING + b"\n")
        try:
            while True:
                request, data = self.channel.receive(self.patience_s(), check_interrupt)
                handler = HANDLERS.get(request.get("do"))
                if handler is None:
                    self.channel.send({"error": f"this node's vz does not know {request.get('do')!r}", "code": 17})
                    continue
                try:
                    answer = handler(self, request, data)
                except VzError as exc:
                    answer = {"error": str(exc), "code": exc.code if isinstance(exc, MigrateFailed) else _code(exc)}
                except OSError as exc:
                    where = f"{exc.filename}: " if exc.filename else ""
                    answer = {"error": f"{where}{exc.strerror}", "code": COPY_FAILED}
                if answer is not None:
                    self.channel.send(answer)
        except (Broken, Interrupted):
            pass
        finally:
            self.leave()

    def patience_s(self) -> float:
        """Return for how long the source may be silent now."""
        # its memory does not come without the source: the CT must not stand still for longer than is needed to see that
        lazy = self.entry is not None and self.entry.stage == log.MINE and self.stream is not None
        return LAZY_SILENCE_S if lazy else SILENCE_S

    def leave(self) -> None:
        """End the session: what came and was not taken goes, what was taken and not yet settled is settled."""
        self.end_pages()
        try:
            if self.entry is not None and self.node is not None and journal.read(self.entry.ctid):
                ct = self.ct or load(self.entry.ctid, self.node, must_exist=False)
                journal.hold(ct.ctid)
                incoming.mend(ct, journal.read(self.entry.ctid) or {})
        finally:
            self.unlock()

    def unlock(self) -> None:
        self.entry = self.ct = None
        if self.lock is not None:
            self.lock.__exit__()
            self.lock = None

    def end_pages(self) -> None:
        """End what an earlier try to send memory has left."""
        if self.pages:
            os.kill(self.pages, _signal.SIGKILL)
            os.waitpid(self.pages, 0)
            self.pages = 0
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def our_node(self) -> NodeConfig:
        if self.node is None:
            try:
                self.node = load_node()
            except NoGlobalConfig as exc:
                raise MigrateFailed(f"on the destination node: {exc}", NO_REMOTE_CONFIG) from exc
            report.set_log(self.node.logfile if self.node.logging else "", 0)
        return self.node

    def need_entry(self) -> log.Log:
        if self.entry is None:
            raise MigrateFailed("nothing has begun", COPY_FAILED)
        return self.entry


def hello(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    server.our_node()
    return checks.node_facts(str(request["nonce"]))


def check(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    from vz.ops.migrate.memory import lazy_obstacles

    return {**checks.answer(server.our_node(), _ctid(request), request), "lazy": lazy_obstacles(source=False)}


def template(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Say whether the template is here; if not, where to put it.  One copy comes at a time."""
    import fcntl

    node, digest, suffix = server.our_node(), _digest(request), _suffix(request)
    path = templates.incoming(node, digest, suffix)
    if server.template_lock < 0:
        server.template_lock = os.open(
            f"{node.template}/unpacked/.in.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        fcntl.flock(server.template_lock, fcntl.LOCK_EX)
    if not incoming.template_wanted(node, digest):
        _end_template(server)
        return {"have": True}
    return {"have": False, "path": path}


def template_there(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    node, digest, suffix = server.our_node(), _digest(request), _suffix(request)
    try:
        if suffix:
            templates.place_archive(node, digest, _template_name(request), suffix)
        else:
            templates.place_tree(node, digest)
    finally:
        _end_template(server)
    return {}


def begin(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    node, ctid = server.our_node(), _ctid(request)
    if not log.is_id(request["id"]):
        raise MigrateFailed("bad migration id", COPY_FAILED)
    report.set_log(node.logfile if node.logging else "", ctid)
    _lock(server, ctid)
    try:
        server.entry = incoming.begin(node, ctid, request)
    except BaseException:
        server.unlock()
        raise
    private, dump = server.entry.facts["private"], server.entry.facts["dump"]
    if request["online"]:
        make_dirs(os.path.dirname(dump), 0o700)
        make_dirs(dump, 0o700)
    return {"path": f"{private}/up" if request["layout"] == "overlay" else private, "dump": dump}


def adopt(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Fit the files that have come to this node; with data, only these paths (each ended by NUL) have changed."""
    entry = server.need_entry()
    if entry.facts["layout"] == "overlay":
        digest = _digest(request)
        only = [os.fsdecode(path) for path in data.split(b"\0")[:-1]] if request.get("only") else None
        moved.adopt(entry.facts["private"], templates.tree_of_digest(server.our_node(), digest), only)
    return {}


def arrive(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    server.ct = incoming.arrive(server.our_node(), server.need_entry(), request, data)
    return {"base": server.ct.idmap[0]}


def pages(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Connect criu to the stream for the memory that is open: it writes what comes to *folder* of the dump.

    With *lazy* nothing is written: the restore will ask for it.
    """
    entry = server.need_entry()
    folder, previous = str(request["folder"]), str(request["previous"])
    for name in (folder, previous):
        if name not in ("", "images") and not (name[:3] == "pre" and name[3:].isdecimal()):
            raise MigrateFailed("bad name of a folder for memory", COPY_FAILED)
    server.end_pages()
    sock = connect(entry.facts["id"])
    if request["lazy"]:
        server.stream = sock
        entry.at(entry.stage, lazy="yes")
        return {}
    with sock:
        dump = entry.facts["dump"]
        server.pages = page_server(dump, folder, f"../{previous}" if previous else "", sock.fileno())
    return {}


def pages_there(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    from vz.ops.migrate.ssh import wait_ticking

    if not server.pages:
        raise MigrateFailed("no memory has been announced", COPY_FAILED)
    pid, server.pages = server.pages, 0
    if wait_ticking(pid, check_interrupt):
        dump = server.need_entry().facts["dump"]
        raise MigrateFailed(f"Failed to copy the memory: {why(dump)}", COPY_FAILED)
    return {}


def take(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    entry = server.need_entry()
    if server.ct is None:
        raise MigrateFailed("it has not arrived", COPY_FAILED)
    try:
        incoming.take(server.ct, entry, server.stream.fileno() if server.stream is not None else -1)
    except BaseException:
        server.unlock()
        raise
    server.ct.forget_record()
    return {"running": server.ct.is_running(), "mounted": server.ct.is_mounted()}


def late(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Hand the CT what has come for it at the source meanwhile."""
    entry = server.need_entry()
    if server.ct is None or entry.stage != log.MINE:
        raise MigrateFailed("it has not been taken", COPY_FAILED)
    hand_in(server.ct, data)
    return {}


def settled(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    entry = server.need_entry()
    if server.ct is None or entry.stage != log.MINE:
        raise MigrateFailed("it has not been taken", COPY_FAILED)
    incoming.settle(server.ct, entry)
    server.unlock()
    return {}


def abort(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    entry = server.need_entry()
    if entry.stage != log.MINE:
        incoming.abort(server.our_node(), entry)
        server.unlock()
    return {}


def resolve(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Say where the CT of an earlier session is; that session's helper, should it still be there, has to go."""
    ctid, migration = _ctid(request), str(request["id"])
    if not log.accepted(migration):
        _lock(server, ctid, evict=migration)  # which mends
        server.unlock()
    return {"here": log.accepted(migration)}


def forget(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    log.forget(str(request["id"]))
    return {}


def ping(server: Server, request: dict[str, Any], data: bytes) -> dict[str, Any]:
    return {"time": time.time()}


HANDLERS: dict[object, Handler] = {
    "hello": hello,
    "check": check,
    "template": template,
    "template_there": template_there,
    "begin": begin,
    "adopt": adopt,
    "arrive": arrive,
    "pages": pages,
    "pages_there": pages_there,
    "take": take,
    "late": late,
    "settled": settled,
    "abort": abort,
    "resolve": resolve,
    "forget": forget,
    "ping": ping,
}


def _lock(server: Server, ctid: int, evict: str = "") -> None:
    """Take the lock of CT *ctid* and mend what is left of it; *evict*: a helper that works on this migration goes."""
    node = server.our_node()
    lock = CTLock(node.lockdir, ctid)
    try:
        lock.__enter__()
    except Locked as exc:
        if not evict or (journal.read(ctid) or {}).get("id") != evict:
            raise MigrateFailed(f"CT {ctid} is locked on the destination node: {exc}", LOCKED) from exc
        _evict(ctid, lock)
    server.lock = lock
    try:
        settle(load(ctid, node, must_exist=False))
    except BaseException:
        server.unlock()
        raise


def _evict(ctid: int, lock: CTLock) -> None:
    """End the helper whose connection is dead and that does not know it yet, and take its lock."""
    # one that has taken the CT comes to its end by itself: going on is quicker than going back
    taken = (journal.read(ctid) or {}).get("stage") == log.MINE
    begun = time.monotonic()
    signals = [(begun + (TAKEN_PATIENCE_S if taken else 2.0), _signal.SIGTERM)]
    signals.append((signals[0][0] + 8.0, _signal.SIGKILL))  # killed, it is mended
    while time.monotonic() < begun + TAKEN_PATIENCE_S + 15.0:
        try:
            lock.__enter__()
            return
        except Locked:
            pass
        if signals and time.monotonic() > signals[0][0]:
            holder = lock.holder()
            if holder and _is_helper(holder):
                os.kill(holder, signals[0][1])
            signals.pop(0)
        time.sleep(0.1)
    raise MigrateFailed(f"CT {ctid} is locked on the destination node", LOCKED)


def _is_helper(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"--serve" in file.read(4096).split(b"\0")
    except OSError:
        return False


def _end_template(server: Server) -> None:
    if server.template_lock >= 0:
        os.close(server.template_lock)
        server.template_lock = -1


def _code(exc: VzError) -> int:
    return {ExitCode.LOCKED: LOCKED, ExitCode.FS_NO_DISK_SPACE: COPY_FAILED}.get(exc.code, 7)


def _ctid(request: dict[str, Any]) -> int:
    ctid = int(request["ctid_there"])
    if not 0 < ctid <= MAX_CTID:
        raise MigrateFailed("bad CTID", COPY_FAILED)
    return ctid


def _digest(request: dict[str, Any]) -> str:
    digest = str(request["digest"])
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise MigrateFailed("bad digest of a template", COPY_FAILED)
    return digest


def _suffix(request: dict[str, Any]) -> str:
    suffix = str(request["suffix"])
    if suffix and suffix not in templates.SUFFIXES:
        raise MigrateFailed("bad kind of archive", COPY_FAILED)
    return suffix


def _template_name(request: dict[str, Any]) -> str:
    name = str(request["name"])
    if not name or "/" in name or name.startswith(".") or not name.isprintable():
        raise MigrateFailed("bad name of a template", COPY_FAILED)
    return name


def serve(verbosity: int) -> None:
    """Run the helper on our standard streams; what operations print goes to standard error, and so to the source."""
    channel = Channel(os.dup(0), os.dup(1))
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    catch_signals()
    report.set_up("vzmigrate", verbosity=verbosity - 1)
    Server(channel).run()
