"""Disk I/O of a CT: bytes and operations a second, and its weight, on the disks that its files are on.

Version 2 has io.max and io.weight.  On version 1 blkio limits hold for the processes of the very group alone, so a CT
has a group of its own there from the first limit on, with all its processes in it.  Reads and writes have a bucket
each: iolimit 10 MB is 10 MB/s of either.  On version 1 buffered writes are not slowed down, only fsync of them is.
"""

from __future__ import annotations

import errno
import os

from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import cgroup
from vz.resources.cgroups import limit_dir, v1_dir

WEIGHTS = (100, 200, 300, 400, 500, 600, 700, 800)  # by ioprio
V1_BYTES = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")
V1_OPERATIONS = ("blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device")
PASSES = 10


def apply(ct: Container, *, running: bool) -> None:
    """Write IOPRIO, IOLIMIT and IOPSLIMIT of the configuration to the kernel; what it cannot keep, ``problems`` says.

    Raises:
        VzError: the kernel refused one (148).
    """
    version = io_version()
    disks = disks_of(ct)
    if not version or not disks:
        return
    try:
        if version == 2:
            _apply_v2(ct, disks)
        else:
            _apply_v1(ct, disks, running)
    except OSError as exc:
        text = f"Unable to set I/O limits: {exc.filename}: {exc.strerror}"
        raise VzError(text, ExitCode.SET_IO) from exc


def problems(ct: Container, attrs: set[str]) -> list[str]:
    """Return a line for each of *attrs* (ioprio, iolimit, iopslimit) that has no effect on this node."""
    limits = [attr for attr in ("iolimit", "iopslimit") if attr in attrs and getattr(ct.conf, attr)]
    found = []
    version, disks = io_version(), disks_of(ct)
    why = "" if disks else "its files are on no disk of this node"
    if not version:
        why = "this kernel has no controller for it"
    if limits and why:
        found.append(f"{', '.join(limits)}: no effect: {why}")
    if "ioprio" in attrs and ct.conf.ioprio is not None:
        if not why and not any(weight_counts(disk, version) for disk in disks):
            why = f"elevator {elevator(disks[0])} of {disk_name(disks[0])} knows no weights; bfq does"
        if why:
            found.append(f"ioprio: no effect: {why}")
    return found


def current(ct: Container) -> tuple[int, int]:
    """Return (bytes, operations) a second that a running CT is limited to; 0: no limit."""
    try:
        if io_version() == 2:
            words = cgroup.read(limit_dir(ct, "io")[1], "io.max").split()
            fields = dict(word.split("=") for word in words if "=" in word)
            rate, operations = fields.get("rbps", "max"), fields.get("riops", "max")
        else:
            path = v1_dir(ct, "blkio")
            lines = [cgroup.read(path, keys[0]).split() for keys in (V1_BYTES, V1_OPERATIONS)]
            rate, operations = (words[1] if len(words) > 1 else "" for words in lines)
    except OSError:
        return 0, 0
    return int(rate) if rate.isdecimal() else 0, int(operations) if operations.isdecimal() else 0


def io_version() -> int:
    """Return the cgroup version that I/O limits are on: 2, 1, or 0 for none."""
    places = cgroup.hierarchies()
    return 2 if places.version("io") == 2 else places.version("blkio")


def disks_of(ct: Container) -> list[str]:
    """Return the whole disks, as ``MAJOR:MINOR``, that the CT's own files and its template are on."""
    paths = [ct.private, f"{ct.private}/.."]
    if (ct.conf.ve_layout or ct.node.ve_layout).startswith("overlay"):
        paths.append(ct.node.template)
    found = dict.fromkeys(disk for path in paths if (disk := disk_of(path)))
    return list(found)


def disk_of(path: str) -> str:
    """Return the whole disk below *path*, "" where that cannot be told (tmpfs, a network file system)."""
    try:
        number = os.stat(path).st_dev
        if os.major(number) == 0:
            number = _source_of(path)
    except OSError:
        return ""
    folder = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    if not number or not os.path.isdir(folder):
        return ""
    if os.path.exists(f"{folder}/partition"):
        folder = os.path.dirname(os.path.realpath(folder))
    with open(f"{folder}/dev", encoding="ascii") as file:
        return file.read().strip()


def _source_of(path: str) -> int:
    """Return the device number of the block device that the file system of *path* (btrfs, say) was mounted from."""
    real = os.path.realpath(path)
    best, source = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            left, _, right = line.partition(" - ")
            point = left.split(" ")[4].replace("\\040", " ")
            if (real + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
                best, source = point, right.split(" ")[1]
    return os.stat(source).st_rdev if source.startswith("/dev/") else 0


def disk_name(disk: str) -> str:
    return os.path.basename(os.path.realpath(f"/sys/dev/block/{disk}"))


def elevator(disk: str) -> str:
    """Return the name of the I/O scheduler of *disk*."""
    try:
        with open(f"/sys/dev/block/{disk}/queue/scheduler", encoding="ascii") as file:
            text = file.read()
    except OSError:
        return "none"
    return text.partition("[")[2].partition("]")[0] or text.strip() or "none"


def weight_counts(disk: str, version: int) -> bool:
    """Tell whether a weight has an effect on *disk*: by bfq, or on version 2 by the cost model where it is on."""
    if elevator(disk) == "bfq":
        return True
    if version != 2:
        return False
    try:
        lines = cgroup.read(cgroup.hierarchies().unified, "io.cost.qos").splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{disk} ") and "enable=1" in line for line in lines)


def _limits(ct: Container) -> tuple[int, int]:
    return ct.conf.iolimit or 0, ct.conf.iopslimit or 0


def _weight(ct: Container) -> int:
    prio = ct.conf.ioprio
    return WEIGHTS[4 if prio is None else prio]


def _apply_v2(ct: Container, disks: list[str]) -> None:
    path = limit_dir(ct, "io")[1]
    rate, operations = (value or "max" for value in _limits(ct))
    for disk in disks:
        cgroup.write(path, "io.max", f"{disk} rbps={rate} wbps={rate} riops={operations} wiops={operations}")
    for key, value in (("io.bfq.weight", _weight(ct)), ("io.weight", f"default {_weight(ct)}")):
        if os.path.exists(f"{path}/{key}"):
            cgroup.write(path, key, value)


def _apply_v1(ct: Container, disks: list[str], running: bool) -> None:
    path = v1_dir(ct, "blkio")
    if not os.path.isdir(path):
        if not any(_limits(ct)) and ct.conf.ioprio is None:
            return
        cgroup.make_path(path)
    for keys, value in zip((V1_BYTES, V1_OPERATIONS), _limits(ct)):
        for key in keys:
            for disk in disks:
                cgroup.write(path, key, f"{disk} {value}")
    if os.path.exists(f"{path}/blkio.bfq.weight"):
        cgroup.write(path, "blkio.bfq.weight", _weight(ct))
    if running:
        _move_in(ct, path)


def _move_in(ct: Container, path: str) -> None:
    """Move every process of a running CT into *path*; children of those that are in it are born there."""
    from vz.resources import census

    for _ in range(PASSES):
        inside = {int(word) for word in cgroup.read(path, "cgroup.procs").split()}
        outside = [pid for pid in census.pids(ct) if pid not in inside]
        if not outside:
            return
        for pid in outside:
            try:
                cgroup.write(path, "cgroup.procs", pid)
            except OSError as exc:
                if exc.errno not in (errno.ESRCH, errno.EINVAL):  # gone, or a zombie
                    raise
