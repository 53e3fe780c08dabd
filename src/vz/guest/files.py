"""Reading and writing files of a CT from inside its root: bounded, regular files only, never blocked by a fifo."""

from __future__ import annotations

import os
import stat

LIMIT = 1 << 20


def read(path: str) -> str | None:
    """Return the text of regular file *path*; None when it is absent, something else, or larger than 1 MiB."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LIMIT:
            return None
        return os.read(fd, LIMIT).decode("utf-8", "surrogateescape")
    except OSError:
        return None
    finally:
        os.close(fd)


def write(path: str, text: str, mode: int = 0o644) -> bool:
    """Replace *path* by *text* through a temporary file and rename; False when it says so already.

    A symbolic link in the last place is replaced by the file; mode and owner of an existing file are kept.
    """
    is_link = os.path.islink(path)
    if not is_link and read(path) == text:
        return False
    owner: tuple[int, int] | None = None
    if not is_link:
        try:
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        except OSError:
            pass
    temporary = f"{path}.vz{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(fd, data) :]
        if owner is not None:
            os.fchown(fd, *owner)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
    try:
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    return True


def is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
