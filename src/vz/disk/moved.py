"""An overlay area that comes from another node: made to stand on this node's copy of the template.

With ``index`` and ``nfs_export`` overlayfs keeps, in extended attributes of the upper layer, file handles of what each
directory and file came from.  Those of another file system are stale: the mount is refused (ESTALE), or directories
are no longer merged with the template's.  So they are not copied (``XATTRS_LEFT``); ``adopt`` writes the handles of
the lower directories that are here, and the index, in ``wk``, begins anew.  Files need none.

What the index held and nothing else does is hard links of the *template*: of two names of one file, one is in the upper
layer and the other found through the index.  ``materialize`` has the kernel put the other names into the upper layer,
on the node that the area comes from, before it is copied.  See docs/decisions/0020-moved-overlays.md.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from vz.container.ct import Container
from vz.disk import overlay, templates
from vz.kernel.libc import check, libc
from vz.kernel.process import spawn

ORIGIN, REDIRECT, OPAQUE = "trusted.overlay.origin", "trusted.overlay.redirect", "trusted.overlay.opaque"
XATTRS_LEFT = (ORIGIN, "trusted.overlay.nlink")  # not to be copied with an upper layer
AT_EMPTY_PATH = 0x1000
MAX_HANDLE_SZ = 128
_UUID_END = 21  # struct ovl_fb of <fs/overlayfs/overlayfs.h>: version, magic, length, flags, type, uuid[16], handle


def adopt(private: str, tree: str, only: list[str] | None = None) -> None:
    """Make the unmounted area *private* stand on the template copy *tree*; with *only*, these paths of it have changed.

    OSError as setxattr(2) and name_to_handle_at(2).
    """
    upper = f"{private}/up"
    if only is None:
        fresh_work(private)
    model = _model(private, tree)
    if only is None:
        _mark_below(upper, tree, model)
        _drop_origin(upper)  # the kernel fills it in at the mount
        return
    lowers: dict[str, str | None] = {"": tree}
    for path in sorted(only):
        if path and stat.S_ISDIR(_mode(f"{upper}/{path}")):
            _mark(f"{upper}/{path}", _lower_of(upper, path, tree, lowers), model)


def fresh_work(private: str) -> None:
    """Give the area an empty work directory, and with it an empty index."""
    work = f"{private}/wk"
    spawn(["rm", "-rf", "--one-file-system", "--", work])
    os.mkdir(work, 0o755)
    os.chmod(work, 0o755)


def materialize(ct: Container) -> None:
    """Have every name of a template's hard-linked file that the CT has changed in its upper layer; the CT is mounted.

    A change of mode to what it is copies a file up, and of a file that the index knows that makes the missing link.
    """
    try:
        known = set(os.listdir(f"{ct.private}/wk/index"))
    except FileNotFoundError:
        return  # never mounted
    tree = templates.tree_of_digest(ct.node, overlay.lower_digest(ct.private))
    noted = os.getxattr(f"{ct.private}/up", ORIGIN)
    for names in hard_links(tree):
        if _blob(noted[:4], noted[5:_UUID_END], _handle(f"{tree}/{names[0]}")).hex() in known:
            for name in names:
                _touch_mode(ct.root, name)


def hard_links(tree: str) -> list[list[str]]:
    """Return the names, below *tree*, of every file of it that has several."""
    found: dict[int, list[str]] = {}
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(f"{tree}/{folder}") as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1:
                        found.setdefault(status.st_ino, []).append(name)
    return [sorted(names) for names in found.values() if len(names) > 1]


def _touch_mode(root: str, name: str) -> None:
    """Set the mode of *name* below the mounted *root* to what it is; nothing for what is no plain file."""
    from vz.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        file = openat2(top, name, os.O_PATH, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return
        raise
    finally:
        os.close(top)
    try:
        mode = os.fstat(file).st_mode
        if stat.S_ISREG(mode):
            os.chmod(f"/proc/self/fd/{file}", mode & 0o7777)
    finally:
        os.close(file)


def _mark_below(upper: str, tree: str, model: tuple[bytes, bytes]) -> None:
    """Mark all directories below *upper*, which is merged with *tree*."""
    pending: list[tuple[str, str | None]] = [(upper, tree)]
    while pending:
        folder, below = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    merged = _merged_with(entry.path, entry.name, below, tree)
                    _mark(entry.path, merged, model)
                    pending.append((entry.path, merged))


def _lower_of(upper: str, path: str, tree: str, known: dict[str, str | None]) -> str | None:
    """Return what the upper directory *path* is merged with, None for nothing; *known* is filled."""
    if path not in known:
        above, _, name = path.rpartition("/")
        known[path] = _merged_with(f"{upper}/{path}", name, _lower_of(upper, above, tree, known), tree)
    return known[path]


def _merged_with(folder: str, name: str, below: str | None, tree: str) -> str | None:
    """Return the template's directory that *folder*, called *name*, is merged with; the one above is with *below*."""
    if _xattr(folder, OPAQUE) == b"y":
        return None
    redirect = os.fsdecode(_xattr(folder, REDIRECT))
    if redirect.startswith("/"):
        found = f"{tree}{redirect}"
    elif below is None:
        return None
    else:
        found = f"{below}/{redirect or name}"
    return found if stat.S_ISDIR(_mode(found)) else None


