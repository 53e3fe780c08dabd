"""The project of a CT's files: a number of the file system's, by which it counts what they take.

It is on the private area's top directory and inherited by all that is made below, so a CT made with it costs nothing
more.  ``adopt`` gives it to a tree that came without.  A number is free when the kernel counts nothing for it: there
is no table of ours, and what a deleter still has at work keeps its number until it is gone.
"""

from __future__ import annotations

import errno
import os
import stat

from vz.kernel import quota
from vz.kernel.openat import RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, name_to_handle_at, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST = 1_000_000_000  # below: the admin's /etc/projects, other engines, which count from 1
SPARE = 3_200_000_000  # where FIRST + CTID is taken: MAX_CTID ends below
LAST = 4_200_000_000
PENDING = "trusted.vz.project"  # on the top directory while adopt is at work, or after it was killed
SCRATCH = ".vz-project."  # begins the names of what is being made; nobody else's
_NO_PROJECTS = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def project_of(fd: int, ctid: int) -> int:
    """Return the project of the whole tree whose top is *fd*, 0 where it has none that is CT *ctid*'s own."""
    try:
        project, inherited = quota.get_project(fd)
    except OSError as exc:
        if exc.errno in _NO_PROJECTS:
            return 0
        raise
    ours = project == FIRST + ctid or SPARE <= project < LAST
    return project if ours and inherited and not is_pending(fd) else 0


def is_ours(project: int) -> bool:
    """Tell whether *project* is of the numbers that CTs get."""
    return FIRST <= project < LAST


def free_project(fd: int, ctid: int) -> int:
    """Return a project that nothing there has, and no limits: FIRST + *ctid* if that is one.  OSError: no quota."""
    project = FIRST + ctid
    while True:
        found = quota.get_project_quota(fd, project)
        if not found.inodes and not found.space:
            if any(found.limits()):  # of an area that was deleted by hand
                quota.set_project_quota(fd, project, 0, 0, 0, 0)
            return project
        project = SPARE + int.from_bytes(os.urandom(4), "little") % (LAST - SPARE)


