"""snapshot, snapshot-switch, -delete, -mount, -umount: states of a CT's image, its memory and its conf to go back to.

The image of a snapshot is a whole one.  What belongs to it lies in place before ``Snapshots.xml`` names it, and goes
after it names it no more, so a killed command leaves the old or the new tree, and files that the next one clears.
"""

from __future__ import annotations

import os
import shutil
import time

from vz.container.ct import Container, load
from vz.disk import layout, ploop, snapshots
from vz.disk.snapshots import Snapshot
from vz.errors import ExitCode, VzError
from vz.kernel.files import make_dirs, read_bytes, remove, sync_directory, write_atomically
from vz.kernel.process import spawn
from vz.ops.chkpnt import Dump
from vz.ops.report import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Request:
    """The words of ``vzctl snapshot``."""

    __slots__ = ("description", "name", "skip_config", "skip_suspend", "uuid")

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.name = ""
        self.description = ""
        self.skip_suspend = False
        self.skip_config = False


class WithImage(Dump):
    """A dump of a CT that goes on, whose image is copied while criu holds the CT."""

    __slots__ = ("_copy",)

    def __init__(self, path: str, copy: Callable[[], None]) -> None:
        super().__init__(path, keep_running=True)
        self._copy = copy

    def hold(self, ct: Container, folder: str) -> None:
        self._copy()


def tree(ct: Container, code: int) -> list[Snapshot]:
    """Return the CT's snapshots; VzError (*code*): no ploop layout, or a Snapshots.xml that cannot be read."""
    if layout.layout_name(ct) != "ploop":
        raise VzError("Snapshot feature is only available for ploop-based CTs", code)
    layout.layout_of(ct)
    try:
        items = snapshots.read(ct.private)
        if not items and not os.path.exists(snapshots.path_of(ct.private)) and snapshots.orphans(ct.private, []):
            raise ValueError(
                "Snapshots.xml is missing, and there are images of snapshots: put it back, or move them away"
            )
        return items
    except ValueError as exc:
        raise VzError(f"Unable to read the list of snapshots: {exc}", code) from exc


def known(ct: Container, uuid: str, code: int) -> tuple[list[Snapshot], Snapshot]:
    items = tree(ct, code)
    found = snapshots.find(items, uuid)
    if found is None or not os.path.isfile(snapshots.image_path(ct.private, uuid)):
        raise VzError(f"There is no snapshot {uuid}", code)
    return items, found


def clear(ct: Container, items: list[Snapshot], *, logs: bool = True) -> None:
    """Remove what killed commands left: files of no snapshot, and the *logs* of dumps that failed."""
    for path in snapshots.orphans(ct.private, items):
        if path.endswith(".fail") and not logs:
            continue
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else remove(path)


def create(ct: Container, asked: Request) -> None:
    """Make a snapshot; VzError (156, or 46 on a full disk): there is none, and the CT is as it was."""
    code = ExitCode.CREATE_SNAPSHOT_ERROR
    items = tree(ct, code)
    uuid = asked.uuid
    if snapshots.find(items, uuid):
        raise VzError(f"There is a snapshot {uuid} already", code)
    clear(ct, items)
    say(f"Creating snapshot {uuid}")
    new = Snapshot(uuid, "", date=time.strftime("%Y-%m-%d %H:%M:%S"), name=asked.name, description=asked.description)
    try:
        if not os.path.exists(
            snapshots.path_of(ct.private)
        ):  # from now on a list that is not there is one that was lost
            snapshots.write(ct.private, items)
        make_dirs(os.path.dirname(snapshots.dump_path(ct.private, uuid)), 0o700)
        if not asked.skip_config:
            write_atomically(snapshots.conf_path(ct.private, uuid), read_bytes(ct.conf_path), 0o600)
        if ct.is_running() and not asked.skip_suspend:
            with_memory(ct, uuid)
        else:
            copy_image(ct, uuid)
        snapshots.add(items, new)
        snapshots.write(ct.private, items)
    except BaseException as exc:
        clear(ct, [item for item in items if item.uuid != uuid], logs=False)
        if isinstance(exc, OSError):
            raise _failed("Unable to make a snapshot", exc, code) from exc
        if isinstance(exc, VzError) and exc.code != ExitCode.FS_NO_DISK_SPACE:
            raise VzError(f"Unable to make a snapshot: {exc}", code) from exc
        raise
    say(f"Snapshot {uuid} has been successfully created")


