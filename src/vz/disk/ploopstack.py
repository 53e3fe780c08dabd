"""A ploop disk on disk: a directory with DiskDescriptor.xml and its image files, and each change to it.

No image that the descriptor names is written to, but by repairs: a change makes new files, and takes effect with the
one rename of the descriptor.  ``.ploop-journal`` names the files that come or go by it; whoever opens the disk next
removes those of them that the descriptor does not name.
"""

from __future__ import annotations

import errno
import fcntl
import os

from vz.disk import diskdescriptor, gpt
from vz.disk.diskdescriptor import NONE, TOP, Image, new_guid, plain_name
from vz.disk.ploopimage import (
    CLUSTER,
    MAX_SIZE,
    Chain,
    Expanded,
    Pieces,
    PloopCode,
    Raw,
    load,
    open_regular,
    write_expanded,
    write_raw,
)
from vz.errors import VzError
from vz.kernel.files import sync_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vz.disk.ploopimage import View

JOURNAL = ".ploop-journal"
JOURNAL_BYTES = 1 << 20
verbose = False


def say(text: str) -> None:
    """Tell of a step, on stderr, where ploop -v asked for it."""
    if verbose:
        os.write(2, (text + "\n").encode("utf-8", "surrogateescape"))


class Folder:
    """The directory of a disk, locked (flock) until close(): shared to read, alone to change.

    VzError: another command has it (23), it cannot be opened (4).
    """

    def __init__(self, path: str, *, write: bool) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise VzError(f"{path}: {exc.strerror}", PloopCode.OPEN) from exc
        try:
            fcntl.flock(self.fd, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self.fd)
            if exc.errno != errno.EWOULDBLOCK:
                raise
            raise VzError(f"{path}: another command is at work on this disk", PloopCode.LOCK) from exc
        if write:
            self.clear()

    def close(self) -> None:
        os.close(self.fd)

    def full(self, name: str) -> str:
        return f"{self.path}/{name}"

    def exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            return True
        except FileNotFoundError:
            return False

    def note(self, names: list[str]) -> None:
        """Write the journal: *names* are to be removed unless the descriptor comes to name them."""
        try:
            old = os.open(JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        except FileExistsError:
            raise VzError(f"{self.full(JOURNAL)} is there, of another command", PloopCode.LOCK) from None
        try:
            os.write(old, ("".join(f"{name}\n" for name in names) + "end\n").encode("utf-8", "surrogateescape"))
            os.fsync(old)
        finally:
            os.close(old)
        os.fsync(self.fd)

    def clear(self) -> None:
        """Remove what the journal names and the descriptor does not, and the journal."""
        if not self.exists(JOURNAL):
            return
        fd = open_regular(JOURNAL, self.fd)
        try:
            lines = os.pread(fd, JOURNAL_BYTES, 0).decode("utf-8", "surrogateescape").splitlines()
        finally:
            os.close(fd)
        kept = {diskdescriptor.NAME}
        if self.exists(diskdescriptor.NAME):  # one that cannot be read: nothing is removed
            descriptor = diskdescriptor.read(self.full(diskdescriptor.NAME), self.fd)
            kept |= {image.file for image in descriptor.images.values()}
        for name in lines[:-1] if lines[-1:] == ["end"] else []:  # a torn one: nothing has come or gone yet
            if plain_name(name) and name not in kept:
                self.remove(name)
        self.remove(f"{diskdescriptor.NAME}.tmp")  # of write_atomically()
        os.fsync(self.fd)
        self.remove(JOURNAL)

    def remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.fd)
            say(f"Removed {self.full(name)}")
        except FileNotFoundError:
            pass

    def make(self, name: str, fill: Callable[[int], None]) -> None:
        """Make the new file *name* with what *fill* writes into its descriptor; the journal names it already."""
        say(f"Writing {self.full(name)}")
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        try:
            fill(fd)
            os.fsync(fd)
        except OSError as exc:
            exc.filename = exc.filename or self.full(name)
            raise
        finally:
            os.close(fd)
        os.fsync(self.fd)


