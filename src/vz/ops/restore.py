"""restore: a suspended CT comes back from its dump, frozen, is connected, and only then goes on.

No process of it has run an instruction when the dump is put out of use, so a restore that is killed at any point ends
in *running* or in *suspended*, never in both.
"""

from __future__ import annotations

import os

from vz import net
from vz.checkpoint import criu, images, lazy, routes, store
from vz.checkpoint.options import criu_program, restore_options
from vz.container import ids
from vz.container.ct import Container, need_paths, printable
from vz.container.record import External, Record, parse_record
from vz.errors import AlreadyRunning, ExitCode, VzError
from vz.kernel.process import starttime
from vz.net import carried, claims, table, venet
from vz.ops import carry, dumped, inside, journal, mount, procfiles
from vz.ops.report import say, warn
from vz.ops.start import forget, new_record, published
from vz.ops.trash import discard
from vz.ops.undo import Undo, check_interrupt
from vz.resources import cgroups, devices, tree, ubc_limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class NotRestored(VzError):
    """The restore failed; the dump is as it was."""

    code = ExitCode.RESTORE_ERROR


def restore(ct: Container, path: str = "", *, skip_remount: bool = False, skip_arpdetect: bool = False) -> None:
    """Bring the suspended CT back from *path* (its default dump), which is gone afterwards.

    Raises:
        AlreadyRunning: 32.  NotRestored: 17, the dump stays for another try.  VzError: what mount and the network say.
    """
    path = path or ct.dump_path
    record = begin_and_load(ct, path, skip_remount=skip_remount, skip_arpdetect=skip_arpdetect)
    go_on(ct, record, path)
    journal.finish(ct.ctid)
    say("Restoring completed successfully")


def begin_and_load(ct: Container, path: str, *, skip_remount: bool, skip_arpdetect: bool) -> Record:
    """Load the CT from *path* with a note in the journal, which stays open for what follows unless this fails."""
    begin(ct, path)
    try:
        return load(ct, path, skip_remount=skip_remount, skip_arpdetect=skip_arpdetect)
    except BaseException:
        journal.finish(ct.ctid)
        raise


def go_on(ct: Container, record: Record, path: str, *, keep: bool = False) -> None:
    """Put the dump *path* of a loaded CT out of use and let the CT run; *keep* what is retired, it is read still."""
    say("\tresume...")
    store.retire(path)
    release(ct, record)
    if not keep:
        discard(path + store.GONE)


def begin(ct: Container, path: str) -> None:
    """Refuse what can be refused before anything changes, and note what begins."""
    need_paths(ct)
    if ct.is_running():
        raise AlreadyRunning
    if not os.path.isdir(ct.private):
        raise VzError(f"Container private area {ct.private} does not exist", ExitCode.FS_NOPRVT)
    say("Restoring container ...")
    check(ct, path)
    adopt_ids(ct, path)
    journal.hold(ct.ctid)
    journal.write(ct.ctid, "restore", {"path": path}, durable=False)


def check(ct: Container, path: str, *, any_id: bool = False) -> None:
    """Refuse a dump that this node cannot bring back; with *any_id* the CT may have had another id in it.

    Raises:
        NotRestored: no dump, or not one for this CT, machine, kernel or criu: a line for each reason.
    """
    try:
        said = store.info(path)
    except store.NoDump as exc:
        raise NotRestored(f"Unable to restore: {exc}") from exc
    try:
        criu_program()
        refused, doubtful = dumped.refusals(ct, said, any_id=any_id)
    except FileNotFoundError as exc:
        raise NotRestored("Unable to restore: criu is not installed: tools/install-criu, or the criu package") from exc
    if refused:
        raise NotRestored("\n".join(["Unable to restore:", *(f"\t{printable(line)}" for line in refused)]))
    for line in doubtful:
        warn(f"WARNING: {printable(line)}")


