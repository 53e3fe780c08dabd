"""Layout overlay: the template's unpacked copy below, shared by all its CTs; the CT's own writes above.

Private area: ``up/`` (the CT's writes), ``wk/`` (overlayfs' work), ``lower`` (which template, by digest).  The
*layers* are idmapped, never the overlay; the mounter must have an id that their map knows, else the kernel
mounts it read-only without a word (so we take the file-system ids of the CT's root for it, and look afterwards).
"""

from __future__ import annotations

import errno
import os
import time

from vz.config.paths import RUN
from vz.container.ct import Container
from vz.disk import templates
from vz.errors import ExitCode, VzError
from vz.kernel.files import read_text, write_atomically

NAME = "overlay"
SYNC_PATIENCE_S = 60.0
# index: hard links survive a copy-up; nfs_export: file handles, without which CRIU cannot dump an inotify watch
OPTIONS = [("index", "on"), ("nfs_export", "on")]


def is_area(private: str) -> bool:
    """Tell whether *private* is laid out by this module."""
    return os.path.exists(f"{private}/lower") and os.path.isdir(f"{private}/up")


def create(ct: Container, area: str, template: str) -> None:
    """Lay out the new, empty directory *area* over *template*; takes as long as three mkdirs.

    Raises:
        VzError: disk full (46) or another failure (48).
    """
    tree = templates.unpacked(ct.node, template)
    digest = templates.lookup(ct.node, template).digest
    try:
        os.chmod(area, 0o700)
        top = os.stat(tree)
        for name, mode in (("up", top.st_mode & 0o7777), ("wk", 0o755)):
            os.mkdir(f"{area}/{name}")
            os.chmod(f"{area}/{name}", mode)
        write_atomically(f"{area}/lower", f"digest={digest}\ntemplate={template}\n".encode(), 0o600, durable=False)
    except OSError as exc:
        code = ExitCode.FS_NO_DISK_SPACE if exc.errno in (errno.ENOSPC, errno.EDQUOT) else ExitCode.FS_NEW_VE_PRVT
        raise VzError(f"Unable to make the private area: {exc.strerror}", code) from exc


def lower_digest(private: str) -> str:
    """Return the digest of the template that the area stands on; OSError when it says none."""
    for line in read_text(f"{private}/lower").splitlines():
        if line.startswith("digest="):
            return line[7:]
    raise OSError(errno.EINVAL, "no digest in it", f"{private}/lower")


def mount(ct: Container) -> None:
    """Mount the overlay at VE_ROOT.

    Raises:
        VzError: the template is gone (91), or the kernel mounted it read-only or without file handles (50).
        OSError: as fsconfig(2), mount_setattr(2) and move_mount(2).
    """
    from vz.kernel import mounts
    from vz.kernel.namespaces import userns

    base, count = ct.idmap
    layers = []
    try:
        for source in (templates.tree_of_digest(ct.node, lower_digest(ct.private)), ct.private):
            layers.append(mounts.open_tree(source))
            mounts.idmap(layers[-1], userns(base, count))
        # By path and not by FSCONFIG_SET_FD, which came with Linux 6.13
        lower, area = (f"/proc/self/fd/{fd}" for fd in layers)
        options = [("source", "vz"), ("lowerdir", lower), ("upperdir", f"{area}/up"), ("workdir", f"{area}/wk")]
        layers.append(_make(ct, layers, options + OPTIONS))
        mounts.mount_setattr(layers[-1], propagation=mounts.MS_PRIVATE)
        _check(layers[-1])
        mounts.move_mount(layers[-1], ct.root)
    finally:
        for fd in layers:
            os.close(fd)


def _make(ct: Container, layers: list[int], options: list[tuple[str, str]]) -> int:
    """Make the overlay, of layers that are never attached where the kernel can: taking them off waits for RCU.

    Linux 6.15 and newer can; before, each layer must be a mount of this mount namespace (EINVAL).
    """
    try:
        return _mount_when_free(ct, options)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    try:
        _attach(ct, layers)
        return _mount_when_free(ct, options)
    finally:
        detach_layers(ct)  # overlayfs keeps its own clones of them


def _attach(ct: Container, layers: list[int]) -> None:
    from vz.kernel import mounts
    from vz.kernel.files import make_dirs

    for tree_fd, path in zip(layers, _scratch(ct)):
        make_dirs(os.path.dirname(path), 0o700)
        make_dirs(path, 0o700)
        mounts.move_mount(tree_fd, path)


def detach_layers(ct: Container) -> None:
    """Take off the two mounts by which an older kernel was given the layers, where a killed command left them too."""
    from vz.kernel import mounts

    for path in _scratch(ct):
        while True:
            try:
                mounts.umount(path, mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)
            except OSError:  # EINVAL: not mounted; ENOENT: never made
                break
        try:
            os.rmdir(path)
        except OSError:
            pass
    try:
        os.rmdir(f"{RUN}/{ct.ctid}")  # unless a record is in it
    except OSError:
        pass


def _scratch(ct: Container) -> tuple[str, str]:
    return (f"{RUN}/{ct.ctid}/lower", f"{RUN}/{ct.ctid}/upper")


def _mount_when_free(ct: Container, options: list[tuple[str, str]]) -> int:
    """Make the overlay; its last mount may still be syncing in the background, and until then the upper is taken."""
    from vz.kernel import mounts
    from vz.kernel.namespaces import FileSystemIds

    deadline = time.monotonic() + SYNC_PATIENCE_S
    while True:
        try:
            with FileSystemIds(ct.idmap[0]):
                return mounts.fs_mount("overlay", options)
        except OSError as exc:
            if exc.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


def tree_path(ct: Container) -> str | None:
    """Return the directory whose top is the CT's own root on disk; an overlay has none that is whole."""
    return None


def _check(tree_fd: int) -> None:
    from vz.kernel import ffi
    from vz.kernel.libc import libc

    # statvfs says read-only; a file handle can be had only with nfs_export, which implies index
    if os.fstatvfs(tree_fd).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, "overlayfs came up read-only: its work directory cannot be used")
    handle = (ffi.c_uint * 40)(128)
    mount_id = ffi.c_int()
    result = libc.name_to_handle_at(tree_fd, b"", ffi.byref(handle), ffi.byref(mount_id), 0x1000)
    if result == -1 and ffi.get_errno() == errno.EOPNOTSUPP:
        raise OSError(errno.EOPNOTSUPP, "overlayfs came up without nfs_export: a CT on it could not be checkpointed")
