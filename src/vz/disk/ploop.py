"""Layout ploop: the CT's root is an ext4 file system in a raw, sparse image, on a loop device that goes with its mount.

Private area: ``root.hdd/root.hdd`` (the image) and ``root.hdd/root.hdd.{UUID}`` (snapshots, whole images that share
blocks where the host's file system can).  For each template there is one image, which create copies: by reflink, else
the allocated extents.  A size is changed on a copy that takes the image's name when it is whole, unless it is mounted.
"""

from __future__ import annotations

import errno
import os
import time

from vz.container.ct import Container
from vz.disk import templates
from vz.errors import ExitCode, VzError
from vz.kernel.files import remove, sync_directory
from vz.kernel.process import spawn, which

NAME = "ploop"
PATIENCE_S = 60.0
BLOCK = 4096
SLACK_BYTES = 96 << 20  # the journal, inode tables, and room to grow
# without noinit_itable the kernel would write all inode tables, into holes of the image
OPTIONS = [("errors", "remount-ro"), ("noinit_itable", "")]
# words of MOUNT_OPTS that are the mount's and not the file system's: attributes of fsmount(2)
ATTRIBUTES = {"noatime": 0x10, "strictatime": 0x20, "nodiratime": 0x80, "relatime": 0}


def image_path(private: str) -> str:
    """Return where the image of the private area *private* is."""
    return f"{private.rstrip('/')}/root.hdd/root.hdd"


def size_bytes(ct: Container) -> int:
    """Return the size that DISKSPACE asks for: its hard value, in bytes; VzError (63) without one."""
    if not ct.conf.diskspace:
        raise VzError("DISKSPACE is not set: a ploop image needs --diskspace", ExitCode.DISKSPACE_NOT_SET)
    return int(ct.conf.diskspace[1]) * 1024 // BLOCK * BLOCK


def create(ct: Container, area: str, template: str) -> None:
    """Make the image in the new, empty directory *area*.

    Raises:
        VzError: no DISKSPACE (63), disk full (46), the image could not be made (151).
    """
    size = size_bytes(ct)
    base = prepared(ct, template)
    os.chmod(area, 0o700)
    os.mkdir(f"{area}/root.hdd", 0o700)
    image = image_path(area)
    copy(base, image, ExitCode.CREATE_IMAGE_ERROR)
    os.chmod(image, 0o600)
    resize_file(image, size, ExitCode.CREATE_IMAGE_ERROR)
    tool(["tune2fs", "-U", "random", image], ExitCode.CREATE_IMAGE_ERROR)


def prepared(ct: Container, template: str) -> str:
    """Return the image of *template*, made at its first use; it lies beside the unpacked copy and goes with it."""
    tree = templates.unpacked(ct.node, template)
    image = f"{os.path.dirname(tree)}/ploop.img"
    if os.path.exists(image):
        return image
    lock = templates.lock_cache(ct.node)
    try:
        if not os.path.exists(image):
            _prepare(tree, image)
    finally:
        os.close(lock)
    return image