def begin_area(area: str, ctid: int) -> None:
    """Give the new, empty directory *area* a project of its own where its file system counts by project."""
    fd = os.open(area, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if quota.project_state(fd) & quota.FS_QUOTA_PDQ_ACCT and not project_of(fd, ctid):
            quota.set_project(fd, free_project(fd, ctid), True)
    except OSError:  # without it the CT is as good; switching the quota on says why that cannot be
        pass
    finally:
        os.close(fd)


def adopt(fd: int, project: int) -> int:
    """Give the tree whose top is *fd*, of a CT that does not run, to *project*; return how many files it has.

    Killed at any point, it is begun again by the next one, with the same project: until it is through, the top says
    so (``project_of``: 0).

    Raises:
        OSError: of ioctl(2), or EPERM: a special file in an immutable directory; its name says where.
    """
    begun = _pending(fd)
    if begun.isdigit() and is_ours(int(begun)):
        project = int(begun)
    os.setxattr(fd, PENDING, str(project).encode())
    count = _Walk(fd, project).run()
    os.removexattr(fd, PENDING)
    return count


def is_pending(fd: int) -> bool:
    """Tell whether a walk over the tree was begun and not ended: what has several names may have them half."""
    return bool(_pending(fd))


def _pending(fd: int) -> bytes:
    """Return the project that the walk was to give."""
    try:
        return os.getxattr(fd, PENDING)
    except OSError:
        return b""


class _Walk:
    """One pass over a tree, at any depth: one descriptor, and the way up by "..", which nobody can move meanwhile."""

    __slots__ = ("_copies", "_device", "_linked", "_path", "_project", "_top")

    def __init__(self, top: int, project: int) -> None:
        self._top = top
        self._project = project
        self._device = os.fstat(top).st_dev
        self._linked: dict[str, list[str]] = {}  # handle of a special file with more names than one: those names
        self._copies = _copies(top)
        self._path: list[str] = []

    def run(self) -> int:
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._top)
        count = 1
        try:
            levels = [self._enter(folder)]
            while levels:
                name = next(levels[-1], None)
                if name is None:
                    levels.pop()
                    if levels:
                        self._path.pop()
                        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
                        os.close(folder)
                        folder = above
                    continue
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if status.st_dev != self._device:
                    continue  # something is mounted there
                count += 1
                if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
                    self._renew(folder, name, status)
                    continue
                try:
                    file = openat2(folder, name, os.O_RDONLY | os.O_NONBLOCK, RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS)
                except OSError as exc:
                    if exc.errno != errno.EXDEV:
                        raise
                    continue  # something of the same file system is mounted there
                if stat.S_ISDIR(status.st_mode):
                    os.close(folder)
                    folder = file
                    self._path.append(name)
                    levels.append(self._enter(folder))
                    continue
                try:
                    self._mark(file, False)
                finally:
                    os.close(file)
            self._renew_linked()
        except OSError as exc:
            exc.filename = "/".join(self._path) or exc.filename or "."
            raise
        finally:
            os.close(folder)
        return count

    def _enter(self, folder: int) -> Iterator[str]:
        """Mark the directory *folder* and return the names in it, but what an earlier walk has left there."""
        self._mark(folder, True)
        names = []
        for name in os.listdir(folder):
            if name.startswith(SCRATCH) and (self._path or name not in self._copies.values()):
                if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=folder)
                    continue
            names.append(name)
        return iter(names)

    def _mark(self, fd: int, inherit: bool) -> None:
        if quota.get_project(fd) == (self._project, inherit):
            return
        try:
            quota.set_project(fd, self._project, inherit)
        except PermissionError:
            kept = quota.FS_XFLAG_IMMUTABLE | quota.FS_XFLAG_APPEND
            flags = quota.exchange_xflags(fd, kept, 0)
            try:
                quota.set_project(fd, self._project, inherit)
            finally:
                quota.exchange_xflags(fd, kept, flags)

    def _renew(self, folder: int, name: str, status: os.stat_result) -> None:
        """Make a link, device, pipe or socket anew: no ioctl(2) reaches it, and what is made here has the project.

        Left as it was, rename(2) and link(2) would refuse it inside (EXDEV).
        """
        if status.st_nlink > 1 or self._copies:
            handle = _handle(folder, name)
            if status.st_nlink > 1 or handle in self._copies:
                self._linked.setdefault(handle, []).append("/".join([*self._path, name]))
                return
        fresh, above = _scratch(), os.fstat(folder)
        _copy(folder, name, fresh, status)
        os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.utime(folder, ns=(above.st_atime_ns, above.st_mtime_ns))

    def _renew_linked(self) -> None:
        """Make those anew that have several names, which stay one: an overlay's index knows its files by that.

        The copy is first called by the old one's handle, at the top: whoever finds this killed goes on with it.
        """
        for old, name in self._copies.items():
            self._linked.pop(_handle(self._top, name), None)  # new already
            self._replace(self._linked.pop(old, []), name)
        for handle, names in self._linked.items():
            copy, fresh = f"{SCRATCH}{handle}", _scratch()
            _copy(self._top, names[0], fresh, os.stat(names[0], dir_fd=self._top, follow_symlinks=False))
            os.rename(fresh, copy, src_dir_fd=self._top, dst_dir_fd=self._top)
            self._replace(names, copy)

    def _replace(self, names: list[str], copy: str) -> None:
        """Make every one of *names* a name of *copy*, which loses its own."""
        for name in names:
            folder = os.path.dirname(name)
            fresh = f"{folder}/{_scratch()}" if folder else _scratch()
            above = os.stat(folder or ".", dir_fd=self._top)
            os.link(copy, fresh, src_dir_fd=self._top, dst_dir_fd=self._top, follow_symlinks=False)
            os.rename(fresh, name, src_dir_fd=self._top, dst_dir_fd=self._top)
            os.utime(folder or ".", ns=(above.st_atime_ns, above.st_mtime_ns), dir_fd=self._top)
        os.unlink(copy, dir_fd=self._top)


def _handle(folder: int, name: str) -> str:
    """Return what names the file alone for ever: an inode's number is another file's as soon as it is free."""
    return name_to_handle_at(folder, name).hex()


def _copies(top: int) -> dict[str, str]:
    """Return what a killed walk has left half: handle of the old special file → name of its copy at the top."""
    found = {}
    for name in os.listdir(top):
        if name.startswith(SCRATCH) and not name.startswith(f"{SCRATCH}x"):
            mode = os.stat(name, dir_fd=top, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                found[name.removeprefix(SCRATCH)] = name
    return found


def _scratch() -> str:
    """Return a name that the CT has not, and that no handle is: ``_enter`` of the next walk removes it."""
    return f"{SCRATCH}x{os.urandom(6).hex()}"


def _copy(folder: int, name: str, fresh: str, status: os.stat_result) -> None:
    """Make *fresh* what the special file *name* in *folder* is, with its owner, mode, attributes and times."""
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=folder), fresh, dir_fd=folder)
    else:
        os.mknod(fresh, status.st_mode, status.st_rdev, dir_fd=folder)
    os.chown(fresh, status.st_uid, status.st_gid, dir_fd=folder, follow_symlinks=False)
    below = f"/proc/self/fd/{folder}"
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(f"{below}/{fresh}", stat.S_IMODE(status.st_mode))
    for key in os.listxattr(f"{below}/{name}", follow_symlinks=False):
        value = os.getxattr(f"{below}/{name}", key, follow_symlinks=False)
        os.setxattr(f"{below}/{fresh}", key, value, follow_symlinks=False)
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=folder, follow_symlinks=False)
