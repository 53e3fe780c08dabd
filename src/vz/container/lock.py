"""The lock of a CT: ``$LOCKDIR/CTID.lck``, as fourteen years of other programs know it.

Its first line is the holder's pid, its second a status line.  Other programs hold it too, by writing their own
pid; it is never waited for.  A file whose pid is dead, or now somebody else's, is stale, and so is one that holds no
pid (a power cut leaves such files) once it has had half a second to get one.

Our own has a third line, which tells a pid that was given again: the boot's id and the holder's start.  And it is
under flock(2) by its holder and by every helper that the holder has started, so that whoever clears a stale one
away first waits until the last helper of a killed command has ended.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from vz.errors import ExitCode, Locked, VzError
from vz.kernel import process
from vz.kernel.files import make_dirs, read_text, remove

HELPERS_LIMIT_S = 30.0
CLOCK_SLACK_S = 2.0


class CTLock:
    """Hold the lock of one CT for the length of a ``with`` block.

    Raises:
        Locked: a live process holds it (status 9); the text names it.
        VzError: it cannot be taken (status 3; 77 where LOCKDIR is not set).
    """

    __slots__ = ("_fd", "held", "path", "stale")

    def __init__(self, lockdir: str, ctid: int) -> None:
        if not lockdir:
            raise VzError("LOCKDIR is not set in /etc/vz/vz.conf", ExitCode.VE_LCKDIR_NOTSET)
        self.path = f"{lockdir}/{ctid}.lck"
        self.held = False
        self.stale: list[str] = []  # messages about what was cleared away
        self._fd = -1

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
            process.kept_fd = -1
            remove(self.path)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def holder(self) -> int:
        """Return the pid of who has the lock, 0 for nobody or somebody who does not say."""
        try:
            return _pid(read_text(self.path).partition("\n")[0].strip())
        except OSError:
            return 0

    def _take(self) -> None:
        self._fd, temporary = self._new_file()
        try:
            text = f"{os.getpid()}\n\n{_boot_id()} {process.starttime(os.getpid())}\n"
            os.write(self._fd, text.encode())
            _flock(self._fd)
            for attempt in range(3):
                try:
                    if temporary:
                        os.link(temporary, self.path)  # atomic, also over NFS
                    else:
                        os.link(f"/proc/self/fd/{self._fd}", self.path, src_dir_fd=self._fd)
                    self.held = True
                    process.kept_fd = self._fd
                    return
                except FileExistsError:
                    self._look(waited=attempt > 0)
            raise VzError(f"Unable to lock container: {self.path} is held by nobody and cannot be replaced")
        finally:
            if temporary:
                remove(temporary)

    def _new_file(self) -> tuple[int, str]:
        """Return a new file that has no name yet, or where the file system has none such, a temporary one."""
        try:
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            return os.open(os.path.dirname(self.path), flags, 0o644), ""
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
        temporary = f"{self.path}{os.getpid():06d}"
        return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644), temporary

    def _look(self, waited: bool) -> None:
        """Look at the lock file that is there: clear it away when it is stale, or wait a little for its contents.

        Raises:
            Locked: a live process holds it.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.5)  # unreadable
            return
        try:
            lines = os.read(fd, 256).decode("utf-8", "replace").split("\n")
            word = lines[0].strip()
            pid = _pid(word)
            if pid:
                if _holds(pid, fd, lines[2].split() if len(lines) > 3 else []):
                    raise Locked(f"Container already locked\nLocked by: pid {pid}, cmdline {_cmdline(pid)}")
                self._clear_stale(fd)
            elif waited:
                self._clear_stale(fd)
            else:
                time.sleep(0.5)  # being written
        except OSError:
            time.sleep(0.5)
        finally:
            os.close(fd)

    def _clear_stale(self, fd: int) -> None:
        """Unlink the stale lock file open as *fd* once nobody is at work any more under it."""
        deadline = time.monotonic() + HELPERS_LIMIT_S
        while not _flock(fd):
            if time.monotonic() > deadline:
                raise Locked("Container already locked\nLocked by: a helper of a command that was killed; try again")
            time.sleep(0.01)
        # two commands may be here; whoever has the flock second finds that the name leads elsewhere
        there, ours = os.stat(self.path, follow_symlinks=False), os.fstat(fd)
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) and remove(self.path):
            self.stale.append(f"Removing stale lock file {self.path}")


def is_held(lockdir: str, ctid: int) -> bool:
    """Tell whether a live process holds the lock of CT *ctid*."""
    try:
        fd = os.open(f"{lockdir}/{ctid}.lck", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        lines = os.read(fd, 256).decode("utf-8", "replace").split("\n")
        pid = _pid(lines[0].strip())
        return bool(pid) and _holds(pid, fd, lines[2].split() if len(lines) > 3 else [])
    except OSError:
        return False
    finally:
        os.close(fd)


def _pid(word: str) -> int:
    """Return the pid in the first line of a lock file; 0 when it is none."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else 0


def _flock(fd: int) -> bool:
    """Lock *fd* without waiting; False when another holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without: nobody else has it either
    return True


def _holds(pid: int, fd: int, mark: list[str]) -> bool:
    """Tell whether *pid* is the process that wrote the lock file *fd*, whose third line is *mark*."""
    start = process.starttime(pid)
    if not start:
        return False  # gone, or a zombie
    if len(mark) == 2:
        return mark == [_boot_id(), str(start)]
    # another program's: a process that began after the file was written has the pid by chance
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK")
    return time.time() - os.fstat(fd).st_mtime <= age_s + CLOCK_SLACK_S


def _boot_id() -> str:
    return read_text("/proc/sys/kernel/random/boot_id").strip()


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