def with_memory(ct: Container, uuid: str) -> None:
    from vz.checkpoint import store
    from vz.ops import chkpnt, journal

    record = chkpnt.need_running(ct)
    made = WithImage(snapshots.dump_path(ct.private, uuid), lambda: copy_image(ct, uuid))
    chkpnt.check(ct, record, made)
    chkpnt.make(ct, record, made)
    chkpnt.go_on(ct, record)
    store.remove(made.path + store.OLD)
    journal.finish(ct.ctid)


def copy_image(ct: Container, uuid: str) -> None:
    """Copy the CT's image for snapshot *uuid*; a mounted file system is frozen for as long as that takes."""
    image, target = ploop.image_path(ct.private), snapshots.image_path(ct.private, uuid)
    if not ct.is_mounted():
        ploop.wait_free(image)
        ploop.copy(image, target, ExitCode.CREATE_SNAPSHOT_ERROR)
        return
    from vz.kernel.freeze import Frozen

    _name, device = ploop.device_of(image)
    spawn(["sync", "-f", "--", ct.root])  # most of what is dirty, while the CT still writes
    try:
        with Frozen(ct.root, device):
            ploop.copy(image, target, ExitCode.CREATE_SNAPSHOT_ERROR, durable=False)
        ploop.sync_file(target)
        sync_directory(os.path.dirname(target))
    except BaseException:
        remove(target)
        raise


def switch(
    ct: Container, uuid: str, *, resume: bool = True, must_resume: bool = False, config: bool = True, arp: bool = True
) -> None:
    """Discard the CT's state for that of snapshot *uuid*; its memory goes on where there is some and *resume*.

    Raises:
        VzError: 159 where nothing has changed but that the CT may be stopped; of stop, of restore.
    """
    code = ExitCode.SWITCH_SNAPSHOT_ERROR
    items, _ = known(ct, uuid, code)
    dump = snapshots.dump_path(ct.private, uuid)
    resume = resume and os.path.isdir(dump)
    if must_resume and not resume:
        raise VzError(f"Snapshot {uuid} has no memory to go on from", code)
    clear(ct, items)
    if ct.is_running():
        from vz.ops.stop import stop

        stop(ct, fast=True)
    if ct.is_mounted():
        from vz.ops.mount import umount_with_scripts

        umount_with_scripts(ct)
    image, draft = ploop.image_path(ct.private), f"{ploop.image_path(ct.private)}.new"
    say(f"Switching to snapshot {uuid}")
    try:
        ploop.wait_free(image)
        ploop.copy(snapshots.image_path(ct.private, uuid), draft, code)
        drop_dump(ct)
        if resume:  # with its mark of a CT that ran on: until the image is there, nothing goes on from it
            copy_dump(dump, ct.dump_path, code)
        os.rename(draft, image)
        sync_directory(os.path.dirname(image))
        for item in items:
            item.current = item.uuid == uuid
        snapshots.write(ct.private, items)
        if config and os.path.exists(snapshots.conf_path(ct.private, uuid)):
            write_atomically(f"{ct.conf_path}.old", read_bytes(ct.conf_path))
            write_atomically(ct.conf_path, read_bytes(snapshots.conf_path(ct.private, uuid)))
    except OSError as exc:
        raise _failed(f"Unable to switch to snapshot {uuid}", exc, code) from exc
    if resume:
        from vz.checkpoint import store
        from vz.ops.restore import restore

        store.promote(ct.dump_path)
        restore(load(ct.ctid, ct.node), skip_arpdetect=not arp)
    say(f"Container has been successfully switched to another snapshot: {uuid}")


