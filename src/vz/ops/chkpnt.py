"""chkpnt: a running CT's whole state into a dump, after which it is suspended.

The order is what keeps exactly one of *running* and *suspended* true (docs/checkpoint.md): network locked, processes
frozen, criu dumps, the images are synced and take their name, and only then does criu kill the CT.  The parts of it
that are commands of their own are in ``stages``.
"""

from __future__ import annotations

import errno
import os
import time

from vz.checkpoint import criu, images, preflight, processes, sockets, store, terminals, watches
from vz.checkpoint.options import criu_program, dump_options
from vz.container.ct import KEPT, Container, printable
from vz.container.record import Record
from vz.errors import ExitCode, VzError
from vz.net import lock
from vz.ops import carry, dumped, journal, mount, systemd
from vz.ops.join import open_init
from vz.ops.report import say, warn
from vz.ops.settle import clear, forget_run
from vz.ops.undo import check_interrupt
from vz.resources import cgroups, tree

# a connection that nobody has accepted yet fails a dump, and so does a netlink message that nobody has read, or a watch
# on a file that has just gone; most are taken a moment later
TRANSIENT = (
    "error parsing [inotify",
    "closed in-flight socket",
    "In-flight connection",
    "in-flight",
    "netlink: The socket has data to read",
    "Control messages in queue",
)
TRIES = 3
BACKLOG_LOOKS, BACKLOG_PAUSE_S = 4, 0.05
# freezing hits some processes in the middle of what criu cannot dump but is over in a moment
SETTLE_S, SETTLE_PAUSE_S = 3.0, 0.005

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class NotDumped(VzError):
    """The dump failed; the CT runs on."""

    code = ExitCode.CHKPNT_ERROR


class Dump:
    """One dump that is being made: where to, called what, and how far it has come.

    A migration makes its own kind of it: what it notes, and what is done while criu holds the CT.
    """

    __slots__ = ("counts", "durable", "ghost_bytes", "keep_running", "path", "serial", "socket", "ttys", "was_frozen")

    def __init__(self, path: str, *, keep_running: bool = False, was_frozen: bool = False) -> None:
        self.path = path
        self.serial = os.urandom(8).hex()
        self.keep_running = keep_running
        self.was_frozen = was_frozen
        self.ghost_bytes = 0  # the largest unlinked file that a process has open
        self.ttys: list[terminals.Descriptor] = []  # what its processes have open as /dev/tty
        self.socket = -1  # for criu's page traffic
        self.counts = False  # it is whole, synced and has its name: what criu does now cannot take it back
        self.durable = True  # its images are synced before it counts

    def prepare(self) -> list[str]:
        """Return more arguments for criu; called before each attempt, while the CT still runs."""
        return []

    def locked(self, ct: Container) -> None:
        """Called when its network has just been shut, before each attempt."""

    def note(self, ctid: int) -> None:
        """Write down what the next command needs should this one be killed."""
        facts = {
            "path": self.path,
            "serial": self.serial,
            "keep": "yes" if self.keep_running else "no",
            "frozen": "yes" if self.was_frozen else "no",
            "counts": "yes" if self.counts else "no",
        }
        journal.hold(ctid)
        journal.write(ctid, "chkpnt", facts, durable=False)

    def forget(self, ctid: int) -> None:
        """There is no dump, and nothing to be done about it any more."""
        journal.finish(ctid)

    def hold(self, ct: Container, folder: str) -> None:
        """Do what is to be done while criu holds the CT and its images are complete in *folder*."""

    def tick(self) -> None:
        """Called now and then until the dump counts; an exception gives it up."""
        check_interrupt()

    def serve(self) -> None:
        """Called when the dump counts: with lazy pages criu serves the CT's memory meanwhile."""


def chkpnt(ct: Container, path: str = "", *, keep_running: bool = False) -> None:
    """Dump the running CT to *path* (its default dump) and stop it; with *keep_running* it goes on.

    Raises:
        NotRunning: 31.
        NotDumped: 16: the CT runs on and an older dump is as it was; criu's logs are in ``PATH.fail``.
    """
    record = need_running(ct)
    say("Setting up checkpoint...")
    made = Dump(path or ct.dump_path, keep_running=keep_running, was_frozen=cgroups.is_frozen(ct))
    check(ct, record, made)
    make(ct, record, made)
    if not keep_running:
        say("\tkill...")
        end_suspended(ct)
    elif not made.was_frozen:
        go_on(ct, record)
    else:
        lock.unlock(ct, record)
    store.remove(made.path + store.OLD)
    journal.finish(ct.ctid)
    say("Checkpointing completed successfully")


def need_running(ct: Container) -> Record:
    """Return the record of the running CT; NotRunning (31)."""
    record, pidfd = open_init(ct)
    os.close(pidfd)
    return record