def _prepare(tree: str, image: str) -> None:
    used = 0
    files = 0
    for folder, _folders, names in os.walk(tree):
        files += len(names) + 1
        for name in names:
            used += os.lstat(f"{folder}/{name}").st_size + BLOCK
    size = (used + used // 8 + files * 512 + SLACK_BYTES) // BLOCK * BLOCK
    temporary = f"{image}.tmp"
    try:
        remove(temporary)
        with open(temporary, "xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(size)
        words = "-q -F -t ext4 -b 4096 -I 256 -i 16384 -m 0 -J size=32 -O metadata_csum,64bit,metadata_csum_seed"
        lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        tool(["mkfs.ext4", *words.split(), "-E", lazy, "-d", tree, temporary], ExitCode.CREATE_IMAGE_ERROR)
        os.rename(temporary, image)
    except BaseException:
        remove(temporary)
        raise


def copy(source: str, target: str, code: int, *, durable: bool = True) -> None:
    """Copy the image *source*: by reflink, else its allocated extents.

    *target* appears when it is whole, and synced if *durable*.  VzError: a full disk (46), else *code*.
    """
    temporary = f"{target}.tmp"
    remove(temporary)  # an earlier one's, that may be at it still
    try:
        tool(["cp", "--reflink=auto", "--sparse=auto", "--", source, temporary], code)
        if durable:
            sync_file(temporary)
        os.rename(temporary, target)
        if durable:
            sync_directory(os.path.dirname(target))
    except BaseException:
        remove(temporary)
        raise


def sync_file(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def resize(private: str, size: int) -> None:
    """Give the image of a CT that is not mounted *size* bytes, on a copy of it; VzError (154)."""
    image = image_path(private)
    draft = f"{image}.new"
    try:
        copy(image, draft, ExitCode.RESIZE_IMAGE_ERROR)
        resize_file(draft, size, ExitCode.RESIZE_IMAGE_ERROR)
        sync_file(draft)
        os.rename(draft, image)
        sync_directory(os.path.dirname(image))
    except BaseException:
        remove(draft)
        raise


def resize_file(image: str, size: int, code: int) -> None:
    """Give the file system in the file *image*, and it, *size* bytes; VzError (*code*)."""
    tool(["e2fsck", "-f", "-p", image], code, good=(0, 1))
    now = os.stat(image).st_size
    if size > now:
        os.truncate(image, size)
    tool(["resize2fs", image, f"{size // 1024}K"], code)
    os.truncate(image, size)


def grow_mounted(private: str, size: int) -> None:
    """Give the mounted image *size* bytes, no fewer than it has.

    Raises:
        VzError: smaller, or the kernel refused (154): ext4 wants CAP_SYS_RESOURCE for it.
    """
    from vz.kernel import loop

    image = image_path(private)
    devices = loop.find(image)
    now = os.stat(image).st_size
    if size < now:
        text = f"An image is made smaller only while it is not mounted: {size // 1024}K is less than {now // 1024}K"
        raise VzError(text, ExitCode.RESIZE_IMAGE_ERROR)
    if not devices:
        raise VzError(f"{image} is on no loop device", ExitCode.RESIZE_IMAGE_ERROR)
    if size > now:
        os.truncate(image, size)
        loop.file_has_grown(devices[0])
    tool(["resize2fs", devices[0]], ExitCode.RESIZE_IMAGE_ERROR)


def mount(ct: Container) -> None:
    """Mount the image at VE_ROOT with the CT's ids.

    Raises:
        VzError: no image, or it is in use elsewhere (50).
        OSError: as loop.attach, fsconfig(2), mount_setattr(2) and move_mount(2).
    """
    from vz.kernel import loop, mounts
    from vz.kernel.namespaces import userns

    image = image_path(ct.private)
    if not os.path.isfile(image):
        raise VzError(f"There is no image {image}", ExitCode.FS_CANTMOUNT)
    wait_free(image)
    remove(f"{image}.new")
    remove(f"{image}.new.tmp")
    options, attributes = mount_options(ct.conf.mount_opts or "")
    device, name = loop.attach(image)
    try:
        tree_fd = mounts.fs_mount("ext4", [("source", name), *OPTIONS, *options], attributes)
    finally:
        os.close(device)
    try:
        mounts.idmap(tree_fd, userns(*ct.idmap))
        mounts.move_mount(tree_fd, ct.root)
    finally:
        os.close(tree_fd)


def mount_options(text: str) -> tuple[list[tuple[str, str]], int]:
    """Return (options of ext4, attributes of the mount) of MOUNT_OPTS."""
    options, attributes = [], 0
    for word in filter(None, text.split(",")):
        key, _, value = word.partition("=")
        if word in ATTRIBUTES:
            attributes |= ATTRIBUTES[word]
        else:
            options.append((key, value))
    return options, attributes


def wait_free(image: str) -> None:
    """Wait for an earlier mount of *image* to be gone: twice the same image would destroy it."""
    from vz.kernel import loop

    deadline = time.monotonic() + PATIENCE_S
    while devices := loop.find(image):
        if time.monotonic() > deadline:
            raise VzError(f"The image {image} is in use as {devices[0]}", ExitCode.FS_CANTMOUNT)
        time.sleep(0.02)


def device_of(image: str) -> tuple[str, int]:
    """Return the loop device of *image* as (path, st_dev of what is mounted from it); OSError (ENODEV): it has none."""
    from vz.kernel import loop

    for name in loop.find(image):
        return name, os.stat(name).st_rdev
    raise OSError(errno.ENODEV, "it is on no loop device", image)


def tree_path(ct: Container) -> str | None:
    """Return the directory whose top is the CT's own root on disk; an image has none."""
    return None


def tool(words: list[str], code: int, *, good: tuple[int, ...] = (0,)) -> None:
    """Run *words*; VzError: 46 on a full disk, else *code*, with its last line."""
    try:
        result = spawn([which(words[0]), *words[1:]], long=True)
    except FileNotFoundError as exc:
        raise VzError(f"The ploop layout needs the program {words[0]}", code) from exc
    if result.status in good:
        return
    lines = result.stderr.decode("utf-8", "replace").strip().splitlines() or [f"status {result.status}"]
    full = any("No space left" in line for line in lines)
    raise VzError(f"{words[0]}: {lines[-1]}", ExitCode.FS_NO_DISK_SPACE if full else code)
