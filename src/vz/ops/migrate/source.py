"""vzmigrate on the source: check both sides, then move the CT offline or online, in the order of docs/migration.md."""

from __future__ import annotations

import os

from vz.container.ct import Container
from vz.disk import moved
from vz.disk.changes import Tree
from vz.errors import Interrupted, VzError
from vz.ops.migrate import checks, conditions, log, outgoing
from vz.ops.migrate.errors import (
    CANT_CONNECT,
    CHECKPOINT,
    COPY_FAILED,
    CPU,
    EXISTS,
    STOP_FAILED,
    STOPPED,
    VERSION,
    MigrateFailed,
)
from vz.ops.migrate.guard import Guard
from vz.ops.migrate.session import DETAIL, PROGRESS, Session, complain
from vz.ops.migrate.ssh import Refused
from vz.ops.migrate.wire import Broken
from vz.ops.report import say, warn
from vz.requests import Migrate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def migrate(ct: Container, request: Migrate, *, was_running: bool = False) -> None:
    """Move *ct* as *request* says; *was_running*: an interrupted migration had stopped it.

    Raises:
        MigrateFailed: with vzmigrate's exit status; the CT is here, as it was.
        outgoing.Undecided: the connection broke in the moment when only the destination knows.
    """
    was = state(ct)
    if was == "stopped" and was_running:
        was = "running"
    if was == "suspended":
        raise MigrateFailed(f"CT {ct.ctid} is suspended ({ct.dump_path}): resume or remove its dump first", STOP_FAILED)
    if request.online and was != "running":
        raise MigrateFailed("Can't perform live migration of a stopped container", STOPPED)
    word = "Checking" if request.check_only else "Starting"
    kind = "live migration" if request.online else "migration"
    say(f"{word} {kind} of CT {ct.ctid} to {request.host}", PROGRESS)
    session = Session(ct, request, was)
    try:
        check(session)
        if request.check_only:
            return
        move(session)
    except Broken as exc:
        raise MigrateFailed(f"Lost {request.host}: {exc}", CANT_CONNECT) from exc
    finally:
        session.helper.close()


def state(ct: Container) -> str:
    """Return what the CT is now: running, mounted, suspended or stopped."""
    if ct.is_running():
        return "running"
    if ct.is_mounted():
        return "mounted"
    return "suspended" if ct.is_suspended() else "stopped"


def check(session: Session) -> None:
    """Ask both sides for everything that would stop the migration.

    Raises:
        MigrateFailed: with the status of the first problem; the others are printed.
    """
    session.stage("Checks")
    complain(survey(session), session.request.ignore)
    if session.request.online:
        from vz.ops.migrate.memory import Memory

        session.memory = Memory(session, session.facts["lazy_there"])


def survey(session: Session) -> list[dict[str, Any]]:
    """Return every problem of both sides, each with vzmigrate's status for it; 0: only to be said.

    Raises:
        MigrateFailed: the other side cannot be asked, or it is none; no layout that can be moved.
    """
    greet(session)
    problems: list[dict[str, Any]] = []
    session.facts = checks.ct_facts(session.ct, was=session.was)
    if session.request.online:
        lines, session.facts["live"] = live_facts(session.ct)
        problems = [{"code": CHECKPOINT, "text": line, "about": ""} for line in lines]
        if not session.facts["live"]:
            return problems
    answer = session.ask("check", **session.facts)
    session.facts["template_there"] = answer["template"]
    session.facts["lazy_there"] = answer["lazy"]
    skew = conditions.clock_warning(conditions.clock_offset(lambda: session.helper.ask("ping").get("time")))
    outside = conditions.mount_warning(session.facts["live"]) if session.request.online else ""
    problems += [{"code": 0, "text": text, "about": ""} for text in (skew, outside) if text]
    problems += answer["problems"]
    return problems


def live_facts(ct: Container) -> tuple[list[str], dict[str, Any]]:
    """Return (what stands in the way of a dump, what another node must know to restore it) of a running CT.

    Without criu here there is nothing that another node could be told.
    """
    from vz.ops.chkpnt import need_running
    from vz.ops.migrate import live

    lines = live.obstacles(ct)
    try:
        return lines, {**live.facts(ct), **conditions.of_ct(ct, need_running(ct))}
    except FileNotFoundError:
        return lines, {}


def greet(session: Session) -> None:
    """Make sure that the other side is another node, of the same version and machine.

    Raises:
        MigrateFailed: it is this node (9), another version (17), another machine (18).
    """
    host = session.request.host
    checks.leave_mark(session.migration)
    try:
        hello = session.ask("hello", nonce=session.migration)
    finally:
        os.unlink(checks.mark_path(session.migration))
    if hello["protocol"] != checks.PROTOCOL:
        raise MigrateFailed(f"vz on {host} is of another version: bring both to one", VERSION)
    if hello["same"]:
        raise MigrateFailed(f"{host} is this node: a container cannot migrate to where it is", EXISTS)
    if hello["machine"] != os.uname().machine:
        raise MigrateFailed(f"{host} is a {hello['machine']}, this node a {os.uname().machine}", CPU)


