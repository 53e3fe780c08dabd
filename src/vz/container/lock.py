"""The lock of a CT: ``$LOCKDIR/CTID.lck``, as fourteen years of other programs know it.

Its first line is the holder's pid, its second a status line.  Other programs hold it too, by writing their own
pid; it is never waited for.  A file whose pid is dead is stale, and so is one that holds no pid (a power cut leaves
such files) once it has had half a second to get one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from vz.errors import ExitCode, Locked, VzError
from vz.kernel.files import make_dirs


class CTLock:
    """Hold the lock of one CT for the length of a ``with`` block.

    Raises:
        Locked: a live process holds it (status 9); the text names it.
        VzError: it cannot be taken (status 3; 77 where LOCKDIR is not set).
    """

    __slots__ = ("held", "path", "stale")

    def __init__(self, lockdir: str, ctid: int) -> None:
        if not lockdir:
            raise VzError("LOCKDIR is not set in /etc/vz/vz.conf", ExitCode.VE_LCKDIR_NOTSET)
        self.path = f"{lockdir}/{ctid}.lck"
        self.held = False
        self.stale: list[str] = []  # messages about what was cleared away

    def __enter__(self) -> CTLock:
        try:
            make_dirs(os.path.dirname(self.path), 0o700)
            self._take()
        except OSError as exc:
            hint = ", use --skiplock option" if exc.errno == errno.EROFS else ""
            raise VzError(f"Unable to lock container: {exc.filename or self.path}: {exc.strerror}{hint}") from exc
        return self

    def __exit__(self, *_: object) -> None:
        if self.held:
            self.held = False
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass

    def holder(self) -> int:
        """Return the pid of who has the lock, 0 for nobody or somebody who does not say."""
        try:
            word = _first_word(self.path)
        except OSError:
            return 0
        return int(word) if _is_pid(word) else 0

    def _take(self) -> None:
        temporary = f"{self.path}{os.getpid():06d}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, f"{os.getpid()}\n\n".encode())
            os.close(fd)
            for attempt in range(3):
                try:
                    os.link(temporary, self.path)  # atomic, also over NFS
                    self.held = True
                    return
                except FileExistsError:
                    pass
                try:
                    word = _first_word(self.path)
                except FileNotFoundError:
                    continue  # given up meanwhile
                except OSError:
                    time.sleep(0.5)
                    continue
                if _is_pid(word) and is_alive(int(word)):
                    raise Locked(f"Container already locked\nLocked by: pid {int(word)}, cmdline {_cmdline(int(word))}")
                if attempt == 0 and not _is_pid(word):
                    time.sleep(0.5)  # being written by a program that does not link it into place?
                else:
                    self._clear_stale(word)
            raise VzError(f"Unable to lock container: {self.path} is held by nobody and cannot be replaced")
        finally:
            os.unlink(temporary)

    def _clear_stale(self, word: bytes) -> None:
        """Remove the file if it still says *word*.

        Two commands may see the same dead pid, and the slower one must not remove the faster one's new lock: they
        look again and remove one after the other.
        """
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if _first_word(self.path) == word:
                os.unlink(self.path)
                self.stale.append(f"Removing stale lock file {self.path}")
        except FileNotFoundError:
            pass
        finally:
            os.close(folder)


def _first_word(path: str) -> bytes:
    """Return what should be a pid in the lock file *path*; OSError when it has gone or cannot be read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return (os.read(fd, 64).split() or [b""])[0]
    finally:
        os.close(fd)


def _is_pid(word: bytes) -> bool:
    return word.isdigit() and len(word) < 10 and int(word) > 0


def is_held(lockdir: str, ctid: int) -> bool:
    """Tell whether a live process holds the lock of CT *ctid*."""
    try:
        word = _first_word(f"{lockdir}/{ctid}.lck")
    except OSError:
        return False
    return _is_pid(word) and is_alive(int(word))


def is_alive(pid: int) -> bool:
    """Tell whether *pid* can still give its lock up: one whose parent does not collect it (a zombie) cannot."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(fd, 512).rpartition(b") ")[2][:1] not in (b"Z", b"X", b"")
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def _cmdline(pid: int) -> str:
    try:
        fd = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "?"
    try:
        raw = os.read(fd, 512).rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        raw = "?"
    finally:
        os.close(fd)
    return "".join(char if char.isprintable() else "?" for char in raw)