def check(ct: Container, record: Record, made: Dump) -> None:
    """Refuse, before anything changes, what would fail or be lost; NotDumped (16) has a line for each reason."""
    found = obstacles(ct, record, made)
    if found:
        raise NotDumped("\n".join(["Unable to make a dump:", *(f"\t{line}" for line in found)]))
    for text in doubts(ct):
        warn(f"WARNING: {text}")


def doubts(ct: Container) -> list[str]:
    """Return a line for each thing that will not be after a dump and a restore as it was before."""
    pids = cgroups.pids(ct)
    late = sockets.waiting(pids)
    for _ in range(BACKLOG_LOOKS):
        if late:  # most are taken a moment later
            time.sleep(BACKLOG_PAUSE_S)
            again = sockets.waiting(pids)
            late = {inode: found for inode, found in late.items() if inode in again}
    found = []
    for pid, name in late.values():
        process = processes.read_process(pid)
        who = process.label if process else f"process {pid}"
        found.append(f"{who} does not accept the connections to {name}: those that wait are lost")
    doubt = systemd.doubt(ct.root)
    return [*found, doubt] if doubt else found


def obstacles(ct: Container, record: Record, made: Dump) -> list[str]:
    """Return a line for each thing that stands in the way of a dump; nothing is changed."""
    pids = cgroups.pids(ct)
    found = []
    try:
        found += dumped.old_criu(criu.version())
    except FileNotFoundError:
        found.append("criu is not installed: tools/install-criu, or the criu package")
    missing = dumped.missing(dumped.tools(record))
    found += [f"{program} is not installed: criu needs it" for program in missing]
    try:
        store.check_place(made.path)
    except store.NoDump as exc:
        found.append(str(exc))
    lines, made.ghost_bytes = preflight.look(record, pids)
    return found + lines + dumped.lacks_space(made.path, pids)


def make(ct: Container, record: Record, made: Dump) -> None:
    """Make the dump; when this returns it counts, and the CT is dead, or with keep_running frozen and locked.

    Raises:
        NotDumped: 16: the CT runs on (or is frozen, as it was), an older dump is as it was.
    """
    made.note(ct.ctid)
    held: list[int] = []
    try:
        attempt_dump(ct, record, made, held)
    except BaseException as exc:
        if made.counts and not isinstance(exc, NotDumped):
            return  # criu's own end after that is of no interest
        logs = take_back(ct, record, made)
        made.forget(ct.ctid)
        if isinstance(exc, criu.CriuFailed):
            raise NotDumped(_reasons("Checkpointing failed", exc.lines, logs)) from exc
        if isinstance(exc, images.BadImage):
            raise NotDumped(_reasons("Checkpointing failed", [str(exc)], logs)) from exc
        if isinstance(exc, OSError):
            what = f" ({exc.filename})" if exc.filename else ""
            hint = "; DUMPDIR in vz.conf says where dumps go" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise NotDumped(f"Checkpointing failed: {exc.strerror}{what}{hint}") from exc
        raise
    finally:
        for fd in held:
            os.close(fd)


def take_back(ct: Container, record: Record, made: Dump) -> str:
    """Undo a dump that failed and let the CT go on, in this order: nothing may run that a dump still stands for.

    Returns where the logs are.
    """
    try:
        logs = store.keep_logs(made.path + store.NEW, made.path)
        store.retract(made.path, made.serial)
    except OSError as exc:
        warn(f"while undoing: {exc.filename}: {exc.strerror}")
        logs = ""
    recover(ct, record, thaw=not made.was_frozen)
    return logs


def attempt_dump(ct: Container, record: Record, made: Dump, held: list[int]) -> None:
    """Take the steps up to the point where the dump counts and criu has killed the CT (or left it frozen).

    *held* gets the descriptors that must stay open until then.
    """
    program = criu_program()
    for attempt in range(1, TRIES + 1):
        folder = store.fresh(made.path)
        extra = made.prepare()
        held += watches.pin(ct.root, cgroups.pids(ct))
        level = 0 if attempt == 1 else 1
        if not made.was_frozen:
            say("\tsuspend...", level)
        lock.lock(ct, record)
        made.locked(ct)
        settle(ct, again=not made.was_frozen)
        lost = preflight.entered(record, cgroups.pids(ct))
        if lost:  # nobody can come in any more: the group is frozen
            raise NotDumped("\n".join(["Unable to make a dump:", *(f"\t{line}" for line in lost)]))
        if attempt == TRIES and sockets.drain_netlink(cgroups.pids(ct)):
            warn("WARNING: messages of the kernel (netlink) that a program has not read are lost")
        if attempt == TRIES:
            sockets.drop_waiting(cgroups.pids(ct))  # check() has named them
        made.ttys, _ = terminals.look(cgroups.pids(ct))
        say("\tdump...", level)
        argv = dump_options(
            record,
            f"{folder}/images",
            work=folder,
            freezer=cgroups.ct_dir(ct),
            leave_running=made.keep_running,
            ghost_bytes=made.ghost_bytes,
            skip_in_flight=attempt == TRIES,
        )

        def on_stage(stage: str, _: int) -> None:
            if stage == criu.POST_DUMP:
                complete(ct, record, made)

        try:
            criu.run(
                [program, *argv, *terminals.externals(made.ttys), *extra],
                f"{folder}/dump.log",
                cgroups.ct_dir(ct),
                on_stage,
                tick=lambda: None if made.counts else made.tick(),
                passed=made.socket,
                afterwards=made.serve,
            )
            return
        except criu.CriuFailed as exc:
            if made.counts or attempt == TRIES or not any(word in line for line in exc.lines for word in TRANSIENT):
                raise
        recover(ct, record, thaw=not made.was_frozen)
        time.sleep(0.05)