def drop_dump(ct: Container) -> None:
    """A dump that waits belongs to the state that is being discarded."""
    from vz.ops.trash import discard

    if os.path.isdir(ct.dump_path):
        discard(ct.dump_path)


def copy_dump(source: str, target: str, code: int) -> None:
    make_dirs(os.path.dirname(target), 0o700)
    ploop.tool(["cp", "-a", "--reflink=auto", "--no-target-directory", "--", source, target], code)


def delete(ct: Container, uuid: str) -> None:
    """Forget snapshot *uuid*; VzError (158)."""
    code = ExitCode.DELETE_SNAPSHOT_ERROR
    items, _ = known(ct, uuid, code)
    image = snapshots.image_path(ct.private, uuid)
    from vz.kernel import loop

    if loop.find(image):
        raise VzError(f"Snapshot {uuid} is mounted: vzctl snapshot-umount first", code)
    say(f"Deleting snapshot {uuid}")
    try:
        snapshots.take(items, uuid)
        snapshots.write(ct.private, items)
        clear(ct, items)
    except OSError as exc:
        raise _failed(f"Unable to delete snapshot {uuid}", exc, code) from exc
    say(f"Snapshot {uuid} has been successfully deleted")


def mount(ct: Container, uuid: str, target: str) -> None:
    """Mount snapshot *uuid* read-only at the directory *target*; VzError (160)."""
    from vz.kernel import loop, mounts

    code = ExitCode.MOUNT_SNAPSHOT_ERROR
    known(ct, uuid, code)
    image = snapshots.image_path(ct.private, uuid)
    if loop.find(image):
        raise VzError(f"Snapshot {uuid} is mounted already", code)
    try:
        device, name = loop.attach(image, read_only=True)
        try:
            attributes = mounts.MOUNT_ATTR_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV
            fd = mounts.fs_mount("ext4", [("source", name), ("ro", ""), ("noload", "")], attributes)
        finally:
            os.close(device)
        try:
            mounts.move_mount(fd, target)
        finally:
            os.close(fd)
    except OSError as exc:
        raise _failed(f"Unable to mount snapshot {uuid}", exc, code) from exc
    say(f"Snapshot {uuid} is mounted at {target}")


def umount(ct: Container, uuid: str) -> None:
    """Unmount snapshot *uuid* wherever it is mounted; VzError (161)."""
    from vz.kernel import mounts
    from vz.ops.mount import unescaped

    code = ExitCode.UMOUNT_SNAPSHOT_ERROR
    known(ct, uuid, code)
    places = mounted_at(snapshots.image_path(ct.private, uuid))
    if not places:
        raise VzError(f"Snapshot {uuid} is not mounted", code)
    try:
        for place in places:
            mounts.umount(unescaped(place), mounts.UMOUNT_NOFOLLOW)
    except OSError as exc:
        raise _failed(f"Unable to unmount snapshot {uuid}", exc, code) from exc
    say(f"Snapshot {uuid} is unmounted")


def mounted_at(image: str) -> list[str]:
    """Return where *image* is mounted, as mountinfo writes it."""
    from vz.kernel import loop

    devices = [os.stat(name).st_rdev for name in loop.find(image)]
    wanted = [f"{os.major(device)}:{os.minor(device)}" for device in devices]
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return [words[4] for words in map(str.split, lines) if words[2] in wanted]


def _failed(what: str, exc: OSError, code: int) -> VzError:
    where = f"{exc.filename}: " if exc.filename else ""
    full = exc.errno in (28, 122)
    return VzError(f"{what}: {where}{exc.strerror}", ExitCode.FS_NO_DISK_SPACE if full else code)
