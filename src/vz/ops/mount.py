"""mount and umount: the root of a stopped CT, with its action scripts around."""

from __future__ import annotations

import os

from vz.container.ct import Container, need_paths
from vz.container.record import External, Record
from vz.disk import layout
from vz.errors import ExitCode, VzError
from vz.kernel import mountinfo
from vz.ops import journal, scripts
from vz.ops.report import say, warn
from vz.ops.undo import Undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HOST_MOUNT = "host"  # begins the key of a mount that a script of the node has made
BIND_EACH = """\
set -e
mount -t tmpfs -o mode=711 vz "$1"; shift  # the CT's root has to pass
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir "$2"; else : > "$2"; fi
    mount --bind -- "$1" "$2"; shift 2
done
shift
exec "$@"
"""


def mount(ct: Container) -> None:
    """Attach the root; a mounted CT is a message on stderr and success.

    Raises:
        VzError: 43, 49, 50 as layout.mount_root; 61 and 62, the disk quota; ScriptFailed 79; with the mount undone.
    """
    if ct.is_mounted():
        warn("Container is already mounted")
        return
    need_paths(ct)
    ensure_ids(ct)
    journal.begin(ct.ctid, "mount", root=ct.root)
    try:
        mount_with_scripts(ct)
    finally:
        journal.end(ct.ctid)
    say("Container is mounted")


def umount(ct: Container) -> None:
    """Detach the root of a CT that does not run.

    Raises:
        VzError: running (32), not mounted (40), busy (51), a script failed (79).
    """
    if ct.is_running():
        raise VzError("Container is running -- stop it first", ExitCode.VE_RUNNING)
    if ct.is_mounted():
        journal.note(ct.ctid, "umount", root=ct.root)
        try:
            umount_with_scripts(ct)
        finally:
            journal.end(ct.ctid)
    elif ct.mended == "unmounted":  # by what a killed command had left to do
        say("Container is unmounted")
    else:
        raise VzError("CT is not mounted", ExitCode.FS_NOT_MOUNTED)


def borrow_root(ct: Container, action: Callable[[], None]) -> None:
    """Do *action* on a stopped CT's root, which is mounted for it unless it is."""
    if ct.is_mounted():
        action()
        return
    need_paths(ct)
    ensure_ids(ct)
    journal.begin(ct.ctid, "mount", root=ct.root)
    try:
        mount_with_scripts(ct)
        try:
            action()
        finally:
            umount_with_scripts(ct, quiet=True)
    finally:
        journal.end(ct.ctid)


def mount_with_scripts(ct: Container, *, suspended: bool = False) -> None:
    """Run the premount scripts, attach the root, run the mount scripts; undone when any of it fails.

    The disk quota is on before a script sees the root; with *suspended*, none that would give a dump's files other
    inodes.
    """
    need_paths(ct)
    ensure_ids(ct)
    scripts.run_host(ct, "premount")
    limited = is_quota_concerned(ct)
    if limited:
        from vz.disk import quota

        _warn(quota.before_mount(ct, may_adopt=not (suspended or ct.is_suspended())))
    with Undo(warn) as undo:
        layout.mount_root(ct)
        undo.add(layout.umount_root, ct)
        if limited:
            _warn(quota.after_mount(ct))
        scripts.run_host(ct, "mount")


def is_quota_concerned(ct: Container) -> bool:
    """Tell whether a mount has anything to do with disk quota: there are limits to set, to warn of or to take off."""
    return os.path.isdir(ct.private) and bool(
        ct.conf.diskspace or ct.conf.diskinodes or mountinfo.keeps_project_quota(ct.private)
    )


def _warn(text: str) -> None:
    if text:
        warn(text)


def umount_with_scripts(ct: Container, *, quiet: bool = False) -> None:
    """Run the umount scripts, detach the root, run the postumount scripts, these also when the umount failed.

    Raises:
        VzError: a script failed (79), the root is busy (51); of two failures the umount's is the one that counts.
    """
    scripts.run_host(ct, "umount")
    try:
        layout.umount_root(ct)
    except VzError:
        try:
            scripts.run_host(ct, "postumount")
        except VzError as also:
            warn(str(also))
        raise
    if not quiet:
        say("Container is unmounted")
    scripts.run_host(ct, "postumount")


def host_mounts(ct: Container) -> list[External]:
    """Return what is mounted below the CT's mounted root: by its mount scripts, from the node; see proc(5), mountinfo.

    A restore binds them from the same place, where the scripts have mounted them again.
    """
    found: list[External] = []
    root = f"{os.path.realpath(ct.root)}/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            path = unescaped(line.split(" ")[4])
            if path.startswith(root):
                target = path[len(root) - 1 :]
                found.append(External(f"{HOST_MOUNT}{len(found)}", f"{ct.root}{target}", target))
    return found


def apart(ct: Container, record: Record) -> tuple[list[str], Record]:
    """Return (words to put before a criu that restores *ct*, the record as it is to see it).

    criu binds the root, and each mount that came from the node, without what is mounted below; in the CT's user
    namespace the kernel refuses that where something is (EINVAL): it would uncover it.  So where scripts have mounted
    something, criu gets a mount namespace of its own, in which each of them is bound to a bare place of its own.
    """
    from vz.kernel.process import which

    hosts = [item for item in record.externals if item.key.startswith(HOST_MOUNT)]
    if not hosts:
        return [], record
    seen = Record(record.ctid)
    seen.root, seen.netifs = f"{ct.run_dir}/root", record.netifs
    seen.externals = [item for item in record.externals if item not in hosts]
    pairs = [(ct.root, seen.root)]
    for item in hosts:
        place = f"{ct.run_dir}/{item.key}"
        pairs.append((item.source, place))
        seen.externals.append(External(item.key, place, item.target))
    words = [ct.run_dir, *(word for pair in pairs for word in pair)]
    return [which("unshare"), "--mount", "--propagation", "private", "sh", "-c", BIND_EACH, "criu", *words, "--"], seen


def unescaped(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def ensure_ids(ct: Container) -> None:
    """Give the CT its own range of host ids where its conf (an OpenVZ one, say) names none, or claim the one named."""
    from vz.container import ids

    base, count = ct.idmap
    if base:
        ids.register(ct.ctid, base, count)  # looks at all of it: the conf may have been edited
        return
    try:
        base = ids.allocate(ct.node, ct.ctid, count, lambda first: journal.begin(ct.ctid, "ids", id_base=first))
        ct.conf.local_uid = ct.conf.local_gid = base
        if ct.conf.conf is not None:
            ct.conf.conf.set("LOCAL_UID", str(base))
            ct.conf.conf.set("LOCAL_GID", str(base))
            try:
                ct.conf.conf.save()
            except OSError as exc:
                ids.release(base, ct.ctid)
                raise VzError(f"Unable to save {ct.conf_path}: {exc.strerror}", ExitCode.CONFIG_SAVE_ERROR) from exc
    finally:
        journal.end(ct.ctid)
