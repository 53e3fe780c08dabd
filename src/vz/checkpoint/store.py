"""A dump on disk: the directory ``$DUMPDIR/Dump.CTID``, 0700, and how it comes, counts and goes.

``images/`` is criu's; beside it lie the CT's run record, its configuration, its cgroup tree, what criu does not carry
(``routes.*``, ``neighbours``, ``affinity``, …), criu's logs, and ``info``, which is written last.  A dump is made as
``Dump.CTID.new`` and synced before it takes its name; an older one waits as ``.old`` until the new one counts for
good.  A dump whose CT has been let go again is moved to ``.gone`` in one durable step, so no state runs twice.
"""

from __future__ import annotations

import os

from vz.container.ct import KEPT
from vz.kernel.files import make_dirs, read_bytes, read_text, sync_directory, write_atomically

FORMAT = "1"
NEW, OLD, GONE, FAIL = ".new", ".old", ".gone", ".fail"
LOGS = ("dump.log", "restore.log")


class NoDump(Exception):
    """There is no usable dump at a path; the text says why."""


def check_place(path: str) -> None:
    """Refuse to make a dump where something else lies than a dump or a plain file.

    Raises:
        NoDump: the text says what is there.
    """
    for suffix in ("", NEW, OLD, FAIL):
        place = path + suffix
        if not os.path.lexists(place) or os.path.isfile(place):
            continue
        known = ("info", "images", *LOGS)
        if os.path.islink(place) or not any(os.path.exists(f"{place}/{name}") for name in known):
            raise NoDump(f"{place} is there and is no dump")


def promote(path: str) -> None:
    """Let the dump *path* of a CT that has been ended stand for it, though it was left running at first."""
    try:
        os.unlink(f"{path}/{KEPT}")
    except FileNotFoundError:
        return
    sync_directory(path)


def fresh(path: str) -> str:
    """Make an empty ``PATH.new`` with its images directory, in place of one that a killed dump left; return it."""
    folder = path + NEW
    make_dirs(os.path.dirname(path), 0o700)
    remove(folder)
    os.mkdir(folder, 0o700)
    os.mkdir(f"{folder}/images", 0o755)  # tasks in the CT's user namespace open the images through a descriptor
    os.chmod(f"{folder}/images", 0o755)
    return folder


def write(folder: str, name: str, data: str | bytes) -> None:
    """Put file *name* into the dump *folder*; it is synced with the whole."""
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    write_atomically(f"{folder}/{name}", raw, 0o600, durable=False)


def read(folder: str, name: str) -> str:
    """Return file *name* of the dump *folder*, "" when it has none."""
    try:
        return read_text(f"{folder}/{name}", 64 << 20)
    except FileNotFoundError:
        return ""


def read_raw(folder: str, name: str) -> bytes:
    try:
        return read_bytes(f"{folder}/{name}", 64 << 20)
    except FileNotFoundError:
        return b""


def write_info(folder: str, facts: dict[str, str | int]) -> None:
    """Write the file that makes the dump *folder* whole."""
    lines = [f"format={FORMAT}"] + [f"{key}={value}" for key, value in facts.items()]
    write(folder, "info", "\n".join(lines) + "\n")


def info(path: str) -> dict[str, str]:
    """Return what the dump at *path* says of itself.

    Raises:
        NoDump: there is none, or one that is no dump of ours.
    """
    if not os.path.lexists(path):
        raise NoDump(f"there is no dump at {path}")
    if not os.path.isdir(path):
        raise NoDump(f"{path} is a file: a dump of OpenVZ's own kernel, which no other can restore")
    facts = dict(line.split("=", 1) for line in read(path, "info").splitlines() if "=" in line)
    if not facts:
        raise NoDump(f"{path} is incomplete")
    if facts.get("format") != FORMAT:
        raise NoDump(f"{path} is of format {facts.get('format', '?')}; this version reads format {FORMAT}")
    return facts


def identity(path: str) -> str:
    """Return the serial of the dump at *path*, "" when there is none."""
    try:
        return info(path).get("serial", "")
    except NoDump:
        return ""


def size_bytes(folder: str) -> int:
    """Return how much disk the dump *folder* takes."""
    total = 0
    for base, _, names in os.walk(folder):
        total += sum(os.lstat(f"{base}/{name}").st_blocks * 512 for name in names)
    return total


def sync(folder: str) -> None:
    """Make every file and directory of *folder* durable; OSError (ENOSPC, EIO) when that cannot be."""
    for base, _, names in os.walk(folder, topdown=False):
        for name in names:
            fd = os.open(f"{base}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_directory(base)


def commit(path: str) -> None:
    """Let ``PATH.new``, complete and synced, take the name *path*; an older dump waits as ``PATH.old``."""
    if os.path.lexists(path):
        remove(path + OLD)
        os.rename(path, path + OLD)
    os.rename(path + NEW, path)
    sync_directory(os.path.dirname(path))


def retract(path: str, serial: str) -> None:
    """Undo a dump that does not count after all: the one called *serial* goes, the older one gets its name back.

    Every step may have been done before, or never.
    """
    if serial and identity(path) == serial:
        remove(path)
    remove(path + NEW)
    if not os.path.lexists(path) and os.path.lexists(path + OLD):
        os.rename(path + OLD, path)
    if os.path.isdir(os.path.dirname(path)):
        sync_directory(os.path.dirname(path))


def detach_yards(folder: str) -> None:
    """Detach what a killed criu has left mounted in the dump directory *folder*: a tmpfs of cgroup trees."""
    with open("/proc/self/mountinfo") as table:
        points = [line.split(" ")[4] for line in table if f" {folder}/.criu." in line]
    from vz.kernel import mounts

    for point in points:
        if point.startswith(f"{folder}/.criu.") and "/" not in point[len(folder) + 1 :]:  # takes those below along
            mounts.umount(point, mounts.MNT_DETACH)


def retire(path: str) -> None:
    """Make the dump *path* one that nothing will restore again, in one durable step."""
    remove(path + GONE)
    detach_yards(path)
    os.rename(path, path + GONE)
    sync_directory(os.path.dirname(path))


def fail(path: str) -> str:
    """Move the dump *path* out of the way as ``PATH.fail`` and return that."""
    remove(path + FAIL)
    detach_yards(path)
    os.rename(path, path + FAIL)
    sync_directory(os.path.dirname(path))
    return path + FAIL


def keep_logs(folder: str, path: str) -> str:
    """Keep the logs of the failed dump *folder* in ``PATH.fail`` and return that; its memory images are of no use."""
    target = path + FAIL
    logs = [name for name in LOGS if os.path.exists(f"{folder}/{name}")]
    if not logs:
        return ""
    remove(target)
    os.mkdir(target, 0o700)
    for name in logs:
        os.rename(f"{folder}/{name}", f"{target}/{name}")
    return target


def remove(path: str) -> None:
    """Delete the file or directory *path*; nothing when it is not there."""
    if not os.path.isdir(path) or os.path.islink(path):
        if os.path.lexists(path):
            os.unlink(path)
        return
    detach_yards(path)  # or this would walk through the node's cgroups
    for base, folders, names in os.walk(path, topdown=False):
        for name in names:
            os.unlink(f"{base}/{name}")
        for name in folders:
            folder = f"{base}/{name}"
            os.unlink(folder) if os.path.islink(folder) else os.rmdir(folder)
    os.rmdir(path)