class Disk:
    """A disk that was opened by the path of its descriptor; a context manager that holds the lock."""

    def __init__(self, path: str, *, write: bool = False) -> None:
        self.path = os.path.abspath(path)
        self.folder = Folder(os.path.dirname(self.path), write=write)
        self._open: list[int] = []
        try:
            if os.path.basename(path) != diskdescriptor.NAME:
                raise VzError(f"{path}: a file called {diskdescriptor.NAME} is expected", PloopCode.PARAMETER)
            self.descriptor = diskdescriptor.read(self.path, self.folder.fd)
            self.base_name = self.descriptor.chain(self.descriptor.top)[0].file.partition(".{")[0]
            if write:
                self.refuse_in_use()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())
        self.folder.close()

    def refuse_in_use(self) -> None:
        """VzError (37) while an image is on a loop device."""
        from vz.kernel import loop

        for image in self.descriptor.images.values():
            path = self.folder.full(image.file)
            if self.folder.exists(image.file) and (devices := loop.find(path)):
                raise VzError(f"{path} is in use as {devices[0]}", PloopCode.IN_USE)

    def load(self, image: Image) -> Raw | Expanded:
        """Open *image*; the descriptor and the file must agree on its format."""
        fd = open_regular(image.file, self.folder.fd)
        self._open.append(fd)
        return load(fd, self.folder.full(image.file), raw=image.kind == "raw", cluster=self.descriptor.cluster)

    def chain(self, guid: str, *, changing: bool = False) -> Chain:
        """Return the disk as of *guid*; for a change, VzError (11) where an image is marked as in use or broken."""
        chain = Chain([self.load(image) for image in self.descriptor.chain(guid)])
        for image in chain.images:
            problems = image.problems()
            if problems:
                raise VzError(f"{image.path}: {problems[0]}", PloopCode.FORMAT)
            if changing and image.in_use:
                raise VzError(f"{image.path} is marked as in use: run ploop check", PloopCode.FORMAT)
        return chain

    def guid(self, word: str) -> str:
        """Return the GUID that *word* names; VzError: no UUID (38), not of this disk (43)."""
        try:
            guid = diskdescriptor.parse_guid(word)
        except ValueError:
            raise VzError(f"Incorrect UUID {word[:60]!r}", PloopCode.PARAMETER) from None
        if guid not in self.descriptor.images:
            raise VzError(f"There is no snapshot {guid}", PloopCode.NO_SNAPSHOT)
        return guid

    def free_name(self) -> str:
        return f"{self.base_name}.{new_guid()}"

    def commit(self, makers: dict[str, Callable[[int], None]], gone: list[str], names: dict[str, str]) -> None:
        """Make new files, let the descriptor take effect, remove the files *gone*.

        *names* are files that have taken another one's part, and get its name when that is free: new → old.
        """
        self.folder.note([*makers, *gone])
        try:
            for name, fill in makers.items():
                self.folder.make(name, fill)
            self.descriptor.save()
        except BaseException:
            self.folder.clear()
            raise
        self.folder.clear()
        for new, old in names.items():
            self._rename(new, old)

    def _rename(self, new: str, old: str) -> None:
        """Give the image file *new* the name *old*, by a second name and a second descriptor."""
        if self.folder.exists(old):
            return
        self.folder.note([new, old])
        try:
            os.link(new, old, src_dir_fd=self.folder.fd, dst_dir_fd=self.folder.fd)
        except OSError as exc:  # a file system without: it keeps its name
            self.folder.clear()
            if exc.errno in (errno.EPERM, errno.EOPNOTSUPP):
                return
            raise
        os.fsync(self.folder.fd)
        for image in self.descriptor.images.values():
            if image.file == new:
                image.file = old
        self.descriptor.save()
        self.folder.clear()


def filler(view: View, kind: str, version: int, below: View | None = None, **how: bool) -> Callable[[int], None]:
    """Return what writes *view* as an image of *kind* (raw, expanded, preallocated) into a descriptor."""

    def fill(fd: int) -> None:
        if kind == "raw":
            write_raw(fd, view)
        else:
            write_expanded(fd, view, version, below, preallocated=kind == "preallocated", **how)

    return fill