def settle(ct: Container, *, again: bool) -> None:
    """Freeze the CT at a moment when nothing stands in the way of a dump; with *again*, it is tried until there is one.

    Raises:
        NotDumped: 16: no such moment came within SETTLE_S.
    """
    deadline = time.monotonic() + SETTLE_S
    while True:
        cgroups.freeze(ct)
        pids = cgroups.pids(ct)
        pid, why = processes.in_vfork(pids), "waits in vfork(2) for a child that executes nothing"
        if not pid:
            pid, why = sockets.credentials_queued(pids), "has always more messages (of a log, say) than it reads"
        if not pid:
            return
        if not again or time.monotonic() > deadline:
            process = processes.read_process(pid)
            raise NotDumped(f"Unable to make a dump:\n\t{process.label if process else pid} {why}: try again later")
        cgroups.thaw(ct)
        check_interrupt()
        time.sleep(SETTLE_PAUSE_S)


def complete(ct: Container, record: Record, made: Dump) -> None:
    """Finish the dump while criu holds the CT: fix, add our own files, sync, and give it its name."""
    folder = made.path + store.NEW
    images.fix_executables(f"{folder}/images")
    ttys = [(processes.inner_id(tty.pid), tty.fd, tty.index) for tty in made.ttys]
    terminals.name_by_number(f"{folder}/images", ttys)
    images.restart_polls(f"{folder}/images", processes.Calls(cgroups.pids(ct)).before)
    store.write(folder, "record", record.text())
    store.write(folder, "cgroups", "".join(f"{line}\n" for line in tree.save(ct)))
    store.write(folder, "conf", ct.conf.conf.dump() if ct.conf.conf is not None else b"")
    carry.save(ct, record, folder)
    if made.keep_running:
        store.write(folder, KEPT, "")
    store.write_info(folder, dumped.facts(ct, record, made.serial))
    made.hold(ct, folder)
    if made.durable:
        store.sync(folder)
    store.commit(made.path)
    made.counts = True
    made.note(ct.ctid)


def go_on(ct: Container, record: Record) -> None:
    """Let a frozen CT and its network go on."""
    lock.unlock(ct, record)
    cgroups.thaw(ct)


def recover(ct: Container, record: Record, *, thaw: bool = True) -> None:
    """Bring the CT back after a dump that failed, however far it got, a killed criu included."""
    sockets.end_repair(cgroups.pids(ct))
    lock.unlock(ct, record)
    if thaw:
        cgroups.thaw(ct)


def end_suspended(ct: Container) -> None:
    """Take down what is left of a CT whose dump counts: processes, cgroups, its network, its root mount."""
    record = ct.record()
    if record is not None:
        lock.sever(record)
    clear(ct)
    if ct.is_mounted():
        mount.umount_with_scripts(ct)
    forget_run(ct)


def mend(ct: Container, facts: dict[str, str], tell: Callable[[str], None] = say) -> None:
    """Finish or undo a chkpnt that was killed: the dump counts or it does not, and the CT is where that says."""
    path, serial = facts["path"], facts["serial"]
    keep = facts.get("keep") == "yes"
    criu.wait_for_stragglers(f"{path}{store.NEW}/images")
    record = ct.record()
    alive = record is not None and record.is_alive()
    # with the CT dead the name is enough: the journal is not synced, and nothing has run since the dump took its name
    if store.identity(path) == serial and (facts.get("counts") == "yes" or not alive):
        store.remove(path + store.OLD)
        if not keep:
            tell("An earlier checkpoint of this container was interrupted at its end: it is suspended")
            end_suspended(ct)
            return
        tell("An earlier checkpoint of this container was interrupted at its end: the dump is whole")
    else:
        tell(f"An earlier checkpoint of this container was interrupted: {'it runs on' if alive else 'undoing it'}")
        store.retract(path, serial)
    if record is not None and alive:
        recover(ct, record, thaw=facts.get("frozen") != "yes")


def _reasons(head: str, lines: list[str], logs: str) -> str:
    words = [f"{head}: {printable(lines[0])}" if lines else head, *(f"\t{printable(line)}" for line in lines[1:])]
    if logs:
        words.append(f"\tcriu's log is in {logs}")
    return "\n".join(words)
