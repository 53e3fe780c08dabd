"""Files: whole-file replacement that survives a crash, bounded reads, opening below a root that is not ours."""

from __future__ import annotations

import ctypes
import os

from .libc import check, syscall

NR_openat2 = 437
RESOLVE_NO_MAGICLINKS = 2
RESOLVE_NO_SYMLINKS = 4
RESOLVE_BENEATH = 8
RESOLVE_IN_ROOT = 16


class open_how(ctypes.Structure):
    """``struct open_how`` of <linux/openat2.h>."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(dir_fd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open *path* below *dir_fd* as *resolve* allows; see openat2(2).  EXDEV: it led outside; ELOOP: a refused link."""
    how = open_how(flags | os.O_CLOEXEC, mode, resolve)
    result = syscall(NR_openat2, dir_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    return check(result, "openat2", path)


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open *path* as a process chrooted to *root_fd* would: no link leads out of it (RESOLVE_IN_ROOT)."""
    return openat2(root_fd, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, mode)


def read_bytes(path: str, limit: int = 1 << 20) -> bytes:
    """Return the contents of the file *path*; EFBIG when there is more than *limit* bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        left = limit + 1
        while left > 0 and (chunk := os.read(fd, min(left, 65536))):
            chunks.append(chunk)
            left -= len(chunk)
    finally:
        os.close(fd)
    if left <= 0:
        raise OSError(27, f"larger than {limit} bytes", path)
    return b"".join(chunks)


def read_text(path: str, limit: int = 1 << 20) -> str:
    """Return *path* as text; bytes that are not UTF-8 survive as surrogates."""
    return read_bytes(path, limit).decode("utf-8", "surrogateescape")


def write_atomically(path: str, data: bytes, mode: int = 0o644, *, durable: bool = True) -> None:
    """Replace *path* by *data*: readers and a crash see the old contents or the new, never a part.

    The temporary file lies beside it.  With *durable* off nothing is synced: for state that a reboot ends.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            os.fchmod(fd, mode)  # whatever the umask
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    if durable:
        sync_directory(os.path.dirname(path) or ".")


def sync_directory(path: str) -> None:
    """Make the names in directory *path* durable; see fsync(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dirs(path: str, mode: int = 0o755) -> None:
    """Make directory *path* and what is missing above it, with *mode* whatever the umask."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path.rstrip("/"))
    if parent and parent != path:
        make_dirs(parent, 0o755)
    try:
        os.mkdir(path, mode)
        os.chmod(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
