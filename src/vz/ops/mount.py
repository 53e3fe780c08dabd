"""mount and umount: the root of a stopped CT, with its action scripts around."""

from __future__ import annotations

from vz.container.ct import Container, need_paths
from vz.disk import layout
from vz.errors import ExitCode, VzError
from vz.ops import scripts
from vz.ops.report import say, warn
from vz.ops.undo import Undo


def mount(ct: Container) -> None:
    """Attach the root; a mounted CT is a message on stderr and success.

    Raises:
        VzError: 43, 49, 50 as layout.mount_root; ScriptFailed 79, with the mount undone.
    """
    if ct.is_mounted():
        warn("Container is already mounted")
        return
    mount_with_scripts(ct)
    say("Container is mounted")


def umount(ct: Container) -> None:
    """Detach the root of a CT that does not run.

    Raises:
        VzError: running (32), not mounted (40), busy (51), a script failed (79).
    """
    if ct.is_running():
        raise VzError("Container is running -- stop it first", ExitCode.VE_RUNNING)
    if not ct.is_mounted():
        raise VzError("CT is not mounted", ExitCode.FS_NOT_MOUNTED)
    umount_with_scripts(ct)


def mount_with_scripts(ct: Container) -> None:
    """Run the premount scripts, attach the root, run the mount scripts; undone when any of it fails."""
    need_paths(ct)
    ensure_ids(ct)
    scripts.run_host(ct, "premount")
    with Undo(warn) as undo:
        layout.mount_root(ct)
        undo.add(layout.umount_root, ct)
        scripts.run_host(ct, "mount")


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


def ensure_ids(ct: Container) -> None:
    """Give the CT its own range of host ids where its conf (an OpenVZ one, say) names none, or claim the one named."""
    from vz.container import ids

    base, count = ct.idmap
    if base:
        ids.register(ct.ctid, base, count)  # looks at all of it: the conf may have been edited
        return
    base = ids.allocate(ct.node, ct.ctid, count)
    ct.conf.local_uid = ct.conf.local_gid = base
    if ct.conf.conf is not None:
        ct.conf.conf.set("LOCAL_UID", str(base))
        ct.conf.conf.set("LOCAL_GID", str(base))
        ct.conf.conf.save()
