"""Root layouts behind one small interface: how a CT's files are kept and how they become VE_ROOT.

A layout is a module with ``create``, ``mount``, ``needs_template`` and ``usage_path``; ``layout_of`` picks it by the
CT's VE_LAYOUT.  The root is always attached through an idmapped mount: on disk the ids are the CT's own.
"""

from __future__ import annotations

import errno
import os

from vz.container.ct import Container, printable
from vz.disk import overlay, simfs
from vz.errors import BadKernel, ExitCode, VzError
from vz.kernel.files import make_dirs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

LAYOUTS = {"simfs": simfs, "overlay": overlay}  # and ploop, imported where it is used
DEFAULT = "overlay"


def layout_name(ct: Container) -> str:
    """Return the CT's layout: what its conf says, else what its private area shows, else the node's default."""
    word = (ct.conf.ve_layout or "").partition(":")[0]
    if ct.conf.conf is not None and ct.conf.conf.get("VE_LAYOUT"):
        return word
    if os.path.isdir(ct.private):
        if overlay.is_area(ct.private):
            return "overlay"
        if os.path.isdir(f"{ct.private}/root.hdd"):
            return "ploop"
        return "simfs"
    return word or DEFAULT


def layout_of(ct: Container) -> ModuleType:
    """Return the layout module of *ct*.

    Raises:
        VzError: an image that is not raw (status 99) or an unknown layout (53).
    """
    name = layout_name(ct)
    return by_name((ct.conf.ve_layout or "") if name == "ploop" and is_ploop_word(ct.conf.ve_layout) else name)


def is_ploop_word(word: str | None) -> bool:
    return (word or "").partition(":")[0] == "ploop"


def by_name(name: str) -> ModuleType:
    """Return the layout module called *name*; ``ploop``, ``ploop:raw`` and ``ploop:plain`` are one."""
    word, _, mode = name.partition(":")
    if word == "ploop":
        if mode not in ("", "raw", "plain"):
            raise VzError(
                f"Images of format {printable(mode)} are not available in this version: use --layout ploop:raw",
                ExitCode.PLOOP_UNSUP,
            )
        from vz.disk import ploop

        return ploop
    if word not in LAYOUTS:
        raise VzError(f"Unknown layout {printable(name)}: use overlay, simfs or ploop", ExitCode.UNK_MOUNT_TYPE)
    return LAYOUTS[word]


def check_closed(layout: ModuleType, private: str, code: int) -> None:
    """Refuse (*code*) a private area in which the node's own users could run what its CT has made set-uid root.

    The area of an overlay is closed itself.  That of simfs is the CT's own ``/``, open to the CT's users: one of the
    directories above it must be closed.
    """
    if layout.NAME != "simfs":
        return
    parent = os.path.dirname(os.path.realpath(private))
    folder = parent
    while True:
        try:
            if not os.stat(folder).st_mode & 0o001:
                return
        except FileNotFoundError:  # create makes it, closed
            return
        if folder == "/":
            break
        folder = os.path.dirname(folder)
    raise VzError(
        f"All users of this node could run the set-uid programs in {printable(private)}: chmod 700 {printable(parent)}",
        code,
    )


def mount_root(ct: Container) -> None:
    """Attach the CT's private area at VE_ROOT.

    Raises:
        VzError: no private area (43), VE_ROOT cannot be made (49), the mount failed (50), no raw image (99).
        BadKernel: the file system of the private area cannot be idmapped (5).
    """
    if not os.path.isdir(ct.private):
        raise VzError(f"Container private area {printable(ct.private)} does not exist", ExitCode.FS_NOPRVT)
    layout = layout_of(ct)
    check_closed(layout, ct.private, ExitCode.FS_CANTMOUNT)
    try:
        if not os.path.isdir(ct.root):
            make_dirs(os.path.dirname(ct.root), 0o700)
            make_dirs(ct.root, 0o755)
    except OSError as exc:
        raise VzError(f"Unable to create mount point {ct.root}: {exc.strerror}", ExitCode.FS_MPOINTCREATE) from exc
    try:
        layout.mount(ct)
    except OSError as exc:
        if exc.errno == errno.EINVAL and "mount_setattr" in str(exc.strerror):
            raise BadKernel(
                f"The file system of {ct.private} cannot be idmapped on this kernel: move the private area to ext4, "
                "XFS, btrfs or tmpfs"
            ) from exc
        where = f"{exc.filename}: " if exc.filename else ""
        raise VzError(f"Unable to mount {ct.root}: {where}{exc.strerror}", ExitCode.FS_CANTMOUNT) from exc


def umount_root(ct: Container) -> None:
    """Detach VE_ROOT, however often it is mounted over.

    Raises:
        VzError: something still uses it (status 51).
    """
    from vz.kernel import mounts

    try:
        while ct.is_mounted():
            if layout_name(ct) == "ploop":  # its next mount must not find it in use
                mounts.umount(ct.root, mounts.UMOUNT_NOFOLLOW)
            else:
                mounts.umount_and_sync_later(ct.root, mounts.UMOUNT_NOFOLLOW)
    except OSError as exc:
        hint = "; a process of the host has its directory or a file there" if exc.errno == errno.EBUSY else ""
        raise VzError(f"Unable to unmount {ct.root}: {exc.strerror}{hint}", ExitCode.FS_CANTUMOUNT) from exc
