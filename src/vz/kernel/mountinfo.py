"""What /proc and stat(2) tell of mounts; without ctypes, so that commands that only look stay quick."""

from __future__ import annotations

import os


def is_mount_point(path: str) -> bool:
    """Tell whether *path* is the root of a mount, a bind of the same file system included; see statx(2) and stat(2)."""
    try:
        here = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        up = os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=here) if os.path.isdir(path) else -1
        try:
            return up >= 0 and mount_id(here) != mount_id(up)
        finally:
            if up >= 0:
                os.close(up)
    finally:
        os.close(here)


def mount_id(fd: int, pid: int | str = "self") -> int:
    """Return the mount that *fd* of *pid* lies in, as the first field of its mountinfo; see proc(5), fdinfo."""
    with open(f"/proc/{pid}/fdinfo/{fd}", "rb") as info:
        for line in info:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    raise OSError(22, f"no mnt_id for descriptor {fd}")


def keeps_project_quota(path: str) -> bool:
    """Tell whether the file system of *path* is mounted with project quota on (prjquota); see xfs(5), ext4(5).

    For what is done on each start and may cost nothing where there is none.
    """
    try:
        device = os.stat(path).st_dev
    except OSError:
        return False
    number = f" {os.major(device)}:{os.minor(device)} ".encode()
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            if number in line:
                options = line.rsplit(b" ", 1)[1].strip().split(b",")
                return b"prjquota" in options or b"pquota" in options
    return False
