"""vzmigrate --online on the source: the CT goes with its processes, memory and connections.

It is frozen, dumped, and held: frozen still, its network shut, while files and images go over and the destination
restores it.  Whatever fails, it is let go here and has only been slow.  It is killed here when the destination has
answered that it runs there.
"""

from __future__ import annotations

from vz.checkpoint import criu
from vz.container.ct import Container
from vz.disk import moved
from vz.disk.changes import Tree
from vz.ops import chkpnt, dumped
from vz.ops.migrate import checks, log
from vz.ops.migrate.errors import CHECKPOINT, MigrateFailed
from vz.ops.migrate.session import DETAIL, PROGRESS, Session
from vz.ops.migrate.ssh import Copy
from vz.ops.report import say
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

    __slots__ = ("session", "there", "tree")

    def __init__(self, session: Session, tree: str, there: str) -> None:
        super().__init__(session.ct.dump_path + SUFFIX, keep_running=True)
        self.durable = False  # while it counts the CT lives, here or there
        self.session = session
        self.tree = tree
        self.there = there

    def note(self, ctid: int) -> None:
        counts = "yes" if self.counts else "no"
        self.session.entry.at(log.FREEZING, path=self.path, serial=self.serial, counts=counts)

    def forget(self, ctid: int) -> None:
        self.session.entry.at(log.COPYING, path="")

    def hold(self, ct: Container, folder: str) -> None:
        """Copy images and the last changes of the files: those that criu has made for the restore are there now."""
        session = self.session
        session.stage("Copying images and changes")
        images = session.route.rsync_argv("--whole-file", f"{folder}/", f"{session.route.host}:{session.dump_there}/")
        copies = [Copy(images, "the images")]
        try:
            if session.facts["layout"] == "overlay":
                moved.materialize(ct)
            copies.append(Copy(session.files_argv(self.tree, self.there, running=False), "the private area"))
            for copy in copies:
                copy.finish(session.tick)
        finally:
            for copy in copies:
                copy.end()


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
        made = Held(session, top, there)
        try:
            chkpnt.check(ct, record, made)
            session.stage("Suspend")
            chkpnt.make(ct, record, made)
        except chkpnt.NotDumped as exc:
            raise MigrateFailed(str(exc), CHECKPOINT) from exc
    session.ask("adopt", digest=session.facts["digest"])
    from vz.ops.migrate.source import hand_over

    hand_over(session)
