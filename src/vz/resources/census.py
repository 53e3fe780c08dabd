"""What the processes of a CT hold, added up one by one from the host's /proc; see proc(5).

Each thing is looked at from outside, without trust: a process may be gone at any moment, and no path of the CT's is
walked but to its devpts, whose mounts are checked on the way.
"""

from __future__ import annotations

import os

from vz.container.ct import Container
from vz.kernel import cgroup
from vz.kernel.mountinfo import mount_id
from vz.kernel.openat import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from vz.resources.cgroups import ct_dir, limit_dir


class Census:
    """Sums over processes: *data_kb* private address space, *locked_kb*, *files* open, *signals* queued, *locks*."""

    __slots__ = ("data_kb", "files", "locked_kb", "locks", "signals")

    def __init__(self) -> None:
        self.data_kb = 0
        self.locked_kb = 0
        self.files = 0
        self.signals = 0
        self.locks = 0


def pids(ct: Container) -> list[int]:
    """Return the CT's processes as the host numbers them."""
    version, path = limit_dir(ct, "pids")
    if version == 1:  # flat: nothing of it is delegated
        return [int(word) for word in _read(path).split() if word != "0"]
    found = []
    for folder, _, _ in os.walk(ct_dir(ct)):
        found += [int(word) for word in _read(folder).split() if word != "0"]
    return found


def _read(path: str) -> str:
    try:
        return cgroup.read(path, "cgroup.procs")
    except OSError:  # a threaded group, whose processes its root lists; or just gone
        return ""


def take(ct: Container) -> Census:
    """Look at every process of *ct* once."""
    found = Census()
    queued: dict[bytes, int] = {}
    members = set()
    for pid in pids(ct):
        fields = status(pid)
        if not fields:
            continue
        members.add(pid)
        found.data_kb += number(fields, b"VmData") + number(fields, b"VmStk")
        found.locked_kb += number(fields, b"VmLck")
        # queued signals are counted for each user, and every process of a user shows the same number
        user = fields.get(b"Uid", b"").split()[:1]
        for uid in user:
            queued[uid] = max(queued.get(uid, 0), int(fields.get(b"SigQ", b"0/0").split(b"/")[0]))
        found.files += open_files(pid)
    found.signals = sum(queued.values())
    found.locks = locks_of(members)
    return found


def status(pid: int) -> dict[bytes, bytes]:
    """Return the fields of /proc/PID/status, none when it has gone."""
    try:
        with open(f"/proc/{pid}/status", "rb", 0) as file:
            lines = file.read().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}


def number(fields: dict[bytes, bytes], name: bytes) -> int:
    word = fields.get(name, b"0").split()
    return int(word[0]) if word else 0


def open_files(pid: int) -> int:
    """Return how many files a process has open: the size of its fd directory from Linux 6.2 on."""
    path = f"/proc/{pid}/fd"
    try:
        return os.stat(path).st_size or len(os.listdir(path))
    except OSError:
        return 0


def locks_of(members: set[int]) -> int:
    """Return how many locks in /proc/locks the processes *members* took and hold."""
    try:
        with open("/proc/locks", "rb", 0) as file:
            lines = file.read().splitlines()
    except OSError:
        return 0
    rows = [line.split() for line in lines]
    return sum(1 for row in rows if len(row) > 4 and row[1] != b"->" and row[4].isdigit() and int(row[4]) in members)


def terminals(init_pid: int) -> int:
    """Return how many pseudo-terminals are open in the devpts at /dev/pts of the CT with *init_pid*, 0 without one."""
    try:
        here = os.open(f"/proc/{init_pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        for name in ("dev", "pts"):
            # through what is a tmpfs or a devpts, as it was made: a file system that the CT serves may never answer
            below = openat2(here, name, os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
            os.close(here)
            here = below
            if file_system(here, init_pid) not in ("tmpfs", "devtmpfs", "devpts"):
                return 0
        if file_system(here, init_pid) != "devpts":
            return 0
        folder = os.open(f"/proc/self/fd/{here}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return sum(1 for name in os.listdir(folder) if name.isdigit())
        finally:
            os.close(folder)
    except OSError:
        return 0
    finally:
        os.close(here)


def file_system(fd: int, pid: int) -> str:
    """Return the type of the file system that *fd* (it may be O_PATH) is on, by the mounts that *pid* sees."""
    mount = mount_id(fd)
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            if line.startswith(f"{mount} "):
                return line.partition(" - ")[2].split(" ")[0]
    return ""


def socket_protocols(ct: Container) -> dict[str, bytes]:
    """Return {``socket:[inode]``: the name of its protocol} of every socket that a process of *ct* has open."""
    found: dict[str, bytes] = {}
    for pid in pids(ct):
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                # by a descriptor of ours, which stays what it is: a file that the CT serves may never answer
                fd = os.open(f"{folder}/{name}", os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                link = os.readlink(f"/proc/self/fd/{fd}")
                if link.startswith("socket:[") and link not in found:
                    found[link] = os.getxattr(f"/proc/self/fd/{fd}", "system.sockprotoname").rstrip(b"\0")
            except OSError:
                pass
            finally:
                os.close(fd)
    return found