def load(
    ct: Container, path: str, *, skip_remount: bool = False, skip_arpdetect: bool = False, lazy_socket: int = -1
) -> Record:
    """Mount, make, undump: everything up to a CT that is whole, connected and frozen.

    *lazy_socket*: its memory is not in the dump, and is fetched through this.

    Raises:
        NotRestored, VzError: everything is undone.
    """
    try:
        return _load(ct, path, skip_remount, skip_arpdetect, lazy_socket)
    except criu.CriuFailed as exc:
        words = [f"Restoring failed: {printable(exc.lines[0])}" if exc.lines else f"Restoring failed: {exc}"]
        words += [f"\t{printable(line)}" for line in exc.lines[1:]]
        words.append(f"\tthe dump {path} is as it was, for another try; criu's log is {path}/restore.log")
        raise NotRestored("\n".join(words)) from exc
    except images.BadImage as exc:
        raise NotRestored(f"Restoring failed: {path}: {exc}") from exc


def _load(ct: Container, path: str, skip_remount: bool, skip_arpdetect: bool, lazy_socket: int) -> Record:
    saved = parse_record(ct.ctid, store.read(path, "record"))
    if saved is None:
        raise NotRestored(f"Unable to restore: {path} has no record of the container")
    said = store.info(path)
    was = int(said.get("ctid", ct.ctid))
    had, wanted = dumped.addresses(ct, said)
    probe = net.begin_probe(ct, wanted, skip=skip_arpdetect)
    here = ct.node.cgroup_parent, ct.ctid
    there = said.get("cgroup_parent", ct.node.cgroup_parent), was
    if there != here:  # it comes from another node, or vz.conf has changed
        images.move_cgroups(f"{path}/images", there, here)
    names = {outside: table.moved_name(outside, was, ct.ctid) for outside, _ in saved.netifs}
    with Undo(warn) as undo:
        if ct.is_mounted() and not skip_remount:
            mount.umount_with_scripts(ct)
        if not ct.is_mounted():
            mount.mount_with_scripts(ct, suspended=True)
            undo.add(mount.umount_with_scripts, ct)
            say("Container is mounted")
        record = present_record(ct, saved, names)
        record.save()
        undo.add(forget, ct)
        if wanted:
            claims.claim(ct, wanted)
        cgroups.create(ct)
        undo.add(cgroups.remove, ct)
        undo.add(cgroups.kill_all, ct)
        groups = store.read(path, "cgroups").splitlines()
        try:
            tree.recreate(ct, groups)
        except ValueError as exc:
            raise NotRestored(f"Restoring failed: {path}/cgroups: {exc}") from exc
        undo.add(net.detach, ct, record)
        say("\tundump...")
        undump(ct, record, path, groups, lazy_socket)
        tree.own(ct, groups)
        ct.forget_record()
        ubc_limits.begin(ct, record.init_pid)
        carry.restore(ct, record, path)
        if was != ct.ctid and any(inside == venet.VENET for _, inside in record.netifs):
            carried.in_netns(record.init_pid, lambda: venet.take_mac(ct.ctid))
        change_addresses(ct, record, had, wanted)
        for text in net.restore_host_side(ct, record, wanted, probe):
            warn(text)
        carry.restore_outside(path, names)
    record.stage = ""
    record.save()  # whole, and frozen: what may be missing now is said by the journal
    return record


def change_addresses(ct: Container, record: Record, had: list[str], wanted: list[str]) -> None:
    """Give the CT inside the addresses that were saved for it while it was suspended."""
    if had == wanted:
        return
    if not any(inside == venet.VENET for _, inside in record.netifs):
        warn("WARNING: the container was dumped without venet0: its addresses come with the next start")
        return
    gone = [address for address in had if address not in wanted]

    def change() -> bytes:
        venet.forget_inside(ct.ctid, gone, wanted)
        venet.configure_inside(ct.ctid, wanted)
        return b""

    carried.in_netns(record.init_pid, change)


def undump(ct: Container, record: Record, path: str, groups: list[str], lazy_socket: int) -> None:
    """Run criu; the CT's init is in *record* when this returns, and every process of it frozen."""
    routes.forget_state(f"{path}/images")
    before, seen = mount.apart(ct, record)
    argv = restore_options(seen, f"{path}/images", work=path)
    if lazy_socket >= 0:
        lazy.start(path, cgroups.ct_dir(ct), lazy_socket)
        argv.append("--lazy-pages")

    def on_stage(stage: str, init_pid: int) -> None:
        if stage == criu.POST_SETUP:
            tree.limit(ct, groups)
        elif stage == criu.POST_RESTORE:
            record.init_pid = init_pid
            record.init_start = starttime(init_pid)
            record.save()

    try:
        criu.run(
            [*before, criu_program(), *argv], f"{path}/restore.log", cgroups.ct_dir(ct), on_stage, tick=check_interrupt
        )
    except BaseException:
        criu.kill_stragglers(f"{path}/images")
        raise