def _mark(folder: str, lower: str | None, model: tuple[bytes, bytes]) -> None:
    if lower is None:
        _drop_origin(folder)
        return
    blob = _blob(*model, _handle(lower))
    if _xattr(folder, ORIGIN) != blob:
        os.setxattr(folder, ORIGIN, blob, follow_symlinks=False)


def _drop_origin(path: str) -> None:
    try:
        os.removexattr(path, ORIGIN, follow_symlinks=False)
    except OSError as exc:
        if exc.errno != errno.ENODATA:
            raise


def _model(private: str, tree: str) -> tuple[bytes, bytes]:
    """Return (version, magic, length and flags; uuid) as this kernel writes them for handles of *tree*.

    Learnt from an overlay that is made for it and goes at once: the kernel notes the lower layer's top on the upper's.
    """
    from vz.kernel import mounts

    probe = f"{private}/probe"
    spawn(["rm", "-rf", "--one-file-system", "--", probe])
    for name in ("", "/up", "/wk"):
        os.mkdir(f"{probe}{name}", 0o700)
    try:
        options = [("source", "vz"), ("lowerdir", tree), ("upperdir", f"{probe}/up"), ("workdir", f"{probe}/wk")]
        tree_fd = mounts.fs_mount("overlay", options + overlay.OPTIONS)
        try:
            if os.fork() == 0:  # its end waits for the file system's last sync: not here
                os.closerange(0, tree_fd)
                os._exit(0)
        finally:
            os.close(tree_fd)
        blob = _xattr(f"{probe}/up", ORIGIN)
    finally:
        spawn(["rm", "-rf", "--one-file-system", "--", probe])
    prefix, uuid = blob[:4], blob[5:_UUID_END]
    if blob != _blob(prefix, uuid, _handle(tree)):
        raise OSError(errno.EOPNOTSUPP, "overlayfs notes origins in a form that is not known", tree)
    return prefix, uuid


def _blob(prefix: bytes, uuid: bytes, handle: tuple[int, bytes]) -> bytes:
    """Return the attribute that names the file of *handle* (type, bytes)."""
    kind, fid = handle
    return prefix[:2] + bytes([_UUID_END + len(fid)]) + prefix[3:4] + bytes([kind]) + uuid + fid


def _handle(path: str) -> tuple[int, bytes]:
    """Return (type, bytes) of the file handle of *path*, a last link not followed; see name_to_handle_at(2)."""
    buffer = (ctypes.c_ubyte * (8 + MAX_HANDLE_SZ))()
    ctypes.memmove(buffer, MAX_HANDLE_SZ.to_bytes(4, "little"), 4)
    mount_id = ctypes.c_int()
    result = libc.name_to_handle_at(-100, os.fsencode(path), buffer, ctypes.byref(mount_id), 0)
    check(int(result), "name_to_handle_at", path)
    raw = bytes(buffer)
    length = int.from_bytes(raw[:4], "little")
    return int.from_bytes(raw[4:8], "little"), raw[8 : 8 + length]


def _xattr(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.ENOENT):
            return b""
        raise


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
