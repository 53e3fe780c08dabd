"""The lock of a CT: ``$LOCKDIR/CTID.lck``, as fourteen years of other programs know it.

Its first line is the holder's pid, its second a status line.  Other programs hold it too, by writing their own
pid; it is never waited for.  A file whose pid is dead is stale.
"""

from __future__ import annotations

import errno
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
            hint = "; --skiplock goes without" if exc.errno == errno.EROFS else ""
            raise VzError(f"Unable to lock container: {exc.filename}: {exc.strerror}{hint}") from exc
        return self

    def __exit__(self, *_: object) -> None:
        if self.held:
            self.held = False
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass

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
                pid = self._holder()
                if pid is None:
                    time.sleep(0.5)  # being written, or unreadable
                elif pid and _is_alive(pid):
                    raise Locked(f"Container already locked\nLocked by: pid {pid}, cmdline {_cmdline(pid)}")
                else:
                    self._clear_stale(pid)
            raise VzError(f"Unable to lock container: {self.path} is held by nobody and cannot be replaced")
        finally:
            os.unlink(temporary)

    def holder(self) -> int:
        """Return the pid of who has the lock, 0 for nobody or somebody who does not say."""
        return self._holder() or 0

    def _holder(self) -> int | None:
        """Return the pid in the file, 0 when there is no file any more, None when it says nothing (yet)."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return 0
        except OSError:
            return None
        try:
            word = os.read(fd, 32).split(b"\n", 1)[0].strip()
        except OSError:
            return None
        finally:
            os.close(fd)
        return int(word) if word.isdigit() and len(word) < 10 and word.isascii() else None

    def _clear_stale(self, pid: int) -> None:
        # Two commands may see the same dead pid: move the file aside, look again at what was moved.
        aside = f"{self.path}.stale.{os.getpid()}"
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        try:
            fd = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
            moved = os.read(fd, 32).split(b"\n", 1)[0].strip()
            os.close(fd)
            if moved != str(pid).encode():  # somebody locked in between: give it back
                os.link(aside, self.path)
                return
            self.stale.append(f"Removing stale lock file {self.path}")
        except OSError:
            pass
        finally:
            os.unlink(aside)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
