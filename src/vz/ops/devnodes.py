"""DEVNODES of a running CT: ``set --devnodes`` makes nodes appear in its /dev and go again.

A node is the CT's own copy on the host, bound into the CT, as at start.  The mount is attached by a process that has
taken the CT's mount namespace alone: its power is the host's, so it follows no link that the CT may have laid.
"""

from __future__ import annotations

import os

from vz.container.ct import Container
from vz.container.record import External, Record
from vz.errors import ExitCode, VzError
from vz.kernel import inherited, mounts, namespaces
from vz.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from vz.ops.inside import device_externals
from vz.ops.join import edit_in_ct
from vz.resources import devices


def sync(ct: Container, record: Record, pidfd: int) -> None:
    """Bring the nodes in the running CT's /dev to its DEVNODES; VzError (86)."""
    wanted = devices.node_names(ct)
    ours = [item for item in record.externals if item.source.startswith(devices.node_dir(ct) + "/")]
    present = [item.target for item in record.externals]
    try:
        for name in wanted:
            if f"/dev/{name}" not in present:
                _add(ct, record, pidfd, name)
        for item in ours:
            if item.target.removeprefix("/dev/") not in wanted:
                _remove(ct, record, pidfd, item)
    except (OSError, namespaces.ChildFailed) as exc:
        raise VzError(f"Unable to set device nodes: {exc}", ExitCode.SET_DEVICES) from exc


def renew(ct: Container, record: Record, pidfd: int, half: list[str]) -> None:
    """Take the nodes *half*, which a set may have left half-way, and make those that are to be; VzError (86)."""
    ours = [item for item in record.externals if item.source.startswith(devices.node_dir(ct) + "/")]
    try:
        for item in ours:
            if item.target.removeprefix("/dev/") in half:
                _remove(ct, record, pidfd, item)
        for name in half:
            devices.remove_node(devices.node_path(ct, name))
    except (OSError, namespaces.ChildFailed) as exc:
        raise VzError(f"Unable to set device nodes: {exc}", ExitCode.SET_DEVICES) from exc
    sync(ct, record, pidfd)


def _add(ct: Container, record: Record, pidfd: int, name: str) -> None:
    external = device_externals([(name, devices.make_node(ct, name))])[-1]
    record.externals.append(external)
    record.save()  # before it is there: who clears up after us looks here
    tree_fd = mounts.open_tree(external.source)
    try:
        edit_in_ct(ct, pidfd, lambda: _make_target(external.target))
        namespaces.run_in_child(lambda: _attach(pidfd, tree_fd, external.target))
    finally:
        os.close(tree_fd)


def _remove(ct: Container, record: Record, pidfd: int, external: External) -> None:
    edit_in_ct(ct, pidfd, lambda: _detach(external.target))
    devices.remove_node(external.source)
    record.externals = [item for item in record.externals if item is not external]
    record.save()


def _make_target(target: str) -> None:
    """Make an empty file to mount on, as the CT's root."""
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    try:
        os.unlink(target)
    except FileNotFoundError:
        pass
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))


def _attach(pidfd: int, tree_fd: int, target: str) -> None:
    inherited.seal_imports()
    namespaces.setns(pidfd, namespaces.CLONE_NEWNS)
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    mounts.move_mount_to_fd(tree_fd, openat2(root_fd, target.lstrip("/"), os.O_PATH | os.O_NOFOLLOW, resolve))


def _detach(target: str) -> None:
    """Take the node away, as the CT's root; it may have done so itself."""
    try:
        mounts.umount(target, mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)
        os.unlink(target)
    except OSError:
        pass
