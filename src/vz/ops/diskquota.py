"""quotaon, quotaoff, quotainit: the disk limits of a CT switched on and off, and its files counted anew."""

from __future__ import annotations

import os

from vz.container.ct import Container, need_paths, printable
from vz.disk import project, quota
from vz.errors import ExitCode, VzError
from vz.ops.report import say, warn


def quota_on(ct: Container) -> None:
    """Bring the limits of the conf into force; done already: they are made what the conf says.

    Raises:
        VzError: DISK_QUOTA=no, or the node cannot (60); nothing to limit (63); files of a running CT would have to be
            counted, or that failed (61); the limits could not be set (62).
    """
    fd = _area(ct, ExitCode.DQ_ON)
    try:
        if not quota.is_wanted(ct):
            raise VzError("Unable to switch the disk quota on: DISK_QUOTA is no", ExitCode.DQ_ON)
        if quota.conf_limits(ct) is None:
            raise VzError("Unable to switch the disk quota on: DISKSPACE is not set", ExitCode.DISKSPACE_NOT_SET)
        _check(ct, fd, ExitCode.DQ_ON)
        if not project.project_of(fd, ct.ctid):
            _check_idle(ct)
            quota.initialise(ct, fd)
        text = quota.set_limits(ct, fd)
    finally:
        os.close(fd)
    if text:
        warn(f"WARNING: {text}")
    say("Disk quota is on")


def quota_off(ct: Container) -> None:
    """Take the limits off until the next mount; what the CT has is counted on.

    Raises:
        VzError: there are none in force (66).
    """
    fd = _area(ct, ExitCode.DQ_OFF)
    try:
        if not quota.clear(fd):
            raise VzError("Unable to switch the disk quota off: it is not on", ExitCode.DQ_OFF)
    except OSError as exc:
        raise VzError(f"Unable to switch the disk quota off: {exc.strerror}", ExitCode.DQ_OFF) from exc
    finally:
        os.close(fd)
    say("Disk quota is off")


def quota_init(ct: Container) -> None:
    """Give every file of the CT to its project, whatever had been counted before.

    Raises:
        VzError: the CT runs, is mounted or suspended, the node cannot, or it failed (61).
    """
    fd = _area(ct, ExitCode.DQ_INIT)
    try:
        _check(ct, fd, ExitCode.DQ_INIT)
        _check_idle(ct)
        count = quota.initialise(ct, fd)
    finally:
        os.close(fd)
    say(f"Disk quota is initialised: {count} files")


def _area(ct: Container, code: int) -> int:
    need_paths(ct)
    try:
        return quota.open_area(ct.private)
    except OSError as exc:
        raise VzError(f"Container private area {printable(ct.private)}: {exc.strerror}", code) from exc


def _check(ct: Container, fd: int, code: int) -> None:
    why = quota.problem(fd, ct.private)
    if why:
        raise VzError(why[0].upper() + why[1:], code)


def _check_idle(ct: Container) -> None:
    """Refuse to touch the files of a CT that is in use, or whose dump knows their inodes."""
    state = "running" if ct.is_running() else "mounted" if ct.is_mounted() else "suspended" if ct.is_suspended() else ""
    if state:
        raise VzError(f"Unable to initialise the disk quota: the container is {state}", ExitCode.DQ_INIT)
