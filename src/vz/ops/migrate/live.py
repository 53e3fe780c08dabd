"""vzmigrate --online on the source: the CT goes with its processes, memory and connections.

It is frozen, dumped, and held: frozen still, its network shut, while files and images go over and the destination
restores it.  Whatever fails, it is let go here and has only been slow.  It is killed here when the destination has
answered that it runs there.
"""

from __future__ import annotations

import time

from vz.checkpoint import criu
from vz.container.ct import Container
from vz.disk import moved
from vz.disk.changes import Tree
from vz.ops import chkpnt, dumped
from vz.ops.migrate import checks, log, memory
from vz.ops.migrate.errors import CHECKPOINT, MigrateFailed
from vz.ops.migrate.memory import Memory
from vz.ops.migrate.session import DETAIL, PROGRESS, Session
from vz.ops.migrate.ssh import Copy
from vz.ops.report import say
from vz.ops.undo import check_interrupt
from vz.resources import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SUFFIX = ".out"  # of the dump's path: not the place where a suspended CT's would be looked for


def facts(ct: Container) -> dict[str, Any]:
    """Return what the destination has to know of a CT that is to be restored there."""
    return {"criu": list(criu.version()), "cpu": checks.cpu_flags(), "memory": dumped.memory_bytes(cgroups.pids(ct))}


def obstacles(ct: Container) -> list[str]:
    """Return a line for each thing that stands in the way of a dump here."""
    made = chkpnt.Dump(ct.dump_path + SUFFIX, keep_running=True)
    return chkpnt.obstacles(ct, chkpnt.need_running(ct), made)


class Held(chkpnt.Dump):
    """A dump that goes over while criu holds the CT; its notes are in the migration's journal."""

    __slots__ = ("failure", "frozen_at", "memory", "session", "there", "tree")

    def __init__(self, session: Session, memory: Memory, tree: str, there: str) -> None:
        super().__init__(session.ct.dump_path + SUFFIX, keep_running=True)
        self.durable = False  # while it counts the CT lives, here or there
        self.session = session
        self.memory = memory
        self.tree = tree
        self.there = there
        self.frozen_at = 0.0
        self.failure: BaseException | None = None  # of a hand-over while criu served the memory

    def prepare(self) -> list[str]:
        self.socket = self.memory.open("images").socket
        self.frozen_at = time.monotonic()
        return self.memory.dump_options(self.path)

    def locked(self, ct: Container) -> None:
        """From here on nothing that comes for it is lost."""
        self.session.catch_late()

    def tick(self) -> None:
        """Give up when it has been frozen for too long: the stream is cut, and criu lets the CT go on."""
        limit_s = self.memory.limit_s
        try:
            if not limit_s:
                return self.session.tick()
            check_interrupt()  # the helper is not asked whether it is there: a dead link would hold us up
            if time.monotonic() > self.frozen_at + limit_s:
                raise MigrateFailed(
                    f"It has been frozen for {limit_s * 1000:.0f} ms (--max-downtime), and is not over there yet",
                    CHECKPOINT,
                )
        except BaseException:
            self.memory.close()
            raise

    def note(self, ctid: int) -> None:
        counts = "yes" if self.counts else "no"
        self.session.entry.at(log.FREEZING, path=self.path, serial=self.serial, counts=counts)

    def forget(self, ctid: int) -> None:
        self.session.entry.at(log.COPYING, path="")

    def hold(self, ct: Container, folder: str) -> None:
        """Copy images and the last changes of the files: those that criu has made for the restore are there now."""
        session = self.session
        if self.memory.kind != memory.LAZY:
            self.memory.finish(self.tick)
        session.stage("Copying images and changes")
        # the link to an earlier round is another one over there
        options = ("--whole-file", "--exclude=/images/parent")
        images = session.route.rsync_argv(*options, f"{folder}/", f"{session.route.host}:{session.dump_there}/")
        copies = [Copy(images, "the images")]
        try:
            if session.facts["layout"] == "overlay":
                moved.materialize(ct)
            copies.append(Copy(session.files_argv(self.tree, self.there, running=False), "the private area"))
            for copy in copies:
                copy.finish(self.tick)
        finally:
            for copy in copies:
                copy.end()

    def serve(self) -> None:
        """Hand the CT over while criu is there to serve its memory, if that follows later."""
        if self.memory.kind != memory.LAZY:
            return
        try:
            give(self.session)
        except BaseException as exc:
            self.failure = exc
        finally:
            self.memory.close()  # or criu would wait for the other side for ever


def live(session: Session) -> None:
    """Copy, freeze, dump, copy again, hand over."""
    ct = session.ct
    there = session.prepare()
    with Tree(ct.private) as tree:
        top = f"{tree.path}/up" if session.facts["layout"] == "overlay" else tree.path
        session.copy_files(top, there, running=True)
        base = session.send_configuration()
        say(f"   Host ids over there from {base} on", DETAIL)
        say("Live migrating container...", PROGRESS)
        record = chkpnt.need_running(ct)
        way = session.memory
        assert way is not None
        made = Held(session, way, top, there)
        try:
            chkpnt.check(ct, record, made)
            session.entry.at(log.COPYING, pre=made.path + memory.PRE)
            if way.kind == memory.ITERATIVE:
                session.stage("Copying memory")
            way.precopy(ct, record, made.path)
            way.predict()
            session.stage("Suspend")
            chkpnt.make(ct, record, made)
        except chkpnt.NotDumped as exc:
            raise MigrateFailed(str(exc), CHECKPOINT) from exc
        finally:
            way.close()
    if made.failure is not None:
        raise made.failure
    if way.kind != memory.LAZY:
        give(session)


def give(session: Session) -> None:
    """Let the destination fit the files to itself and take the CT."""
    from vz.ops.migrate.source import hand_over

    session.ask("adopt", digest=session.facts["digest"])
    hand_over(session)
