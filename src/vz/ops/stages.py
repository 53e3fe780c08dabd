"""The steps of chkpnt and restore as commands of their own: freeze, dump, thaw, kill; load, go on, discard.

A CT between them stays frozen.  What the later steps have to know lies in its run directory: ``dumped`` names the
dump that the frozen CT was written to, ``undumped`` the one that it was loaded from.
"""

from __future__ import annotations

import os

from vz.checkpoint import store
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel.files import read_text, write_atomically
from vz.ops import chkpnt, journal, restore
from vz.ops.report import say
from vz.ops.trash import discard
from vz.resources import cgroups

DUMPED, UNDUMPED = "dumped", "undumped"


def suspend(ct: Container) -> None:
    """Freeze the running CT; one that is frozen stays so.  NotRunning (31)."""
    chkpnt.need_running(ct)
    say("Setting up checkpoint...")
    say("\tsuspend...")
    cgroups.freeze(ct)
    say("Checkpointing completed successfully")


def dump(ct: Container, path: str) -> None:
    """Write the frozen CT to *path*; it stays frozen, and its network shut, until --resume or --kill."""
    record = chkpnt.need_running(ct)
    _need_frozen(ct, "chkpnt --suspend first")
    say("Setting up checkpoint...")
    made = chkpnt.Dump(path, keep_running=True, was_frozen=True)
    chkpnt.check(ct, record, made)
    chkpnt.make(ct, record, made)
    _note(ct, DUMPED, path)
    store.remove(path + store.OLD)
    journal.finish(ct.ctid)
    say("Checkpointing completed successfully")


def resume(ct: Container) -> None:
    """Let a frozen CT go on; NotRunning (31)."""
    record = chkpnt.need_running(ct)
    say("Resuming...")
    _forget(ct, DUMPED)
    chkpnt.go_on(ct, record)


def kill(ct: Container) -> None:
    """End a frozen CT without a word to anybody: what it was dumped to is its state now."""
    chkpnt.need_running(ct)
    _need_frozen(ct, "only a suspended one is killed; vzctl stop --fast ends any other")
    say("\tkill...")
    path = _noted(ct, DUMPED)
    if path:
        store.promote(path)
    chkpnt.end_suspended(ct)


def undump(ct: Container, path: str, *, skip_remount: bool = False, skip_arpdetect: bool = False) -> None:
    """Load the CT from *path* and leave it frozen; the dump stays."""
    restore.begin_and_load(ct, path, skip_remount=skip_remount, skip_arpdetect=skip_arpdetect)
    _note(ct, UNDUMPED, path)
    journal.finish(ct.ctid)
    say("Restoring completed successfully")


def resume_undumped(ct: Container) -> None:
    """Let a loaded CT go on; a dump at its default place has had its day then."""
    record = chkpnt.need_running(ct)
    say("\tresume...")
    path = _noted(ct, UNDUMPED)
    if path == ct.dump_path and os.path.lexists(path):
        store.retire(path)
    _forget(ct, UNDUMPED)
    restore.release(ct, record)
    if path and os.path.lexists(path + store.GONE):
        discard(path + store.GONE)
    say("Restoring completed successfully")


def kill_undumped(ct: Container) -> None:
    """Discard a loaded CT that has not gone on; its dump is as it was."""
    chkpnt.need_running(ct)
    if not _noted(ct, UNDUMPED):
        raise VzError("The container was not loaded by restore --undump: it is not discarded", ExitCode.RESTORE_ERROR)
    say("\tkill...")
    chkpnt.end_suspended(ct)


def _need_frozen(ct: Container, hint: str) -> None:
    if not cgroups.is_frozen(ct):
        raise chkpnt.NotDumped(f"The container is not suspended: {hint}")


def _note(ct: Container, name: str, path: str) -> None:
    write_atomically(f"{ct.run_dir}/{name}", os.fsencode(path), 0o600, durable=False)


def _noted(ct: Container, name: str) -> str:
    try:
        return read_text(f"{ct.run_dir}/{name}")
    except OSError:
        return ""


def _forget(ct: Container, name: str) -> None:
    try:
        os.unlink(f"{ct.run_dir}/{name}")
    except FileNotFoundError:
        pass
