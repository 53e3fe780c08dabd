"""Files: whole-file replacement that survives a crash, and bounded reads.  Without ctypes: every command reads."""

from __future__ import annotations

import os


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
