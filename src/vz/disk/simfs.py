"""Layout simfs: the private area is the tree itself, attached at VE_ROOT by an idmapped bind mount."""

from __future__ import annotations

import os

from vz.container.ct import Container
from vz.disk import templates
from vz.errors import ExitCode, VzError
from vz.kernel.process import spawn

NAME = "simfs"


def create(ct: Container, area: str, template: str) -> None:
    """Fill the new, empty directory *area* with a copy of the tree of *template*; reflinked where that works.

    Raises:
        VzError: disk full (46) or the copy failed otherwise (48).
    """
    tree = templates.unpacked(ct.node, template)
    result = spawn(["cp", "-a", "--reflink=auto", "--no-target-directory", tree, area])
    if result.status:
        line = result.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["cp failed"]
        code = ExitCode.FS_NO_DISK_SPACE if "No space left" in line[0] else ExitCode.FS_NEW_VE_PRVT
        raise VzError(f"Unable to copy the template: {line[0]}", code)


def mount(ct: Container) -> None:
    """Attach the private area at VE_ROOT with the CT's ids; OSError as mount_setattr(2) and move_mount(2)."""
    from vz.kernel import mounts
    from vz.kernel.namespaces import userns

    tree_fd = mounts.open_tree(ct.private)
    try:
        mounts.idmap(tree_fd, userns(*ct.idmap))
        mounts.move_mount(tree_fd, ct.root)
    finally:
        os.close(tree_fd)


def tree_path(ct: Container) -> str | None:
    """Return the directory whose top is the CT's own root on disk."""
    return ct.private
