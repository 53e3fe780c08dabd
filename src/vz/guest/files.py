"""Reading and writing files of a CT from inside its root: bounded, regular files only, never blocked by a fifo.

The root is the CT's, but this process may still hold descriptors of the node: a link such as /proc/self/fd/5 must
not be followed.  So every path is opened with openat2(2) and RESOLVE_NO_MAGICLINKS.
"""

from __future__ import annotations

import errno
import os
import stat

from vz.kernel.openat import open_in_root

LIMIT = 1 << 20
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


def read(path: str) -> str | None:
    """Return the text of regular file *path*, None when there is none.

    Raises:
        OSError: EINVAL: not a regular file, or one of proc or sysfs; EFBIG: larger than 1 MiB; ELOOP, EACCES and
            the like.  Such a file must not be taken for an empty one and replaced.
    """
    try:
        fd = _open(path, _READ)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _text(fd, path)
    finally:
        os.close(fd)


def write(path: str, text: str, mode: int = 0o644) -> bool:
    """Replace *path* by *text* through a temporary file and rename; False when it says so already.

    A symbolic link in the last place is replaced by the file; mode and owner of an existing file are kept.

    Raises:
        OSError: there is no such directory, no room, or *path* is a directory.
    """
    folder, _, name = path.rpartition("/")
    directory = _open(folder or "/", os.O_PATH | os.O_DIRECTORY)
    try:
        owner: tuple[int, int] | None = None
        status = _status(name, directory)
        if status is not None and stat.S_ISREG(status.st_mode):
            mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
            if _says(name, directory, text):
                _clear(name, directory)
                return False
        _replace(name, directory, text, mode, owner)
    except OSError as exc:
        exc.filename = path
        raise
    finally:
        os.close(directory)
    return True


def remove(path: str) -> None:
    """Remove the file *path*; no error when it is not there."""
    folder, _, name = path.rpartition("/")
    try:
        directory = _open(folder or "/", os.O_PATH | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    finally:
        os.close(directory)


def is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _open(path: str, flags: int) -> int:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_in_root(root, path, flags)
    finally:
        os.close(root)


def _text(fd: int, path: str) -> str:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_dev in _kernel_devices():
        raise OSError(errno.EINVAL, "not a regular file", path)
    chunks = []
    left = LIMIT + 1
    while left > 0 and (chunk := os.read(fd, left)):
        chunks.append(chunk)
        left -= len(chunk)
    if left <= 0:
        raise OSError(errno.EFBIG, f"larger than {LIMIT} bytes", path)
    return b"".join(chunks).decode("utf-8", "surrogateescape")


def _kernel_devices() -> set[int]:
    """Return the device numbers of proc and sysfs, where they are mounted: /proc/self is this process of ours."""
    top = os.stat("/").st_dev
    found = set()
    for path in ("/proc", "/sys"):
        try:
            found.add(os.stat(path).st_dev)
        except OSError:
            pass
    return found - {top}


def _status(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _says(name: str, directory: int, text: str) -> bool:
    try:
        fd = os.open(name, _READ | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        return _text(fd, name) == text
    except OSError:
        return False
    finally:
        os.close(fd)


def _clear(name: str, directory: int) -> str:
    """Remove what a killed writer of *name* has left beside it; return what that is called."""
    temporary = f".{name}.vz-new"
    try:
        os.unlink(temporary, dir_fd=directory)
    except FileNotFoundError:
        pass
    return temporary


def _replace(name: str, directory: int, text: str, mode: int, owner: tuple[int, int] | None) -> None:
    # One fixed name: the launcher is always pid 1, and what a killed one left behind goes here
    temporary = _clear(name, directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        try:
            data = text.encode("utf-8", "surrogateescape")
            while data:
                data = data[os.write(fd, data) :]
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)  # after fchown, which takes set-id bits away, and whatever the umask
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(temporary, dir_fd=directory)
        raise
