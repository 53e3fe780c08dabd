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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST = 1_000_000_000  # below: the admin's /etc/projects, other engines, which count from 1
SPARE = 3_200_000_000  # where FIRST + CTID is taken: MAX_CTID ends below
LAST = 4_200_000_000
PENDING = "trusted.vz.project"  # on the top directory while adopt is at work, or after it was killed
SCRATCH = ".vz-project-tmp"
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
    return project if ours and inherited and not _pending(fd) else 0


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

    Killed at any point, it is begun again by the next one: until it is through, the top says so (``project_of``: 0).

    Raises:
        OSError: of ioctl(2), or EPERM: a special file in an immutable directory; its name says where.
    """
    os.setxattr(fd, PENDING, b"1")
    count = _Walk(fd, project).run()
    os.removexattr(fd, PENDING)
    return count


def _pending(fd: int) -> bool:
    try:
        os.getxattr(fd, PENDING)
    except OSError:
        return False
    return True


class _Walk:
    """One pass over a tree, at any depth: one descriptor, and the way up by "..", which nobody can move meanwhile."""

    __slots__ = ("_device", "_links", "_path", "_project", "_top")

    def __init__(self, top: int, project: int) -> None:
        self._top = top
        self._project = project
        self._device = os.fstat(top).st_dev
        self._links: dict[int, str] = {}  # inode number of a special file that had more names: where its copy is
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
                        folder = _moved(folder, "..")
                    continue
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if status.st_dev != self._device:
                    continue  # something is mounted there
                count += 1
                if stat.S_ISDIR(status.st_mode):
                    folder = _moved(folder, name)
                    self._path.append(name)
                    levels.append(self._enter(folder))
                elif stat.S_ISREG(status.st_mode):
                    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
                    try:
                        self._mark(file, False)
                    finally:
                        os.close(file)
                else:
                    self._renew(folder, name, status)
        except OSError as exc:
            exc.filename = "/".join(self._path) or "."
            raise
        finally:
            os.close(folder)
        return count

    def _enter(self, folder: int) -> Iterator[str]:
        """Mark the directory *folder* and return the names in it, but what an earlier walk has left there."""
        self._mark(folder, True)
        names = os.listdir(folder)
        if SCRATCH in names and not stat.S_ISDIR(os.stat(SCRATCH, dir_fd=folder, follow_symlinks=False).st_mode):
            names.remove(SCRATCH)
            os.unlink(SCRATCH, dir_fd=folder)
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
        first = self._links.get(status.st_ino)
        if first is not None:
            os.link(first, SCRATCH, src_dir_fd=self._top, dst_dir_fd=folder, follow_symlinks=False)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=folder), SCRATCH, dir_fd=folder)
        else:
            os.mknod(SCRATCH, status.st_mode, status.st_rdev, dir_fd=folder)
        if first is None:
            _copy_attributes(folder, name, status)
            if status.st_nlink > 1:
                self._links[status.st_ino] = "/".join([*self._path, name])
        os.rename(SCRATCH, name, src_dir_fd=folder, dst_dir_fd=folder)


def _moved(folder: int, name: str) -> int:
    """Return a descriptor of *name* in *folder*, which is closed."""
    found = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    os.close(folder)
    return found


def _copy_attributes(folder: int, name: str, status: os.stat_result) -> None:
    os.chown(SCRATCH, status.st_uid, status.st_gid, dir_fd=folder, follow_symlinks=False)
    below = f"/proc/self/fd/{folder}"
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(f"{below}/{SCRATCH}", stat.S_IMODE(status.st_mode))
    for key in os.listxattr(f"{below}/{name}", follow_symlinks=False):
        value = os.getxattr(f"{below}/{name}", key, follow_symlinks=False)
        os.setxattr(f"{below}/{SCRATCH}", key, value, follow_symlinks=False)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(SCRATCH, ns=times, dir_fd=folder, follow_symlinks=False)
