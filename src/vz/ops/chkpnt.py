"""chkpnt: a running CT's whole state into a dump, after which it is suspended; and the sub-steps of that.

The order is what keeps exactly one of *running* and *suspended* true (docs/checkpoint.md): network locked, processes
frozen, criu dumps, the images are synced and take their name, and only then does criu kill the CT.
"""

from __future__ import annotations

import os
import time

from vz.checkpoint import criu, images, store
from vz.checkpoint.options import criu_program, dump_options
from vz.container.ct import Container
from vz.container.record import Record
from vz.errors import ExitCode, NotRunning, VzError
from vz.net import lock
from vz.ops import dumped, journal, mount
from vz.ops.join import open_init
from vz.ops.report import say, warn
from vz.ops.settle import clear
from vz.ops.undo import check_interrupt
from vz.resources import cgroups, tree

# a connection that nobody has accepted yet fails a dump; most are accepted a moment later
TRANSIENT = ("closed in-flight socket", "In-flight connection", "in-flight")
TRIES = 3


class NotDumped(VzError):
    """The dump failed; the CT runs on."""

    code = ExitCode.CHKPNT_ERROR


def chkpnt(ct: Container, path: str = "", *, keep_running: bool = False) -> None:
    """Dump the running CT to *path* (its default dump) and stop it; with *keep_running* it goes on.

    Raises:
        NotRunning: 31.
        NotDumped: 16: nothing has changed but the logs in ``PATH.fail``.
    """
    record, pidfd = open_init(ct)
    os.close(pidfd)
    path = path or ct.dump_path
    say("Setting up checkpoint...")
    serial = os.urandom(8).hex()
    journal.begin(ct.ctid, "chkpnt", path=path, serial=serial, keep="yes" if keep_running else "no")
    try:
        dump(ct, record, path, serial, keep_running=keep_running)
    except BaseException as exc:
        recover(ct, record)
        logs = store.keep_logs(path + store.NEW, path)
        store.retract(path, serial)
        journal.end(ct.ctid)
        if isinstance(exc, criu.CriuFailed):
            raise NotDumped(_reasons("Checkpointing failed", exc.lines, logs)) from exc
        raise
    if keep_running:
        go_on(ct, record)
    else:
        say("\tkill...")
        end_suspended(ct)
    store.remove(path + store.OLD)
    journal.end(ct.ctid)
    say("Checkpointing completed successfully")


def dump(ct: Container, record: Record, path: str, serial: str, *, keep_running: bool) -> None:
    """Take the steps up to the point where the dump counts and criu has killed the CT (or left it frozen)."""
    try:
        program = criu_program()
    except FileNotFoundError as exc:
        raise NotDumped("criu is not installed: tools/install-criu, or the criu package") from exc
    for attempt in range(1, TRIES + 1):
        folder = store.fresh(path)
        say("\tsuspend...", level=0 if attempt == 1 else 1)
        lock.lock(ct, record)
        cgroups.freeze(ct)
        say("\tdump...", level=0 if attempt == 1 else 1)
        argv = dump_options(
            record,
            f"{folder}/images",
            work=folder,
            freezer=cgroups.ct_dir(ct),
            leave_running=keep_running,
            skip_in_flight=attempt == TRIES,
        )

        def on_stage(stage: str, _: int) -> None:
            if stage == criu.POST_DUMP:
                complete(ct, record, path, serial, keep_running)

        try:
            criu.run([program, *argv], f"{folder}/dump.log", cgroups.ct_dir(ct), on_stage, tick=check_interrupt)
            return
        except criu.CriuFailed as exc:
            if attempt == TRIES or not any(word in line for line in exc.lines for word in TRANSIENT):
                raise
        recover(ct, record)
        time.sleep(0.05)


def complete(ct: Container, record: Record, path: str, serial: str, keep_running: bool) -> None:
    """Finish the dump while criu holds the CT: fix, add our own files, sync, and give it its name."""
    folder = path + store.NEW
    images.fix_executables(f"{folder}/images")
    store.write(folder, "record", record.text())
    store.write(folder, "cgroups", "".join(f"{line}\n" for line in tree.save(ct)))
    store.write(folder, "conf", ct.conf.conf.dump() if ct.conf.conf is not None else b"")
    if keep_running:
        store.write(folder, store.KEPT, "")
    store.write_info(folder, dumped.facts(ct, record, serial))
    store.sync(folder)
    store.commit(path)


def go_on(ct: Container, record: Record) -> None:
    """Let a frozen CT and its network go on."""
    lock.unlock(ct, record)
    cgroups.thaw(ct)


def recover(ct: Container, record: Record) -> None:
    """Bring the CT back after a dump that failed, however far it got."""
    go_on(ct, record)


def end_suspended(ct: Container) -> None:
    """Take down what is left of a CT that criu has killed: its cgroups, its network, its root mount."""
    clear(ct)
    if ct.is_mounted():
        mount.umount_with_scripts(ct)


def suspend(ct: Container) -> None:
    """Freeze the running CT; NotRunning (31)."""
    _need_running(ct)
    say("Setting up checkpoint...")
    say("\tsuspend...")
    cgroups.freeze(ct)
    say("Checkpointing completed successfully")


def resume(ct: Container) -> None:
    """Let a frozen CT go on; NotRunning (31)."""
    record = _need_running(ct)
    say("Resuming...")
    go_on(ct, record)


def _need_running(ct: Container) -> Record:
    record = ct.record()
    if record is None or not record.is_alive():
        raise NotRunning
    return record


def _reasons(head: str, lines: list[str], logs: str) -> str:
    words = [f"{head}: {lines[0]}" if lines else head, *(f"\t{line}" for line in lines[1:])]
    if logs:
        words.append(f"\tcriu's log is in {logs}")
    return "\n".join(words)


__all__ = ["NotDumped", "chkpnt", "resume", "suspend", "warn"]
