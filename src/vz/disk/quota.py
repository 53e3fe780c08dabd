"""First-level disk quota: how much space and how many files a CT may have, by the project quota of ext4 and XFS.

Asked of the kernel, which may mount a file system with quota options and keep none of them.  The kernel is all the
state there is: limits stay in the file system over reboots, and are made what the conf says at each mount of the CT.
"""

from __future__ import annotations

import errno
import os

from vz.container.ct import Container, printable
from vz.disk import layout, project
from vz.errors import ExitCode, VzError
from vz.kernel import quota

ATTRS = frozenset(("diskspace", "diskinodes", "quotatime"))
USUAL_GRACE_S = 604800  # of a file system for which nobody has set one
MAX_GRACE_S = (1 << 32) - 1  # what XFS keeps
NO_LIMITS = (0, 0, 0, 0)


class Usage:
    """What a CT has: KiB, files; the limits in force as (soft, hard) pairs, 0 for none; when a grace ends, or 0."""

    __slots__ = ("inodes", "inodes_expire", "inodes_limits", "kib", "kib_expire", "kib_limits")

    def __init__(self, found: quota.Dqblk, conf_limits: tuple[int, int, int, int] | None, grace_s: int) -> None:
        self.kib = -(-found.space // 1024)
        self.inodes = found.inodes
        self.kib_expire, self.inodes_expire = found.btime, found.itime
        limits = found.limits()
        if conf_limits is not None and limits == in_kernel(conf_limits, grace_s):
            limits = conf_limits  # with both of its numbers where the kernel needs one
        self.kib_limits, self.inodes_limits = limits[:2], limits[2:]

    def part(self, name: str) -> tuple[int, tuple[int, int]]:
        """Return (held, (soft, hard)) of ``diskspace`` or ``diskinodes``."""
        return (self.kib, self.kib_limits) if name == "diskspace" else (self.inodes, self.inodes_limits)


def is_wanted(ct: Container) -> bool:
    """Tell whether limits of the CT's tree are to hold: DISK_QUOTA is not no, in its conf or vz.conf.

    That of a ploop CT is its image's size.
    """
    return ct.conf.disk_quota is not False and layout.layout_name(ct) != "ploop"


def conf_limits(ct: Container) -> tuple[int, int, int, int] | None:
    """Return (soft KiB, hard KiB, soft files, hard files) as the conf has them, None where it limits nothing."""
    space, files = ct.conf.diskspace or (0, 0), ct.conf.diskinodes or (0, 0)
    return (*space, *files) if any((*space, *files)) else None


def in_kernel(limits: tuple[int, int, int, int], grace_s: int) -> tuple[int, int, int, int]:
    """Return what the kernel has to be told: a soft limit without any grace (QUOTATIME=0) is a hard one."""
    found = []
    for soft, hard in (limits[:2], limits[2:]):
        soft, hard = min(soft or hard, hard or soft), max(soft, hard)
        found += [soft, hard if grace_s else soft]
    return found[0], found[1], found[2], found[3]


def open_area(path: str) -> int:
    """Return a descriptor of the private area *path*."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def problem(fd: int, path: str) -> str:
    """Return why the file system of *fd*, a directory at *path*, keeps no project quota; "" where it does."""
    try:
        state = quota.project_state(fd)
    except OSError as exc:
        if exc.errno != errno.ENOSYS:
            raise
        state = 0
    if state & quota.FS_QUOTA_PDQ_ENFD:
        return ""
    where = printable(path)
    if state:
        return f"project quota on the file system of {where} counts, but does not limit: mount it with prjquota"
    if not os.path.isdir("/proc/sys/fs/quota"):
        return "quota unsupported by kernel: it is built without CONFIG_QUOTA"
    try:
        quota.project_grace(fd)
        code = 0
    except OSError as exc:
        code = exc.errno or 0
    if code == errno.ESRCH:
        return (
            f"quota unsupported by kernel or not switched on for the file system of {where}: it takes an ext4 "
            "made with -O quota,project, or an XFS, mounted with prjquota"
        )
    return f"the file system of {where} has no project quota: it takes ext4 or XFS"


def check_support(ct: Container) -> str:
    """Return why the CT's disk limits cannot be kept; "" where they can, or none are wanted."""
    if not is_wanted(ct):
        return ""
    try:
        fd = open_area(_nearest(ct.private))
    except OSError:
        return ""
    try:
        return problem(fd, ct.private)
    finally:
        os.close(fd)


def before_mount(ct: Container, *, may_adopt: bool = True) -> str:
    """Take off the CT's limits, and have its files counted if they are to be limited; ``after_mount`` sets them.

    XFS binds the node's root too, and whoever may not make a file in its work directory cannot mount an overlay.
    A tree that came from elsewhere is given its project, unless it must stay as it is (*may_adopt* off: a dump of the
    CT knows its inodes).  Returns a warning: this node cannot keep the limits.

    Raises:
        VzError: the files could not be given to the CT's project (61).
    """
    fd = open_area(ct.private)
    try:
        clear(fd)
        if not is_wanted(ct) or conf_limits(ct) is None:
            if project.is_pending(fd) and not problem(fd, ct.private):
                initialise(ct, fd)
            return ""
        why = problem(fd, ct.private)
        if not why and not project.project_of(fd, ct.ctid):
            if may_adopt:
                initialise(ct, fd)
            else:
                why = "the files of a suspended container cannot be counted anew: vzctl quotainit, once it is stopped"
        return f"WARNING: DISKSPACE and DISKINODES do not hold: {why}" if why else ""
    finally:
        os.close(fd)


def after_mount(ct: Container) -> str:
    """Bring the CT's limits into force where they can be; return a warning, or "".  VzError: 62."""
    if not is_wanted(ct) or conf_limits(ct) is None:
        return ""
    fd = open_area(ct.private)
    try:
        if problem(fd, ct.private) or not project.project_of(fd, ct.ctid):
            return ""  # before_mount has said so
        warning = set_limits(ct, fd)
        return f"WARNING: {warning}" if warning else ""
    finally:
        os.close(fd)


def initialise(ct: Container, fd: int) -> int:
    """Give all files of the CT, which does not run, to its project; return how many they are.

    Raises:
        VzError: 61.
    """
    try:
        found = project.project_of(fd, ct.ctid)
        return project.adopt(fd, found or project.free_project(fd, ct.ctid))
    except OSError as exc:
        where = f" in {exc.filename}" if exc.filename else ""
        raise VzError(
            f"Unable to initialise the disk quota of {printable(ct.private)}: {exc.strerror}{printable(where)}",
            ExitCode.DQ_INIT,
        ) from exc


def set_limits(ct: Container, fd: int) -> str:
    """Tell the kernel the limits of the CT, whose area is *fd*; return what an admin should know of it, or "".

    Raises:
        VzError: 62.
    """
    limits = conf_limits(ct) or NO_LIMITS
    grace = min(ct.conf.quotatime or 0, MAX_GRACE_S)
    number = project.project_of(fd, ct.ctid)
    warning = ""
    try:
        if not number:
            raise VzError(
                "Unable to set the disk quota: the container's files are not counted yet; its next start counts them",
                ExitCode.DQ_SET,
            )
        if grace and quota.project_grace(fd) != (grace, grace):
            before = quota.project_grace(fd)
            quota.set_project_grace(fd, grace)
            if before != (USUAL_GRACE_S, USUAL_GRACE_S) and before != (0, 0):
                warning = (
                    f"QUOTATIME: the grace of soft limits was {before[0]} s and is {grace} s now for all containers "
                    f"on the file system of {printable(ct.private)}: the kernel keeps one for each file system"
                )
        quota.set_project_quota(fd, number, *in_kernel(limits, grace))
    except OSError as exc:
        raise VzError(f"Unable to set the disk quota: {exc.strerror}", ExitCode.DQ_SET) from exc
    return warning


def change(ct: Container) -> str:
    """Bring a mounted or running CT to the limits of its conf; return a warning, or "".

    Raises:
        VzError: it cannot be limited here (62), with the reason.
    """
    if not is_wanted(ct):
        return ""
    fd = open_area(ct.private)
    try:
        why = problem(fd, ct.private)
        if why:
            raise VzError(f"Unable to set the disk quota: {why}", ExitCode.DQ_SET)
        return set_limits(ct, fd)
    finally:
        os.close(fd)


def clear(fd: int) -> bool:
    """Take off the limits of the project of the area *fd*; tell whether there were any.  OSError as quotactl(2)."""
    try:
        number, _ = quota.get_project(fd)
        if not project.is_ours(number) or not any(quota.get_project_quota(fd, number).limits()):
            return False
    except OSError:  # no projects, no quota: no limits
        return False
    quota.set_project_quota(fd, number, *NO_LIMITS)
    return True


def forget(path: str) -> None:
    """Take off the limits of a private area that is about to be deleted; nothing where there are none."""
    try:
        fd = open_area(path)
    except OSError:
        return
    try:
        clear(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def usage(ct: Container) -> Usage | None:
    """Return what the CT has on disk and may have; None where nobody counts it."""
    try:
        fd = open_area(ct.private)
    except OSError:
        return None
    try:
        number = project.project_of(fd, ct.ctid)
        if not number:
            return None
        limits = conf_limits(ct) if is_wanted(ct) else None
        return Usage(quota.get_project_quota(fd, number), limits, ct.conf.quotatime or 0)
    except OSError:
        return None
    finally:
        os.close(fd)


def _nearest(path: str) -> str:
    """Return *path*, or the directory above it that is there."""
    while not os.path.isdir(path) and len(path) > 1:
        path = os.path.dirname(path)
    return path
