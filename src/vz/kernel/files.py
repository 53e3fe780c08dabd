"""Files: whole-file replacement that survives a crash, and bounded reads.  Without ctypes: every command reads."""

from __future__ import annotations

import errno
import os

# a file system without nameless files (NFS, hostfs); EISDIR: a kernel without
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


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

    The new file has no name until it is whole (open(2), O_TMPFILE); to replace another one it is called ``PATH.tmp``
    for a moment, so that there is one place to look for what a killed writer left.  With *durable* off nothing is
    synced: for state that a reboot ends.

    Raises:
        OSError: as open(2), write(2) and rename(2), about *path*; the old file is then untouched.
    """
    temporary = f"{path}.tmp"
    named = ""
    try:
        try:
            fd = os.open(os.path.dirname(path) or ".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
        except OSError as exc:
            if exc.errno not in _NO_NAMELESS:
                raise
            named = temporary
            fd = _open_new(temporary, mode)
        try:
            os.fchmod(fd, mode)  # whatever the umask
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
            if named:
                os.rename(named, path)
            else:
                _give_name(fd, path, temporary)
        finally:
            os.close(fd)
    except BaseException as exc:
        if named:
            remove(named)
        if isinstance(exc, OSError):
            exc.filename, exc.filename2 = path, None
        raise
    if durable:
        sync_directory(os.path.dirname(path) or ".")


def _give_name(fd: int, path: str, temporary: str) -> None:
    """Call the nameless file *fd* *path*, in place of what has that name."""
    source = f"/proc/self/fd/{fd}"
    try:
        os.link(source, path, src_dir_fd=fd)  # a directory descriptor, unused, makes this linkat(2) that follows
        return
    except FileExistsError:
        pass
    for _ in range(100):  # what lies at the temporary name is whole too, be it of a killed writer or of another one
        try:
            os.link(source, temporary, src_dir_fd=fd)
        except FileExistsError:
            remove(temporary)
            continue
        try:
            os.rename(temporary, path)
            return
        except FileNotFoundError:
            continue
        except BaseException:
            remove(temporary)
            raise
    raise FileExistsError(errno.EEXIST, "another program writes it all the time", path)


def _open_new(path: str, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileExistsError:  # a killed writer's
        os.unlink(path)
        return os.open(path, flags, mode)


def remove(path: str) -> bool:
    """Unlink *path*; False when it was not there."""
    try:
        os.unlink(path)
        return True
    except FileNotFoundError:
        return False
    except OSError as exc:
        if exc.errno == errno.EROFS and not os.path.lexists(path):  # said before the name is looked for
            return False
        raise


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


def is_flocked(path: str) -> bool:
    """Tell whether somebody has an exclusive flock(2) on the file *path*; OSError: it is not there."""
    import fcntl

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