def move(session: Session) -> None:
    """Do it; on failure the CT is brought back into the state that it had."""
    guard = Guard(session.ct.node, session.ct.ctid)
    try:
        if session.request.online:
            from vz.ops.migrate.live import live

            live(session)
        else:
            offline(session)
    except (VzError, Broken, OSError) as exc:
        stay(session)
        guard.dismiss()
        if isinstance(exc, OSError):
            where = f"{exc.filename}: " if exc.filename else ""
            raise MigrateFailed(f"{where}{exc.strerror}", COPY_FAILED) from exc
        raise
    finish(session)
    guard.dismiss()


def offline(session: Session) -> None:
    """Copy, stop, copy again, hand over."""
    ct = session.ct
    there = session.prepare()
    upper = session.facts["layout"] == "overlay"
    with Tree(ct.private) as tree:
        top = f"{tree.path}/up" if upper else tree.path
        if session.was in ("running", "mounted"):
            session.copy_files(top, there, running=True)
            halt(session)
            session.stage("Copying what changed")
        session.copy_files(top, there, running=False)
    session.ask("adopt", digest=session.facts["digest"])
    base = session.send_configuration()
    say(f"   Host ids over there from {base} on", DETAIL)
    hand_over(session)


def halt(session: Session) -> None:
    """Stop and unmount the CT."""
    from vz.ops import mount, stop

    ct = session.ct
    session.stage("Stopping")
    session.entry.at(log.STOPPING)
    try:
        if ct.is_running():
            say("Stopping container", PROGRESS)
            stop.stop(ct, skip_umount=True)
            ct.forget_record()
        if session.facts["layout"] == "overlay":
            moved.materialize(ct)
        if ct.is_mounted():
            mount.umount_with_scripts(ct)
    except Interrupted:
        raise
    except VzError as exc:
        raise MigrateFailed(f"Failed to stop the container: {exc}", STOP_FAILED) from exc


def hand_over(session: Session) -> None:
    """Tell the destination to take the CT; when this returns, it has, and the CT is there what it was here.

    Raises:
        MigrateFailed: it could not be started there, and is ours.  Broken: nobody knows.
    """
    word = {"running": "Starting container", "mounted": "Mounting container"}.get(session.was)
    if session.request.online:
        session.stage("Restore and resume")
    else:
        session.stage(word or "Handing over")
        if word:
            say(word, PROGRESS)
    before = session.entry.stage
    session.entry.at(log.HANDOVER)
    try:
        session.ask("take", tick=None)  # an interrupt waits: half-way nobody knows whose it is
    except Refused:
        session.entry.at(before)  # it says itself that it has given the CT back
        raise
    session.send_late()
    session.stage("Making it safe there")
    try:
        session.ask("settled", tick=None)
    except Refused:
        session.entry.at(before)  # its memory did not come: it is as it was when it was frozen
        raise
    session.entry.at(log.LEAVING)


def stay(session: Session) -> None:
    """After a failure: find out where the CT is, and bring it back here into the state that it had.

    Raises:
        outgoing.Undecided: see outgoing.is_there().
    """
    entry, ct = session.entry, session.ct
    if not entry.stage:
        return
    if entry.stage == log.HANDOVER:
        warn(f"Lost {session.request.host} while it was taking the container; asking it")
        if outgoing.is_there(ct.ctid, entry.facts):
            entry.at(log.LEAVING)
    if entry.stage == log.LEAVING:
        warn(f"The container is on {session.request.host}")
        outgoing.leave(ct, entry)
        return
    outgoing.go_on(ct, entry)
    session.keep_late()
    clean = True
    try:
        session.ask("abort")
    except Broken:
        clean = False
    except VzError:
        pass  # nothing had begun
    outgoing.bring_back(ct, session.was)
    entry.end()
    if not clean:
        try:  # a new helper clears up after the one that is gone
            outgoing.is_there(ct.ctid, entry.facts)
        except outgoing.Undecided:
            pass  # so will the next command there


def finish(session: Session) -> None:
    """Remove what is left here and report."""
    say("Cleaning up", PROGRESS)
    session.stage("Cleaning up")
    try:
        outgoing.leave(session.ct, session.entry)
    except (VzError, OSError) as exc:
        raise MigrateFailed(
            f"The container is on {session.request.host}, but what is left here could not be removed: {exc}",
            STOP_FAILED,
        ) from exc
    try:
        session.helper.ask("forget", id=session.migration, timeout_s=30.0)
    except (Broken, VzError):
        pass
    if session.request.times:
        session.print_times()
    report(session)


def report(session: Session) -> None:
    """Print the last line: what is where, and how long it was not to be had."""
    where = f"{session.request.host}"
    if session.newid != session.ct.ctid:
        where += f" as {session.newid}"
    begun = {name: at for name, at in session.stages}
    if session.was == "running":
        down = begun["Making it safe there"] - begun["Suspend" if session.request.online else "Stopping"]
        kind = "frozen" if session.request.online else "down"
        say(f"Container {session.ct.ctid} is running on {where}; it was {kind} for {down:.2f} s", PROGRESS)
    else:
        say(f"Container {session.ct.ctid} is {session.was} on {where}", PROGRESS)
