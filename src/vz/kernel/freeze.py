"""Whole mounted file systems: freezing and trimming; see ioctl_fsfreeze in <linux/fs.h> and fstrim(8)."""

from __future__ import annotations

import errno
import fcntl
import os
import select
from _struct import pack, unpack_from

from vz.kernel.mountinfo import is_mount_point

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
FITRIM = 0xC0185879
LIMIT_S = 60.0


class Frozen:
    """``with Frozen(top, device)``: nothing is written to the file system mounted at *top* inside.

    A child of its own thaws it when we are done, when we are killed, and after LIMIT_S; in the last case leaving
    raises ETIMEDOUT.  EINVAL when *top* is not a mount of *device* (st_dev): freezing a plain directory would freeze
    the node's own file system.
    """

    def __init__(self, top: str, device: int) -> None:
        self._top = top
        self._device = device

    def __enter__(self) -> Frozen:
        self._fd = os.open(self._top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not is_mount_point(self._top) or os.fstat(self._fd).st_dev != self._device:
                raise OSError(errno.EINVAL, "not a mount of its image", self._top)
            reader, self._hold = os.pipe()
            self._child = os.fork()
            if self._child == 0:
                os.close(self._hold)
                self._watch(reader)
            os.close(reader)
            try:
                fcntl.ioctl(self._fd, FIFREEZE, 0)
            except BaseException:
                self._release()
                raise
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def _watch(self, reader: int) -> None:
        status = 1
        try:
            os.setsid()  # a ^C at the terminal is for the parent
            ready = select.select([reader], [], [], LIMIT_S)[0]
            status = 0 if ready else 2
            fcntl.ioctl(self._fd, FITHAW, 0)
        except OSError:
            pass
        finally:
            os._exit(status)

    def _release(self) -> int:
        os.close(self._hold)
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])

    def __exit__(self, kind: object, exc: object, trace: object) -> None:
        try:
            status = self._release()
        finally:
            os.close(self._fd)
        if status and kind is None:
            raise OSError(errno.ETIMEDOUT, f"frozen for more than {LIMIT_S:.0f} s", self._top)


def trim(top: str) -> int:
    """Discard the free blocks of the file system mounted at *top*; return how many bytes it says it gave up."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = fcntl.ioctl(fd, FITRIM, pack("=3Q", 0, (1 << 64) - 1, 0))
    finally:
        os.close(fd)
    return int(unpack_from("=Q", found, 8)[0])
