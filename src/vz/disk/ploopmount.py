"""Mounts of ploop disks without a ploop driver: by a loop device, on the raw image itself or on a copy to read.

The device carries a mark, and goes with its last user; the copy has no name any more once it is on the device.  So
the kernel's own list of loop devices and mounts is all that is to be known of a mounted disk.
"""

from __future__ import annotations

import errno
import os

from vz.disk import gpt
from vz.disk.ploopimage import Chain, PloopCode, write_raw
from vz.disk.ploopstack import Folder
from vz.errors import VzError

MARK = b"vz ploop"
DELETED = " (deleted)"
ATTRIBUTES = 2 | 4  # nosuid, nodev: the disk may be anybody's
FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs")


def mount(
    chain: Chain, folder: Folder, target: str, *, read_only: bool, fstype: str, options: list[str], repair: bool
) -> str:
    """Mount the file system on *chain* at *target*; return the device.

    Only a raw image alone can be written to.  The lock of *folder* is held for writing.

    Raises:
        VzError: cannot be mounted this way (38), in use (37), no such file system or no mount (21), fsck (41).
    """
    from vz.kernel import loop, mounts

    image = chain.images[0]
    plain = len(chain.images) == 1 and image.kind == "raw"
    if not plain and not read_only:
        text = "Only a raw image without snapshots can be mounted for writing: mount -r, or ploop convert -f raw first"
        raise VzError(text, PloopCode.PARAMETER)
    if fstype not in FILE_SYSTEMS:
        raise VzError(f"{fstype[:60]}: no file system that a ploop disk has", PloopCode.PARAMETER)
    if not os.path.isdir(target):
        raise VzError(f"{target}: is no directory to mount at", PloopCode.MOUNT)
    for one in chain.images:
        if devices := loop.find(one.path):
            raise VzError(f"{one.path} is in use as {devices[0]}", PloopCode.IN_USE)
    start, length = gpt.partition(chain) or (0, chain.size)
    if plain:
        device, name = loop.attach(image.path, read_only=read_only, offset=start, size=length, mark=MARK)
    else:
        device, name = _attach_copy(chain, folder, start, length)
    try:
        if repair and not (plain and read_only):
            fsck(name, fstype)
        words = [("source", name)]
        words += [("ro", "")] if read_only else []
        words += [(key, value) for key, _, value in (option.partition("=") for option in options)]
        try:
            tree = mounts.fs_mount(fstype, words, ATTRIBUTES | (mounts.MOUNT_ATTR_RDONLY if read_only else 0))
        except OSError as exc:
            raise VzError(f"Cannot mount {name} at {target}: {exc.strerror}", PloopCode.MOUNT) from exc
        try:
            mounts.move_mount(tree, target)
        finally:
            os.close(tree)
    finally:
        os.close(device)
    return name


def _attach_copy(chain: Chain, folder: Folder, start: int, length: int) -> tuple[int, str]:
    """Return a loop device on a copy of the partition, in *folder*, that has no name any more."""
    from vz.kernel import loop

    name = f".ploop-{os.urandom(8).hex()}.mount"
    folder.note([name])
    try:
        folder.make(name, lambda fd: write_raw(fd, chain, start, length))
        return loop.attach(folder.full(name), mark=MARK)
    finally:
        folder.clear()


def fsck(device: str, fstype: str) -> None:
    """Check and mend the ext file system on *device*; VzError (41)."""
    from vz.kernel.process import spawn, which

    if not fstype.startswith("ext"):
        raise VzError(f"-F is for ext file systems, not {fstype}", PloopCode.PARAMETER)
    result = spawn([which("e2fsck"), "-f", "-p", device], long=True)
    if result.status & ~1:
        lines = (result.stdout + result.stderr).decode("utf-8", "replace").strip().splitlines() or ["failed"]
        raise VzError(f"e2fsck: {lines[0]}", PloopCode.FSCK)


def running() -> list[tuple[str, bool, str, list[str]]]:
    """Return (device, whether mount() made it, path of its file, where it is mounted) of what is a ploop disk's.

    The images of containers with the layout ploop are there too.
    """
    from vz.kernel import loop

    places: dict[str, list[str]] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            path = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape", "surrogateescape")
            places.setdefault(fields[2], []).append(path.encode("latin-1", "replace").decode("utf-8", "replace"))
    found = []
    for device, (mark, path) in loop.marks().items():
        path = path.removesuffix(DELETED)
        if mark == MARK or os.path.basename(path) == "root.hdd":
            number = os.stat(device).st_rdev
            where = places.get(f"{os.major(number)}:{os.minor(number)}", [])
            found.append((device, mark == MARK, path, where))
    return found


def umount(*, device: str = "", target: str = "", path: str = "") -> list[str]:
    """Unmount what mount() has mounted, from *device*, at *target*, or of the disk or image *path*; return where.

    Raises:
        VzError: nothing of the kind is mounted (40), it is in use (22).
    """
    from vz.kernel import mounts

    folder = os.path.realpath(os.path.dirname(os.path.abspath(path))) if path else ""
    wanted = os.path.realpath(target) if target else ""
    done = []
    for name, ours, file, places in running():
        if not ours:
            continue
        named = name == device or (folder and os.path.dirname(file) == folder)
        for place in places:
            if named or place == wanted:
                try:
                    mounts.umount(place, mounts.UMOUNT_NOFOLLOW)
                except OSError as exc:
                    code = PloopCode.UMOUNT
                    why = "it is in use" if exc.errno == errno.EBUSY else exc.strerror
                    raise VzError(f"Cannot unmount {place}: {why}", code) from exc
                done.append(place)
    if not done:
        raise VzError(f"{device or target or path}: is not mounted by ploop", PloopCode.NOT_MOUNTED)
    return done
