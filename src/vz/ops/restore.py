"""restore: a suspended CT comes back from its dump, frozen, is connected, and only then goes on.

No process of it has run an instruction when the dump is put out of use, so a restore that is killed at any point ends
in *running* or in *suspended*, never in both.
"""

from __future__ import annotations

import os

from vz import net
from vz.checkpoint import criu, store
from vz.checkpoint.options import criu_program, restore_options
from vz.container.ct import Container, need_paths
from vz.container.record import External, Record, parse_record
from vz.errors import AlreadyRunning, ExitCode, VzError
from vz.kernel.process import starttime
from vz.ops import journal, mount
from vz.ops.report import say, warn
from vz.ops.start import new_record, published
from vz.ops.trash import discard
from vz.ops.undo import Undo, check_interrupt
from vz.resources import cgroups, tree


class NotRestored(VzError):
    """The restore failed; the dump is as it was."""

    code = ExitCode.RESTORE_ERROR


def restore(ct: Container, path: str = "", *, skip_remount: bool = False) -> None:
    """Bring the suspended CT back from *path* (its default dump).

    Raises:
        AlreadyRunning: 32.  NotRestored: 17, the dump stays for another try.
    """
    need_paths(ct)
    if ct.is_running():
        raise AlreadyRunning
    path = path or ct.dump_path
    say("Restoring container ...")
    check(ct, path)
    journal.begin(ct.ctid, "restore", path=path)
    try:
        record = load(ct, path, skip_remount=skip_remount)
    except BaseException as exc:
        journal.end(ct.ctid)
        if isinstance(exc, criu.CriuFailed):
            raise NotRestored(f"Restoring failed: {exc}") from exc
        raise
    say("\tresume...")
    store.retire(path)
    release(ct, record)
    discard(path + store.GONE)
    journal.end(ct.ctid)
    say("Restoring completed successfully")


def check(ct: Container, path: str) -> dict[str, str]:
    """Refuse what cannot be restored, before anything changes.

    Raises:
        NotRestored: no dump, or not one for this CT, node or version.
    """
    try:
        facts = store.info(path)
    except store.NoDump as exc:
        raise NotRestored(f"Unable to restore: {exc}") from exc
    return facts


def load(ct: Container, path: str, *, skip_remount: bool = False) -> Record:
    """Mount, make, undump: everything up to a CT that is whole, connected and frozen.

    Raises:
        VzError, criu.CriuFailed: everything is undone.
    """
    saved = parse_record(ct.ctid, store.read(path, "record"))
    if saved is None:
        raise NotRestored(f"Unable to restore: {path} has no record of the container")
    with Undo(warn) as undo:
        if ct.is_mounted() and not skip_remount:
            mount.umount_with_scripts(ct)
        if not ct.is_mounted():
            mount.mount_with_scripts(ct)
            undo.add(mount.umount_with_scripts, ct)
            say("Container is mounted")
        record = present_record(ct, saved)
        record.save()
        undo.add(_forget, ct)
        cgroups.create(ct)
        undo.add(cgroups.remove, ct)
        undo.add(cgroups.kill_all, ct)
        tree.recreate(ct, store.read(path, "cgroups").splitlines())
        undo.add(net.detach, ct, record)
        say("\tundump...")
        undump(ct, record, path)
        undo.add(cgroups.thaw, ct)
        ct.forget_record()
        net.restore_host_side(ct, record)
    return record


def undump(ct: Container, record: Record, path: str) -> None:
    """Run criu; the CT's init is in *record* when this returns, and every process of it frozen."""
    argv = restore_options(record, f"{path}/images", work=path)

    def on_stage(stage: str, init_pid: int) -> None:
        if stage == criu.POST_RESTORE:
            record.init_pid = init_pid
            record.init_start = starttime(init_pid)
            record.save()

    criu.run([criu_program(), *argv], f"{path}/restore.log", cgroups.ct_dir(ct), on_stage, tick=check_interrupt)


def present_record(ct: Container, saved: Record) -> Record:
    """Return the run record of a CT that is coming back: its mounts and devices as dumped, their sources as now."""
    record = new_record(ct)
    sources = {item.key: item.source for item in record.externals}
    record.externals = [External(i.key, sources.get(i.key, i.source), i.target) for i in saved.externals]
    record.netifs = list(saved.netifs)
    record.started_at = saved.started_at
    return record


def release(ct: Container, record: Record) -> None:
    """Let a loaded CT run, and tell old clients its pid."""
    published(ct, record)
    cgroups.thaw(ct)


def _forget(ct: Container) -> None:
    from vz.ops.start import forget

    forget(ct)


__all__ = ["NotRestored", "os", "restore"]
