"""set --diskspace and compact: the size of a ploop image, and what of it the node keeps."""

from __future__ import annotations

import os

from vz.config.units import parse_size
from vz.container.ct import Container, printable
from vz.disk import layout
from vz.errors import BadSyntax, ExitCode, VzError
from vz.ops.report import say, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.requests import Change


def check(*, save: bool) -> None:
    """Refuse ``--diskspace`` of an image without ``--save`` (20)."""
    if not save:
        raise BadSyntax("Option --diskspace needs --save: the image keeps its size")


def resize(ct: Container, change: Change, size_kib: int) -> None:
    """Give the CT's image *size_kib*: larger while it is mounted, either way while it is not.

    Raises:
        VzError: the image cannot be so small, or the kernel refused (154); disk full (46).
    """
    from vz.disk import ploop

    size = size_kib * 1024 // ploop.BLOCK * ploop.BLOCK
    image = ploop.image_path(ct.private)
    if change.offline_resize and ct.is_mounted():
        raise VzError("--offline-resize: the container is running or mounted", ExitCode.INVALID_PARAMETER_VALUE)
    if not os.path.isfile(image):
        raise VzError(f"There is no image {image}", ExitCode.RESIZE_IMAGE_ERROR)
    if ct.is_mounted():
        ploop.grow_mounted(ct.private, size)
    elif size != os.stat(image).st_size:
        ploop.wait_free(image)
        ploop.resize(ct.private, size)
    say(f"Image is {size // 1024}K")


def check_space(ct: Container) -> None:
    """Warn where the node's file system is so full that images, which are sparse, may not get what they promise."""
    text = ct.node.values.get("DISK_RESERVE") or "1G"
    try:
        reserve = parse_size(text)
    except ValueError:
        warn(f"WARNING: DISK_RESERVE in /etc/vz/vz.conf is no size: {printable(text)}")
        return
    found = os.statvfs(ct.private)
    free = found.f_bavail * found.f_frsize
    if free < reserve:
        warn(
            f"WARNING: the file system of {ct.private} has {free >> 20}M left, "
            f"less than DISK_RESERVE ({reserve >> 20}M): when it is full, containers on ploop images get I/O errors"
        )


def compact(ct: Container) -> None:
    """Give what is free in the CT's image back to the node; a CT without an image is a message and success.

    Raises:
        VzError: the kernel refused (166), or the image could not be mounted (as for mount).
    """
    from vz.disk import ploop

    if layout.layout_name(ct) != "ploop":
        say("Only a ploop image can be compacted: nothing to do")
        return
    layout.layout_of(ct)
    image = ploop.image_path(ct.private)

    def trim() -> None:
        from vz.kernel import freeze
        from vz.kernel.mountinfo import is_mount_point

        _name, device = ploop.device_of(image)
        if not is_mount_point(ct.root) or os.stat(ct.root).st_dev != device:
            raise OSError(22, "not a mount of its image", ct.root)
        before = os.stat(image).st_blocks
        freeze.trim(ct.root)
        ploop.sync_file(image)
        after = os.stat(image).st_blocks
        say(f"Image takes {after // 2}K, {max(0, before - after) // 2}K less than before")

    from vz.ops.mount import borrow_root

    try:
        borrow_root(ct, trim)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        raise VzError(f"Unable to compact the image: {where}{exc.strerror}", ExitCode.COMPACT_IMAGE_ERROR) from exc
