"""Project quotas: quotactl_fd(2), and the project of a file by ioctl(2) FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR.

All calls take a descriptor of a file on the file system (quotactl_fd, Linux 5.14): no block device has to be found,
and XFS answers to the generic commands as ext4 does.
"""

from __future__ import annotations

import fcntl
import struct

from . import ffi
from .libc import check, syscall

NR_quotactl_fd = 443
PRJQUOTA = 2
Q_GETINFO = 0x800005
Q_SETINFO = 0x800006
Q_GETQUOTA = 0x800007
Q_SETQUOTA = 0x800008
Q_XGETQSTAT = (ord("X") << 8) + 5
QIF_BLIMITS, QIF_ILIMITS = 1, 4
IIF_BGRACE, IIF_IGRACE = 1, 2
FS_QUOTA_PDQ_ACCT, FS_QUOTA_PDQ_ENFD = 1 << 4, 1 << 5

FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
FS_XFLAG_IMMUTABLE, FS_XFLAG_APPEND, FS_XFLAG_PROJINHERIT = 0x8, 0x10, 0x200

_DQBLK = struct.Struct("=8QI4x")  # struct if_dqblk of <linux/quota.h>
_DQINFO = struct.Struct("=2Q2I")  # struct if_dqinfo
_FSXATTR = struct.Struct("=5I8x")  # struct fsxattr of <linux/fs.h>


class Dqblk:
    """What a project has and may have: limits in KiB and files (0: none), ``space`` in bytes."""

    __slots__ = ("bhard", "bsoft", "btime", "ihard", "inodes", "isoft", "itime", "space")

    def __init__(
        self,
        bhard: int = 0,
        bsoft: int = 0,
        space: int = 0,
        ihard: int = 0,
        isoft: int = 0,
        inodes: int = 0,
        btime: int = 0,
        itime: int = 0,
    ) -> None:
        self.bhard, self.bsoft, self.space = bhard, bsoft, space
        self.ihard, self.isoft, self.inodes = ihard, isoft, inodes
        self.btime, self.itime = btime, itime  # when the soft limit becomes a hard one, seconds since the epoch; 0: not

    def limits(self) -> tuple[int, int, int, int]:
        """Return (soft KiB, hard KiB, soft files, hard files)."""
        return self.bsoft, self.bhard, self.isoft, self.ihard


def project_state(fd: int) -> int:
    """Return the FS_QUOTA_PDQ_ bits of the file system of *fd*; see quotactl(2), Q_XGETQSTAT.

    Raises:
        OSError: ENOSYS: no quota of any kind is on there, or the kernel has none.
    """
    buffer = ffi.create_string_buffer(256)
    _quotactl_fd(fd, Q_XGETQSTAT, 0, buffer)
    return int.from_bytes(buffer.raw[2:4], "little") & (FS_QUOTA_PDQ_ACCT | FS_QUOTA_PDQ_ENFD)


def project_grace(fd: int) -> tuple[int, int]:
    """Return the grace of soft limits (space, files), in seconds, which all projects of a file system have; Q_GETINFO.

    Raises:
        OSError: ESRCH: project quota is off; ENOSYS: the file system or the kernel has none.
    """
    buffer = ffi.create_string_buffer(_DQINFO.size)
    _quotactl_fd(fd, Q_GETINFO, 0, buffer)
    space, files, _, _ = _DQINFO.unpack(buffer.raw)
    return space, files


def set_project_grace(fd: int, seconds: int) -> None:
    """Set the grace of soft limits for all projects of the file system; Q_SETINFO.  Errors as project_grace."""
    buffer = ffi.create_string_buffer(_DQINFO.pack(seconds, seconds, 0, IIF_BGRACE | IIF_IGRACE), _DQINFO.size)
    _quotactl_fd(fd, Q_SETINFO, 0, buffer)


def get_project_quota(fd: int, project: int) -> Dqblk:
    """Return what *project* has on the file system of *fd*; Q_GETQUOTA.

    Raises:
        OSError: ESRCH: project quota is off (ENOENT, XFS's "nobody has heard of it", is all zeros).
    """
    buffer = ffi.create_string_buffer(_DQBLK.size)
    try:
        _quotactl_fd(fd, Q_GETQUOTA, project, buffer)
    except FileNotFoundError:
        return Dqblk()
    return Dqblk(*_DQBLK.unpack(buffer.raw)[:8])


def set_project_quota(fd: int, project: int, bsoft: int, bhard: int, isoft: int, ihard: int) -> None:
    """Limit what *project* may have on the file system of *fd*, in KiB and files; 0: no limit.  Q_SETQUOTA.

    Raises:
        OSError: ESRCH: project quota is off; ERANGE: larger than the quota file can hold.
    """
    data = _DQBLK.pack(bhard, bsoft, 0, ihard, isoft, 0, 0, 0, QIF_BLIMITS | QIF_ILIMITS)
    _quotactl_fd(fd, Q_SETQUOTA, project, ffi.create_string_buffer(data, _DQBLK.size))


def get_project(fd: int) -> tuple[int, bool]:
    """Return (project of the file *fd*, whether what is made in that directory inherits it).

    Raises:
        OSError: ENOTTY, EOPNOTSUPP: the file system has no projects.
    """
    xflags, _, _, project, _ = _xattr(fd)
    return project, bool(xflags & FS_XFLAG_PROJINHERIT)


def set_project(fd: int, project: int, inherit: bool) -> None:
    """Give file *fd* to *project*; *inherit*, of a directory: so is what will be made in it.

    Raises:
        OSError: EOPNOTSUPP: the file system has no projects; EPERM: FS_XFLAG_IMMUTABLE or _APPEND.
    """
    values = _xattr(fd)
    values[0] = values[0] & ~FS_XFLAG_PROJINHERIT | (FS_XFLAG_PROJINHERIT if inherit else 0)
    values[3] = project
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, _FSXATTR.pack(*values))


def exchange_xflags(fd: int, mask: int, flags: int) -> int:
    """Set those of the file's FS_XFLAG_ bits that are in *mask* as *flags* has them; return what they were."""
    values = _xattr(fd)
    old = values[0] & mask
    if old != flags:
        values[0] = values[0] & ~mask | flags
        fcntl.ioctl(fd, FS_IOC_FSSETXATTR, _FSXATTR.pack(*values))
    return old


def _xattr(fd: int) -> list[int]:
    """Return the fields of ``struct fsxattr``."""
    return list(_FSXATTR.unpack(fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))))


def _quotactl_fd(fd: int, command: int, number: int, buffer: ffi.Array[ffi.c_char]) -> None:
    check(syscall(NR_quotactl_fd, fd, command << 8 | PRJQUOTA, number, buffer), "quotactl_fd")