def image_type(kind: str) -> str:
    return "raw" if kind == "raw" else "expanded"


def create(path: str, view: View, kind: str, version: int) -> None:
    """Make the image *path* of *view*, and the descriptor beside it; VzError (38): one of them is there."""
    directory, name = os.path.split(os.path.abspath(path))
    if not plain_name(name):
        raise VzError(f"{path!r}: no name for an image", PloopCode.PARAMETER)
    folder = Folder(directory, write=True)
    try:
        for there in (name, diskdescriptor.NAME):
            if folder.exists(there):
                raise VzError(f"{folder.full(there)} exists already", PloopCode.PARAMETER)
        path = folder.full(diskdescriptor.NAME)
        descriptor = diskdescriptor.new(path, view.size, view.cluster, image_type(kind), name)
        folder.note([name])
        try:
            folder.make(name, filler(view, kind, version))
            descriptor.save()
        finally:
            folder.clear()
    finally:
        folder.close()


def write_alone(path: str, fill: Callable[[int], None], held: Folder | None = None) -> None:
    """Make the new file *path*, which appears when it is whole; VzError (38): there is one.

    *held* is its directory, where that is locked already.
    """
    directory, name = os.path.split(os.path.abspath(path))
    folder = held or Folder(directory, write=True)
    try:
        if not plain_name(name) or folder.exists(name):
            raise VzError(f"{path} exists already", PloopCode.PARAMETER)
        temporary = f".ploop-{os.urandom(8).hex()}.tmp"
        folder.note([temporary])
        try:
            folder.make(temporary, fill)
            os.rename(temporary, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
            os.fsync(folder.fd)
        finally:
            folder.clear()
    finally:
        if held is None:
            folder.close()


def snapshot(disk: Disk, guid: str) -> str:
    """Make the disk's state the snapshot *guid*, under a new and empty top; return the top's file name."""
    descriptor = disk.descriptor
    if guid in descriptor.images or guid in (NONE, TOP):
        raise VzError(f"The snapshot {guid} is there already", PloopCode.PARAMETER)
    if len(descriptor.images) >= diskdescriptor.MAX_IMAGES:
        raise VzError(f"A disk has at most {diskdescriptor.MAX_IMAGES} images", PloopCode.PARAMETER)
    chain = disk.chain(descriptor.top, changing=True)
    descriptor.rename_guid(descriptor.top, guid)
    return _new_top(disk, chain, guid, [])


def switch(disk: Disk, guid: str) -> None:
    """Drop the top and begin a new, empty one at the snapshot *guid*."""
    descriptor = disk.descriptor
    if guid == descriptor.top:
        raise VzError("The top of the disk is no snapshot", PloopCode.PARAMETER)
    chain = disk.chain(guid, changing=True)
    if descriptor.children(descriptor.top):
        raise VzError("The top has snapshots above it", PloopCode.PARAMETER)
    old = descriptor.forget(descriptor.top)
    _new_top(disk, chain, guid, [old.file])


def _new_top(disk: Disk, chain: Chain, guid: str, gone: list[str]) -> str:
    descriptor = disk.descriptor
    empty = Pieces(chain.size, chain.cluster, [])
    version = next((image.version for image in chain.images[::-1] if image.version), 2)
    name = disk.free_name()
    descriptor.images[TOP] = Image(TOP, "expanded", name)
    descriptor.parents[TOP] = guid
    descriptor.top = TOP
    descriptor.size = chain.size
    disk.commit({name: filler(empty, "expanded", version)}, gone, {})
    return name


def delete(disk: Disk, guid: str) -> None:
    """Delete the snapshot *guid*: without children its file goes, with one it is merged into that."""
    descriptor = disk.descriptor
    children = descriptor.children(guid)
    if guid == descriptor.top:
        raise VzError("The top of the disk is no snapshot", PloopCode.PARAMETER)
    if len(children) > 1:
        raise VzError(f"The snapshot {guid} has {len(children)} children", PloopCode.PARAMETER)
    if children:
        merge(disk, children[0])
    else:
        disk.commit({}, [descriptor.forget(guid).file], {})


def merge(disk: Disk, guid: str, new_name: str | None = None) -> None:
    """Merge *guid* into its parent, whose GUID goes; the file has the parent's format and name (*new_name*)."""
    descriptor = disk.descriptor
    parent = descriptor.parents[guid]
    if parent == NONE:
        raise VzError(f"{guid} is the base: there is nothing below to merge it into", PloopCode.PARAMETER)
    if len(descriptor.children(parent)) > 1:
        raise VzError(f"The snapshot {parent} has other children too", PloopCode.PARAMETER)
    if new_name is not None and (not plain_name(new_name) or disk.folder.exists(new_name)):
        raise VzError(f"{new_name}: exists, or is no plain file name", PloopCode.PARAMETER)
    whole = disk.chain(guid, changing=True)
    low, high = whole.images[-2:]
    both = Chain([low, high])
    below = Chain(whole.images[:-2]) if len(whole.images) > 2 else None
    old_low, old_high = descriptor.images[parent], descriptor.images[guid]
    name = new_name or disk.free_name()
    descriptor.parents[guid] = descriptor.parents[parent]
    descriptor.forget(parent)
    descriptor.images[guid] = Image(guid, old_low.kind, name)
    fill = filler(both, low.kind, low.version or 2, below)
    names = {} if new_name else {name: old_low.file}
    disk.commit({name: fill}, [old_low.file, old_high.file], names)


def convert(disk: Disk, kind: str | None, version: int | None) -> None:
    """Convert the disk in place: to format *kind* (one image only), or all expanded images to *version*."""
    descriptor = disk.descriptor
    if kind is not None and len(descriptor.images) > 1:
        raise VzError("The disk has snapshots: merge them, or convert into a new file (-o)", PloopCode.PARAMETER)
    makers: dict[str, Callable[[int], None]] = {}
    gone, names = [], {}
    chains = {guid: disk.chain(guid, changing=True) for guid in descriptor.images}
    for guid, image in list(descriptor.images.items()):
        chain = chains[guid]
        source = chain.images[-1]
        target, number = kind or source.kind, version or source.version or 2
        if (kind is None and source.kind == "raw") or (target, number) == (source.kind, source.version or number):
            continue
        name = disk.free_name()
        # of one image alone zeros may become holes; above another each cluster stays
        below = Chain(chain.images[:-1]) if len(chain.images) > 1 else None
        makers[name] = filler(source, target, number, below)
        descriptor.images[guid] = Image(guid, image_type(target), name)
        gone.append(image.file)
        names[name] = image.file
    if makers:
        disk.commit(makers, gone, names)


def resize(disk: Disk, size: int, grow_fs: Callable[[str, int], None]) -> None:
    """Give the disk *size* bytes, with its partition, and with its file system by *grow_fs* (path, bytes).

    A disk without a file system that we know can only grow.  VzError (38): a size that cannot be.
    """
    descriptor = disk.descriptor
    chain = disk.chain(descriptor.top, changing=True)
    size = -(-size // chain.cluster) * chain.cluster
    if not 0 < size <= MAX_SIZE:
        raise VzError(f"A disk of {size} bytes", PloopCode.PARAMETER)
    place = gpt.partition(chain)
    start = place[0] if place else 0
    if gpt.ext_usage(chain, start) is None:
        if place or size < chain.size:
            raise VzError("There is no ext4 file system on the disk: it cannot be resized", PloopCode.RESIZE_FS)
        start = -1
    new_name, work = disk.free_name(), f"{disk.base_name}.resize"
    if disk.folder.exists(work):
        raise VzError(f"{disk.folder.full(work)} exists", PloopCode.PARAMETER)
    top = chain.images[-1]
    below = Chain(chain.images[:-1]) if len(chain.images) > 1 else None
    old = descriptor.images[descriptor.top].file

    def fill_work(fd: int) -> None:
        length = place[1] if place else chain.size
        write_raw(fd, chain, max(start, 0), length)
        if start < 0:
            return
        grow_fs(disk.folder.full(work), _inner_length(size, place))

    def fill(fd: int) -> None:
        disk.folder.make(work, fill_work)
        part = open_regular(work, disk.folder.fd)
        try:
            view = _framed(size, chain.cluster, part, place)
            filler(view, top.kind, top.version or 2, below, **({} if top.kind == "raw" else {"whole": True}))(fd)
        finally:
            os.close(part)

    descriptor.images[descriptor.top] = Image(descriptor.top, top.kind, new_name)
    descriptor.size = size
    disk.commit({new_name: fill}, [old, work], {new_name: old})


def _inner_length(size: int, place: tuple[int, int] | None) -> int:
    if place is None:
        return size
    length = (size - gpt.TAIL_SECTORS * 512 - place[0]) // gpt.BLOCK * gpt.BLOCK
    if length <= 0:
        raise VzError(f"{size} bytes are too few for the partition", PloopCode.PARAMETER)
    return length


def _framed(size: int, cluster: int, part: int, place: tuple[int, int] | None) -> Pieces:
    if place is None:
        return Pieces(size, cluster, [(0, part, min(os.fstat(part).st_size, size))])
    return in_partition(size, cluster, part, place[0], _inner_length(size, place))


def in_partition(size: int, cluster: int, part: int, start: int, length: int) -> Pieces:
    """Return a disk of *size* bytes whose one partition has what the file *part* has."""
    front, back = gpt.table(size, start, length)
    inner = min(os.fstat(part).st_size, length)
    pieces: list[tuple[int, bytes | int, int]] = [
        (0, front, len(front)),
        (start, part, inner),
        (size - len(back), back, len(back)),
    ]
    return Pieces(size, cluster, pieces)


def merge_files(paths: list[str], *, raw_base: bool, new_name: str | None = None) -> None:
    """Merge image files, the base last, into it (or into the new file *new_name*); those above go afterwards.

    A kill leaves the old base, or the merged one under deltas that change nothing of it.
    """
    views: list[Raw | Expanded] = []
    fds: list[int] = []
    folder = Folder(os.path.dirname(os.path.abspath(new_name or paths[-1])), write=True)
    try:
        if folder.exists(diskdescriptor.NAME):
            text = f"{folder.full(diskdescriptor.NAME)} is there: ploop snapshot-merge keeps it right"
            raise VzError(text, PloopCode.PARAMETER)
        for path in reversed(paths):
            fds.append(open_regular(path))
            raw = raw_base and not views
            cluster = views[0].cluster if views else CLUSTER
            views.append(load(fds[-1], path, raw=raw, cluster=cluster))
            if problems := views[-1].problems():
                raise VzError(f"{path}: {problems[0]}", PloopCode.FORMAT)
        chain = Chain(views)
        _refuse_devices(paths)
        target = os.path.abspath(new_name or paths[-1])
        if new_name and os.path.lexists(target):
            raise VzError(f"{target} exists already", PloopCode.PARAMETER)
        if raw_base:
            replace_file(target, filler(chain, "raw", 0))
        else:  # the base may have one below: its zeros stay zeros
            replace_file(target, filler(chain, "expanded", views[0].version or 2, verbatim=True))
    finally:
        folder.close()
        for fd in fds:
            os.close(fd)
    for path in paths if new_name else paths[:-1]:
        os.unlink(path)
        sync_directory(os.path.dirname(os.path.abspath(path)))


def _refuse_devices(paths: list[str]) -> None:
    from vz.kernel import loop

    for path in paths:
        if devices := loop.find(path):
            raise VzError(f"{path} is in use as {devices[0]}", PloopCode.IN_USE)


def replace_file(path: str, fill: Callable[[int], None]) -> None:
    """Replace *path* by what *fill* writes: old or new, whoever is killed.  ``PATH.ploop-tmp`` is made on the way."""
    temporary = f"{path}.ploop-tmp"
    try:
        os.unlink(temporary)  # a killed one's
    except FileNotFoundError:
        pass
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            fill(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    sync_directory(os.path.dirname(os.path.abspath(path)))
