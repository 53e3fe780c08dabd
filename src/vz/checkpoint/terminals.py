"""Descriptors of /dev/tty, which criu refuses where somebody else, such as sshd, has the terminal's master.

"ctty inheritance detected": dash, ash and others that do job control keep one.  It is the same terminal as
/dev/pts/N, and most of its programs have that open too.  So criu is told that /dev/tty is not its business
(``--external tty[…]``), and its images are changed afterwards: what was /dev/tty becomes another descriptor of
/dev/pts/N, which criu restores.  A process sees no difference but the name.
"""

from __future__ import annotations

import os

from vz.checkpoint import images
from vz.kernel.process import copy_fd, descriptors

PTS_MAJOR = 136  # devpts numbers all its terminals in the minor number
TTY = os.makedev(5, 0)
TIOCGDEV = 0x80045432  # ioctl_tty(2); the same on x86 and arm64
# messages of criu: file_entry and what it holds of a terminal, fdinfo_entry, task_kobj_ids_entry
FILE_TTY = 19
TTY_INFO_ID, TTY_FLAGS, TTY_REGULAR = 2, 3, 6
FDINFO_ID, FDINFO_FD = 1, 4
IDS_FILES = 2


class Descriptor:
    """Descriptor *fd* of process *pid*: /dev/tty on the file system *device*, for terminal *index* (-1: gone)."""

    __slots__ = ("device", "fd", "index", "pid")

    def __init__(self, pid: int, fd: int, device: int, index: int) -> None:
        self.pid, self.fd, self.device, self.index = pid, fd, device, index


def look(pids: list[int]) -> tuple[list[Descriptor], set[int]]:
    """Return (the descriptors of /dev/tty that *pids* have, the terminals that they have open as /dev/pts/N)."""
    found, slaves = [], set()
    for pid in pids:
        for fd, link in descriptors(pid):
            if not link.endswith("/dev/tty") and "/pts/" not in link:
                continue
            try:
                status = os.stat(f"/proc/{pid}/fd/{fd}")
                if status.st_rdev == TTY:
                    found.append(Descriptor(pid, fd, status.st_dev, _index(pid, fd)))
                elif os.major(status.st_rdev) == PTS_MAJOR:
                    slaves.add(os.minor(status.st_rdev))
            except OSError:
                continue  # it has just been closed
    return found, slaves


def _index(pid: int, fd: int) -> int:
    """Return the number of the terminal that a descriptor of /dev/tty stands for; -1: it has gone, or is none."""
    import fcntl

    copy = copy_fd(pid, fd)
    try:
        number = int.from_bytes(fcntl.ioctl(copy, TIOCGDEV, bytes(4)), "little")
    except OSError:  # EIO: hung up
        return -1
    finally:
        os.close(copy)
    major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    return minor if major == PTS_MAJOR else -1


def stray(pids: list[int]) -> list[Descriptor]:
    """Return the descriptors of /dev/tty for which there is no other of the same terminal: they cannot be dumped."""
    found, slaves = look(pids)
    return [descriptor for descriptor in found if descriptor.index not in slaves]


def externals(descriptors: list[Descriptor]) -> list[str]:
    """Return what tells criu(8) to leave the *descriptors* alone."""
    devices = sorted({descriptor.device for descriptor in descriptors})
    return [word for device in devices for word in ("--external", f"tty[{TTY:x}:{device:x}]")]


def name_by_number(folder: str, descriptors: list[tuple[int, int, int]]) -> int:
    """Make each of *descriptors*, (pid inside, fd, terminal), one of /dev/pts/N; return how many files it were.

    Raises:
        images.BadImage: the dump knows no such descriptor, or the terminal not otherwise.
    """
    if not descriptors:
        return 0
    wanted: dict[int, int] = {}  # id of the file → terminal
    for pid, fd, index in descriptors:
        wanted[_file_id(folder, pid, fd)] = index
    path = f"{folder}/files.img"
    data = images.read(path)
    entries = images.records(data, "files.img")
    regular, top = images.regular_files(entries)
    slaves: dict[int, tuple[bytes, bytes]] = {}  # terminal → the regular file /dev/pts/N
    for entry in entries:
        tty = images.first(entry, FILE_TTY)
        if isinstance(tty, bytes) and images.integer(entry, images.FILE_ID) not in wanted:
            info, file_id = images.integer(tty, TTY_INFO_ID), images.first(tty, TTY_REGULAR)
            if isinstance(file_id, int) and file_id in regular and not info & 1:  # odd: masters; criu's tty_gen_id()
                slaves.setdefault(info >> 1, regular[file_id])
    out = data[: images.HEAD]
    for entry in entries:
        tty = images.first(entry, FILE_TTY)
        index = wanted.get(images.integer(entry, images.FILE_ID), -1)
        if index < 0 or not isinstance(tty, bytes):
            out += images.record(entry)
            continue
        if index not in slaves:
            raise images.BadImage(f"files.img: nobody has /dev/pts/{index} open")
        top += 1
        file, reg = slaves[index]
        reg = images.with_varint(reg, images.REG_ID, top)
        reg = images.with_varint(reg, images.REG_FLAGS, images.integer(tty, TTY_FLAGS))
        file = images.with_bytes(images.with_varint(file, images.FILE_ID, top), images.FILE_REG, reg)
        tty = images.with_varint(tty, TTY_INFO_ID, index << 1) + images.field(TTY_REGULAR, images.VARINT, top)
        out += images.record(file) + images.record(images.with_bytes(entry, FILE_TTY, tty))
    images.replace(path, out)
    return len(wanted)


def _file_id(folder: str, pid: int, fd: int) -> int:
    """Return criu's id of what descriptor *fd* of process *pid* (inside) is."""
    ids = images.records(images.read(f"{folder}/ids-{pid}.img"), "ids")[0]
    name = f"fdinfo-{images.integer(ids, IDS_FILES)}.img"
    for entry in images.records(images.read(f"{folder}/{name}"), name):
        if images.integer(entry, FDINFO_FD) == fd:
            return images.integer(entry, FDINFO_ID)
    raise images.BadImage(f"{name}: no descriptor {fd}")