def adopt_ids(ct: Container, path: str) -> None:
    """See that the CT has a range of host ids to itself on this node, and that the dump's images are made for it.

    A range that another CT has got (the conf came from another node, say) is given up for a free one.
    """
    base, count = ct.idmap
    if base and not ids.is_free(base, count, ct.ctid):
        ct.conf.local_uid = ct.conf.local_gid = None
        warn(f"Host ids from {base} on are another container's now: this one gets others")
    mount.ensure_ids(ct)
    base, count = ct.idmap
    for first, lower, size in images.id_maps(f"{path}/images"):
        if size != count or first:
            raise NotRestored(f"Unable to restore: the dump has {size} host ids, LOCAL_UID_COUNT says {count}")
        if lower != base:
            images.move_ids(f"{path}/images", lower, base, size)


def present_record(ct: Container, saved: Record, names: dict[str, str]) -> Record:
    """Return the run record of a CT that is coming back: its mounts and devices as dumped, their sources as now.

    *names*: what its devices on the node were called → are called.
    """
    record = new_record(ct, "")  # the journal says how far it has come
    sources = {item.key: item.source for item in inside.device_externals(devices.make_nodes(ct))}
    sources |= {
        item.key: f"{ct.root}{item.target}" for item in saved.externals if item.key.startswith(mount.HOST_MOUNT)
    }
    sources |= procfiles.sources(ct, saved.externals)
    record.externals = [External(i.key, sources.get(i.key, i.source), i.target) for i in saved.externals]
    mounted = [item.target for item in mount.host_mounts(ct)]
    hosts = [item for item in record.externals if item.key.startswith(mount.HOST_MOUNT)]
    missing = [item.target for item in hosts if item.target not in mounted]
    if missing:
        what = " ".join(map(printable, missing))
        raise NotRestored(f"Unable to restore: no mount script of this node has mounted {what}; the dump needs it")
    others = [item for item in record.externals if not item.key.startswith(procfiles.KEY)]
    missing = [item.target for item in others if not os.path.lexists(item.source)]
    if missing:
        raise NotRestored(f"Unable to restore: the node has no {' '.join(map(printable, missing))}; the dump needs it")
    record.netifs = [(names[outside], name) for outside, name in saved.netifs]
    record.started_at = saved.started_at
    return record


def release(ct: Container, record: Record) -> None:
    """Let a loaded CT run, and tell old clients its pid."""
    record.save()
    published(ct, record)
    cgroups.thaw(ct)


def instead_of_start(ct: Container, *, skip_remount: bool = False) -> bool:
    """Restore a CT that is asked to start and has a dump; False, and the dump out of the way, when that fails."""
    try:
        restore(ct, skip_remount=skip_remount)
        return True
    except VzError as exc:
        if exc.code not in (ExitCode.RESTORE_ERROR, ExitCode.CHKPNT_ERROR):
            raise  # the same would stop a boot: an address in use, no private area
        warn(str(exc))
    kept = store.fail(ct.dump_path)
    warn(f"Unable to go on from the dump: the container boots anew; the dump is kept in {kept}")
    return False


def mend(ct: Container, facts: dict[str, str], tell: Callable[[str], None] = say) -> None:
    """Finish or undo a restore that was killed: before its dump was retired nothing of the CT has run."""
    path = facts["path"]
    criu.kill_stragglers(f"{path}/images")
    record = ct.record()
    retired = not os.path.lexists(path)  # what it was renamed to may have been deleted already
    if retired and record is not None and record.is_alive():
        tell("An earlier restore of this container was interrupted at its end: finishing it")
        release(ct, record)
    elif retired:
        tell("An earlier restore of this container was interrupted after it had gone on: its dump is used up")
    else:
        tell("An earlier restore of this container was interrupted: it is suspended as before")
        forget(ct)
        if ct.is_mounted():
            mount.umount_with_scripts(ct)
    if os.path.lexists(path + store.GONE):
        discard(path + store.GONE)
