"""ploop init, mount, umount, resize, convert, check, info, list, stat, restore-descriptor."""

from __future__ import annotations

import os
import sys

from vz.cli.ploop import Given, block, image_format, one, size, version, wrong
from vz.disk import diskdescriptor, gpt
from vz.disk.ploopimage import CLUSTER, BadImage, Chain, Expanded, Pieces, PloopCode, Raw, load, open_regular, write_raw
from vz.disk.ploopstack import Disk, Folder, convert, create, in_partition, resize, write_alone
from vz.errors import VzError
from vz.kernel.process import spawn, which

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.disk.ploopimage import View

SHOWN = 8


def init(given: Given, rest: list[str]) -> int:
    path = one(rest, "init")
    kind = image_format(given.values.get("f", "expanded"))
    number, cluster = version(given.values.get("v")), block(given.values.get("b"))
    if kind == "raw" and "v" in given.values:
        raise wrong("A raw image has no version")
    bytes_ = -(-size(given.need("s")) // cluster) * cluster
    fstype = given.values.get("t", "ext4")
    if fstype not in ("none", "ext4"):
        raise wrong(f"A file system is none or ext4, not {fstype[:60]!r}")
    if fstype == "none":
        if given.values.keys() & {"B", "L"}:
            raise wrong("-B and -L are of a file system")
        create(path, Pieces(bytes_, cluster, []), kind, number)
        return 0
    start, length = gpt.room(bytes_, cluster)
    if length < 1 << 20:
        raise wrong("The disk is too small for a file system")
    fs_block, label = given.values.get("B", "4096"), given.values.get("L", "")
    if fs_block not in ("1024", "2048", "4096") or len(label.encode()) > 16:
        raise wrong("A file system's block has 1024, 2048 or 4096 bytes, its label at most 16")
    fd = os.memfd_create("ploop")
    try:
        os.ftruncate(fd, length)
        words = ["mkfs.ext4", "-q", "-F", "-m", "0", "-b", fs_block, "-E", "lazy_itable_init=1,lazy_journal_init=1"]
        tool([*words, *(["-L", label] if label else []), f"/proc/{os.getpid()}/fd/{fd}"], PloopCode.MKFS)
        create(path, in_partition(bytes_, cluster, fd, start, length), kind, number)
    finally:
        os.close(fd)
    return 0


def tool(words: list[str], code: int, good: tuple[int, ...] = (0,)) -> None:
    """Run *words*; VzError (*code*) with its last line."""
    try:
        result = spawn([which(words[0]), *words[1:]], long=True)
    except FileNotFoundError as exc:
        raise VzError(f"This needs the program {words[0]}", code) from exc
    if result.status not in good:
        lines = (result.stdout + result.stderr).decode("utf-8", "replace").strip().splitlines() or ["failed"]
        raise VzError(f"{words[0]}: {lines[-1]}", code)


def mount(given: Given, rest: list[str]) -> int:
    from vz.disk.ploopmount import mount as do_mount

    if not rest:
        raise wrong("ploop mount: DiskDescriptor.xml or images are expected")
    target = given.values.get("m")
    if target is None:
        raise wrong("ploop mount: -m is needed: without ploop's driver there is no device without a mount")
    how = {
        "read_only": "r" in given.flags,
        "repair": "F" in given.flags,
        "fstype": given.values.get("t", "ext4"),
        "options": [word for word in given.values.get("o", "").split(",") if word],
    }
    if os.path.basename(rest[0]) == diskdescriptor.NAME:
        if given.values.keys() & {"f", "b"}:
            raise wrong("ploop mount: -f and -b are in DiskDescriptor.xml")
        with Disk(one(rest, "mount"), write=True) as disk:
            word = given.values.get("u", disk.descriptor.top)
            guid = disk.descriptor.chain(disk.descriptor.top)[0].guid if word == "base" else disk.guid(word)
            if guid != disk.descriptor.top and not how["read_only"]:
                raise wrong("A snapshot is mounted with -r only")
            device = do_mount(disk.chain(guid), disk.folder, target, **how)  # type: ignore[arg-type]
    else:
        if "u" in given.values:
            raise wrong("ploop mount: -u is for DiskDescriptor.xml")
        folder = Folder(os.path.dirname(os.path.abspath(rest[-1])), write=True)
        try:
            chain = Chain(load_files(rest, given.values.get("f"), block(given.values.get("b"))))
            device = do_mount(chain, folder, target, **how)  # type: ignore[arg-type]
        finally:
            folder.close()
    print(f"Mounted {device} at {target} fstype={how['fstype']}")
    return 0


def load_files(paths: list[str], kind: str | None, cluster: int) -> list[Raw | Expanded]:
    """Open the images *paths*, the base first, which *kind* is of, for good; VzError (11): one is broken."""
    images: list[Raw | Expanded] = []
    for path in paths:
        raw = kind is not None and image_format(kind) == "raw" and not images
        image = load(open_regular(path), path, raw=raw, cluster=cluster)
        if problems := image.problems():
            raise BadImage(f"{path}: {problems[0]}")
        images.append(image)
    return images


def umount(given: Given, rest: list[str]) -> int:
    from vz.disk.ploopmount import umount as do_umount

    device, target = given.values.get("d", ""), given.values.get("m", "")
    if len(rest) + bool(device) + bool(target) != 1:
        raise wrong("ploop umount: one of -d DEVICE, -m DIR, a DiskDescriptor.xml and an image is expected")
    for place in do_umount(device=device, target=target, path=rest[0] if rest else ""):
        print(f"Unmounted {place}")
    return 0


def do_resize(given: Given, rest: list[str]) -> int:
    wanted = size(given.need("s"))

    def grow(path: str, length: int) -> None:
        tool(["e2fsck", "-f", "-p", path], PloopCode.FSCK, good=(0, 1))
        if length > os.stat(path).st_size:
            os.truncate(path, length)
        tool(["resize2fs", path, f"{length // 1024}K"], PloopCode.RESIZE_FS)
        os.truncate(path, length)

    with Disk(one(rest, "resize"), write=True) as disk:
        resize(disk, wanted, grow)
    return 0


def do_convert(given: Given, rest: list[str]) -> int:
    path = one(rest, "convert")
    kind = image_format(given.values["f"]) if "f" in given.values else None
    number = version(given.values["v"]) if "v" in given.values else None
    if kind == "raw" and number is not None:
        raise wrong("A raw image has no version")
    if "o" in given.values:
        if kind is None:
            raise wrong("ploop convert -o: -f is needed")
        return export(path, given.values["o"], kind, number or 2, given.values.get("u"), "p" in given.flags)
    if given.flags or "u" in given.values:
        raise wrong("ploop convert: -p and -u are for -o FILE")
    if kind is None and number is None:
        raise wrong("ploop convert: -f or -v is expected")
    with Disk(path, write=True) as disk:
        convert(disk, kind, number)
    return 0


def export(path: str, out: str, kind: str, number: int, uuid: str | None, partition: bool) -> int:
    """Write the disk *path* as the one image *out*; expanded ones get their DiskDescriptor.xml beside them.

    With *partition* a raw *out* is the file system alone, and an expanded one has a partition put around that.
    """
    if os.path.basename(path) != diskdescriptor.NAME:
        if uuid is not None:
            raise wrong("ploop convert: -u is for DiskDescriptor.xml")
        image = load(open_regular(path), path)
        if problems := image.problems():
            raise BadImage(f"{path}: {problems[0]}")
        if image.kind == "raw":
            from vz.kernel import loop

            if devices := loop.find(path):
                raise VzError(f"{path} is in use as {devices[0]}", PloopCode.IN_USE)
        return _write_out(Chain([image]), out, kind, number, partition, None)
    same = os.path.realpath(os.path.dirname(os.path.abspath(out))) == os.path.realpath(
        os.path.dirname(os.path.abspath(path))
    )
    with Disk(path, write=same) as disk:
        disk.refuse_in_use()
        guid = disk.guid(uuid) if uuid is not None else disk.descriptor.top
        return _write_out(disk.chain(guid), out, kind, number, partition, disk.folder if same else None)


def _write_out(chain: Chain, out: str, kind: str, number: int, partition: bool, held: Folder | None) -> int:
    if kind == "raw":
        start, length = 0, chain.size
        if partition:
            place = gpt.partition(chain)
            if place is None:
                raise VzError(
                    "There is no partition table on the disk (without -p all of it is written)", PloopCode.FORMAT
                )
            start, length = place
        write_alone(out, lambda fd: write_raw(fd, chain, start, length), held)
        return 0
    if held is not None:
        raise wrong("An expanded image is written into a directory of its own")
    view: View = chain
    if partition:
        image = chain.images[0]
        if len(chain.images) > 1 or image.kind != "raw" or gpt.partition(chain) is not None:
            raise wrong("-p puts a partition around a raw file system, which this is not")
        start = max(chain.cluster, CLUSTER)
        whole = -(-(start + image.size + gpt.TAIL_SECTORS * 512) // chain.cluster) * chain.cluster
        view = in_partition(whole, chain.cluster, image.fd, start, -(-image.size // gpt.BLOCK) * gpt.BLOCK)
    create(out, view, kind, number)
    return 0


def check(given: Given, rest: list[str]) -> int:
    path = one(rest, "check")
    read_only = "r" in given.flags
    if os.path.basename(path) == diskdescriptor.NAME:
        if given.flags & {"R"} or "b" in given.values:
            raise wrong("ploop check: -R and -b are in DiskDescriptor.xml")
        with Disk(path, write=not read_only) as disk:
            guid = disk.guid(given.values["u"]) if "u" in given.values else disk.descriptor.top
            status = 0
            for image in disk.descriptor.chain(guid):
                full = disk.folder.full(image.file)
                size_ = disk.descriptor.size if image.guid == disk.descriptor.top else 0
                flags = given.flags | {"d"} | ({"R"} if image.kind == "raw" else set())
                status = check_file(full, flags, disk.descriptor.cluster, size_) or status
            return status
    if "u" in given.values:
        raise wrong("ploop check: -u is for DiskDescriptor.xml")
    if not read_only:
        from vz.kernel import loop

        if os.path.isfile(path) and (devices := loop.find(path)):
            raise VzError(f"{path} is in use as {devices[0]}", PloopCode.IN_USE)
    folder = Folder(os.path.dirname(os.path.abspath(path)), write=not read_only)
    try:
        return check_file(path, given.flags, block(given.values.get("b")), 0)
    finally:
        folder.close()


def check_file(path: str, flags: set[str], cluster: int, disk_size: int) -> int:
    """Check, and as *flags* say mend, the image *path*, of a disk of *disk_size* (0: any) bytes; return its status."""
    fd = open_regular(path, write="r" not in flags)
    try:
        try:
            image = load(fd, path, raw="R" in flags, cluster=cluster)
        except BadImage as exc:
            complain(str(exc))
            return PloopCode.FORMAT
        if disk_size and image.size != disk_size:
            complain(f"{path}: holds {image.size} bytes of a disk of {disk_size}")
            return PloopCode.FORMAT
        if isinstance(image, Raw):
            if image.size % cluster:
                complain(f"{path}: {image.size} bytes are no whole blocks of {cluster}")
                return PloopCode.FORMAT
            tell(flags, f"{path}: raw, {image.size} bytes")
            return 0
        return _check_expanded(image, flags)
    finally:
        os.close(fd)


def _check_expanded(image: Expanded, flags: set[str]) -> int:
    path, may = image.path, "r" not in flags
    problems = image.problems()
    if problems and "F" in flags and may:
        outside, twice = image.broken()
        if outside or twice:
            image.repair(outside + twice)
            complain(f"{path}: {len(outside) + len(twice)} broken entries were made holes: what they held is lost")
            problems = image.problems()
    for line in problems[:SHOWN]:
        complain(f"{path}: {line}")
    if problems:
        if len(problems) > SHOWN:
            complain(f"{path}: and {len(problems) - SHOWN} more")
        return PloopCode.FORMAT
    if "S" in flags and may and (filled := image.fill_holes()):
        tell(flags, f"{path}: {filled} bytes of holes were filled with zeros")
    if image.in_use:
        if may and "d" in flags:
            image.close_mark()
            tell(flags, f"{path}: the mark that it is in use was removed")
        else:
            complain(f"{path}: is marked as in use")
            return PloopCode.IN_USE
    used = sum(1 for entry in image.bat if entry)
    tell(
        flags,
        f"{path}: version {image.version}, {image.count} clusters, {used} used, {image.unused()} of the file unused",
    )
    return 0


def tell(flags: set[str], text: str) -> None:
    if "s" not in flags:
        print(text)


def complain(text: str) -> None:
    from vz.container.ct import printable

    sys.stderr.write(printable(text) + "\n")


def info(given: Given, rest: list[str]) -> int:
    from vz.disk.ploopmount import running

    path = one(rest, "info")
    with Disk(path) as disk:
        descriptor = disk.descriptor
        chain = disk.chain(descriptor.top)
        if not given.flags:
            place = gpt.partition(chain)
            found = gpt.ext_usage(chain, place[0] if place else 0)
            if found is None:
                raise VzError(f"{path}: there is no ext4 file system on the disk", PloopCode.SYSTEM)
            for row in (("resource", "Size", "Used"), ("1k-blocks", *found[:2]), ("inodes", *found[2:])):
                print("%11s %14s %14s" % row)
        if "s" in given.flags:
            print(f"size:\t\t{descriptor.size // 512}")
            print(f"blocksize:\t{descriptor.cluster // 512}")
            print(f"fmt_version:\t{max(image.version for image in chain.images) or 2}")
        if "d" in given.flags:
            folder = os.path.realpath(disk.folder.path)
            devices = [device for device, _, file, _ in running() if os.path.dirname(file) == folder]
            if not devices:
                raise VzError(f"{path}: is not mounted", PloopCode.NOT_MOUNTED)
            print(f"device:\t\t{devices[0]}")
    return 0


def do_list(given: Given, rest: list[str]) -> int:
    from vz.disk.ploopmount import running

    if rest:
        raise wrong("ploop list: a stray word")
    for device, _, file, places in running():
        words = [device, file, *(places[:1] if "a" in given.flags else [])]
        print("\t".join(words).encode("utf-8", "replace").decode())
    return 0


def stat(given: Given, rest: list[str]) -> int:
    from vz.disk.ploopmount import running

    device = given.need("d")
    if rest:
        raise wrong("ploop stat: a stray word")
    if device not in [name for name, *_ in running()]:
        raise VzError(f"{device}: is not mounted by ploop", PloopCode.NOT_MOUNTED)
    with open(f"/sys/block/{os.path.basename(device)}/stat") as file:
        words = file.read().split()
    for name, column in (("reads", 0), ("read_sectors", 2), ("writes", 4), ("write_sectors", 6), ("in_flight", 8)):
        print(f"{name}:\t{words[column]}")
    return 0


def restore_descriptor(given: Given, rest: list[str]) -> int:
    if len(rest) != 2:
        raise wrong("ploop restore-descriptor: a directory and an image are expected")
    directory, path = rest
    kind = image_format(given.values.get("f", "expanded"))
    cluster = block(given.values.get("b"))
    name = os.path.basename(path)
    folder = Folder(os.path.abspath(directory), write=True)
    fd = -1
    try:
        if os.path.realpath(os.path.dirname(os.path.abspath(path))) != os.path.realpath(directory):
            raise wrong(f"{path}: is not in {directory}")
        if folder.exists(diskdescriptor.NAME):
            raise wrong(f"{folder.full(diskdescriptor.NAME)} exists already")
        fd = open_regular(name, folder.fd)
        image = load(fd, path, raw=kind == "raw", cluster=cluster)
        if image.kind == "raw" and "b" not in given.values:  # as OpenVZ's: the largest that fits
            while image.cluster > 32 << 10 and image.size % image.cluster:
                image.cluster >>= 1
        problems = image.problems()
        if image.kind == "raw" and image.size % image.cluster:
            problems = [f"{image.size} bytes are no whole blocks of {image.cluster}"]
        if problems:
            raise BadImage(f"{path}: {problems[0]}")
        where = folder.full(diskdescriptor.NAME)
        diskdescriptor.new(where, image.size, image.cluster, image.kind, name).save()
    finally:
        folder.close()
        if fd >= 0:
            os.close(fd)
    return 0


VERBS = {
    "init": init,
    "mount": mount,
    "umount": umount,
    "resize": do_resize,
    "convert": do_convert,
    "check": check,
    "info": info,
    "list": do_list,
    "stat": stat,
    "restore-descriptor": restore_descriptor,
}
