"""Image files of OpenVZ's ploop: expanded, version 1 and 2, and raw; read, checked, repaired and written.

An expanded image is a header of 64 bytes, a table of 32-bit entries (the BAT: cluster of the disk → place in the
file, 0 a hole) padded to whole clusters, and the clusters.  Little-endian.  Nothing that a file says is believed before
it was compared with the file's size.  A *view* has ``size`` and ``cluster`` (bytes) and ``read(index)``: a cluster's
bytes, padded with zeros at the end of the disk, or None for a hole.
"""

from __future__ import annotations

import errno
import os
import stat
from _struct import Struct, pack, unpack_from

from vz.errors import VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class View(Protocol):
        """A disk, cluster by cluster."""

        size: int
        cluster: int

        def read(self, index: int) -> bytes | None: ...


SIGNATURES = {1: b"WithoutFreeSpace", 2: b"WithouFreSpacExt"}
HEADER = Struct("<16s5IQ3IQ")
TYPE = 2
CLOSED = (0, 0x312E3276)  # we write the first: for ploop 1.15 anything else is "in use"
EMPTY, CONVERTING = 1, 2
EXTENSION_MAGIC = 0xAB234CEF23DCEA87
SECTOR = 512
CLUSTER = 1 << 20
MIN_CLUSTER, MAX_CLUSTER = 32 << 10, 64 << 20
MAX_ENTRIES = 1 << 24  # 64 MiB of BAT, 16 TiB in clusters of 1 MiB
MAX_SIZE = 1 << 50
HEADS, SECTORS_PER_TRACK = 16, 63


class PloopCode:
    """Exit statuses of ploop(8), SYSEXIT_… of its sources."""

    DEVICE = 2
    OPEN = 4
    READ = 6
    FORMAT = 11
    SYSTEM = 12
    PROTOCOL = 13
    BUSY = 17
    MOUNT = 21
    UMOUNT = 22
    LOCK = 23
    MKFS = 24
    RESIZE_FS = 26
    IN_USE = 37
    PARAMETER = 38
    DESCRIPTOR = 39
    NOT_MOUNTED = 40
    FSCK = 41
    NO_SNAPSHOT = 43


class BadImage(VzError):
    """An image file that is not what its format asks for; the text says where."""

    code = PloopCode.FORMAT


def open_regular(path: str, dir_fd: int | None = None, *, write: bool = False) -> int:
    """Open the regular file *path*; VzError (4): a link, or no regular file.  OSError as open(2)."""
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, dir_fd=dir_fd)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise VzError(f"{path}: is a symbolic link", PloopCode.OPEN) from exc
        raise VzError(f"{path}: {exc.strerror}", PloopCode.OPEN) from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise VzError(f"{path}: is no regular file", PloopCode.OPEN)
    return fd


class Raw:
    """A plain file as a view; holes of the file are holes."""

    kind = "raw"
    version = 0
    in_use = False

    def __init__(self, fd: int, path: str, cluster: int = CLUSTER) -> None:
        self.fd, self.path, self.cluster = fd, path, cluster
        self.size = os.fstat(fd).st_size
        if not 0 < self.size <= MAX_SIZE or self.size % SECTOR:
            raise BadImage(f"{path}: a raw image of {self.size} bytes")
        self._data = (0, 0)  # from the first, the second is the next byte that is no hole

    def read(self, index: int) -> bytes | None:
        start = index * self.cluster
        if start >= self.size:
            return None
        if not self._data[0] <= start or self._data[1] < start:
            self._data = (start, self._next_data(start))
        if self._data[1] >= start + self.cluster:
            return None
        return read_all(self.fd, min(self.cluster, self.size - start), start, self.path).ljust(self.cluster, b"\0")

    def _next_data(self, start: int) -> int:
        try:
            return os.lseek(self.fd, start, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole up to the end
                return self.size
            return start

    def problems(self) -> list[str]:
        return []


class Expanded:
    """An expanded image; *bat* are the entries as the file has them.

    Opening looks at the header alone and at whether the file has the BAT; problems() looks at the entries, and read()
    at the one that it follows.
    """

    kind = "expanded"

    def __init__(self, fd: int, path: str) -> None:
        self.fd, self.path = fd, path
        self.file_size = os.fstat(fd).st_size
        head = os.pread(fd, HEADER.size, 0)
        if len(head) < HEADER.size:
            raise BadImage(f"{path}: shorter than a ploop header")
        (signature, kind, _heads, _cylinders, sectors, count, size, used, first, self.flags, extension) = HEADER.unpack(
            head
        )
        version = next((version for version, known in SIGNATURES.items() if known == signature), None)
        if version is None or kind != TYPE:
            raise BadImage(f"{path}: is no ploop image")
        self.version: int = version
        if version == 1:
            size &= 0xFFFFFFFF
        self.cluster: int = sectors * SECTOR
        if sectors & (sectors - 1) or not MIN_CLUSTER <= self.cluster <= MAX_CLUSTER:
            raise BadImage(f"{path}: clusters of {sectors} sectors")
        self.size = size * SECTOR
        self.count = -(-self.size // self.cluster)
        if not size or self.size > MAX_SIZE or not self.count <= count <= MAX_ENTRIES:
            raise BadImage(f"{path}: {count} table entries for a disk of {size} sectors")
        self.entries = count
        table = HEADER.size + 4 * count
        self.first: int = first * SECTOR or -(-table // self.cluster) * self.cluster
        if self.first < table or self.first % self.cluster or table > self.file_size:
            raise BadImage(f"{path}: the table does not fit before the first cluster, or into the file")
        if self.flags & CONVERTING:
            raise BadImage(f"{path}: a conversion of its version was interrupted")
        self.in_use = used not in CLOSED
        self.extension = extension * SECTOR
        self.bat = memoryview(bytearray(read_all(fd, 4 * count, HEADER.size, path))).cast("I")
        self.unit = SECTOR if version == 1 else self.cluster

    def place(self, index: int) -> int:
        """Return where cluster *index* lies in the file, in bytes; 0: a hole.  BadImage: outside of the file."""
        at: int = self.bat[index] * self.unit if index < self.count else 0
        if at and not self.sound(at):
            raise BadImage(f"{self.path}: cluster {index} is said to be at byte {at}, which the file does not have")
        return at

    def sound(self, at: int) -> bool:
        return self.first <= at <= self.file_size - self.cluster and (at - self.first) % self.cluster == 0

    def read(self, index: int) -> bytes | None:
        at = self.place(index)
        return read_all(self.fd, self.cluster, at, self.path) if at else None

    def broken(self) -> tuple[list[int], list[int]]:
        """Return the (entries that lead outside of the file's clusters, entries whose cluster is another's too)."""
        outside, twice = [], []
        slots = max(self.file_size - self.first, 0) // self.cluster
        if slots > 4 * MAX_ENTRIES:
            raise BadImage(f"{self.path}: the file is larger than any table leads to")
        taken = bytearray(slots)
        for index, entry in enumerate(self.bat):
            if not entry:
                continue
            at = entry * self.unit
            if index >= self.count or not self.sound(at):
                outside.append(index)
                continue
            slot = (at - self.first) // self.cluster
            if taken[slot]:
                twice.append(index)
            taken[slot] = 1
        return outside, twice

    def problems(self) -> list[str]:
        """Return what is wrong with the table and the extension, a line for each."""
        outside, twice = self.broken()
        lines = [f"cluster {index} leads outside of the file's clusters (entry {self.bat[index]})" for index in outside]
        lines += [f"cluster {index} shares its place with another (entry {self.bat[index]})" for index in twice]
        if self.extension:
            lines += self._extension_problems()
        return lines

    def _extension_problems(self) -> list[str]:
        if self.extension < self.first or self.extension > self.file_size - self.cluster:
            return [f"the extension at byte {self.extension} is outside of the file"]
        data = read_all(self.fd, self.cluster, self.extension, self.path)
        from hashlib import md5

        if unpack_from("<Q", data)[0] != EXTENSION_MAGIC or md5(data[24:]).digest() != data[8:24]:
            return ["the extension (dirty bitmaps) is broken"]
        return []

    def unused(self) -> int:
        """Return how many whole clusters of the file no entry leads to (the extension's among them)."""
        return max((self.file_size - self.first) // self.cluster, 0) - sum(1 for entry in self.bat if entry)

    def fill_holes(self) -> int:
        """Write zeros where the file has holes that are no whole clusters; return how many bytes, synced."""
        filled = 0
        at = 0
        while at < self.file_size:
            try:
                at = os.lseek(self.fd, at, os.SEEK_HOLE)
                end = os.lseek(self.fd, at, os.SEEK_DATA) if at < self.file_size else at
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
                end = self.file_size
            if at < self.first or at % self.cluster or end % self.cluster:
                for start in range(at, end, CLUSTER):
                    _write_all(self.fd, bytes(min(CLUSTER, end - start)), start)
                filled += end - at
            at = end
        os.fsync(self.fd)
        return filled

    def repair(self, indexes: list[int]) -> None:
        """Make the entries *indexes* holes, durably; *fd* is open for writing.  The table is written in one piece."""
        for index in indexes:
            self.bat[index] = 0
        _write_all(self.fd, bytes(self.bat), HEADER.size)
        os.fsync(self.fd)

    def close_mark(self) -> None:
        """Take the in-use mark away, durably; *fd* is open for writing."""
        os.pwrite(self.fd, pack("<I", CLOSED[0]), 44)
        os.fsync(self.fd)
        self.in_use = False


def load(fd: int, path: str, *, raw: bool | None = None, cluster: int = CLUSTER) -> Raw | Expanded:
    """Return the image open as *fd*: raw or expanded as *raw* says, or (None) by the file's signature."""
    if raw is None:
        raw = os.pread(fd, 16, 0) not in SIGNATURES.values()
    return Raw(fd, path, cluster) if raw else Expanded(fd, path)


class Chain:
    """Images stacked on each other, the base first; as large as the top one.  BadImage: their clusters differ."""

    def __init__(self, images: list[Raw | Expanded]) -> None:
        self.images = images
        self.cluster = next((image.cluster for image in images if image.kind == "expanded"), images[-1].cluster)
        for image in images:
            if image.kind == "raw":
                image.cluster = self.cluster
            elif image.cluster != self.cluster:
                raise BadImage(f"{image.path}: clusters of {image.cluster} bytes on such of {self.cluster}")
        self.size = images[-1].size
        self._top_first = images[::-1]

    def read(self, index: int) -> bytes | None:
        for image in self._top_first:
            data = image.read(index)
            if data is not None:
                return data
        return None


class Pieces:
    """A disk put together: (where it starts, bytes or a descriptor, how long) each; between them zeros."""

    def __init__(self, size: int, cluster: int, pieces: list[tuple[int, bytes | int, int]]) -> None:
        self.size, self.cluster, self.pieces = size, cluster, pieces

    def read(self, index: int) -> bytes | None:
        start, out = index * self.cluster, None
        end = min(start + self.cluster, self.size)
        for at, source, length in self.pieces:
            low, high = max(at, start), min(at + length, end)
            if low >= high:
                continue
            if isinstance(source, int):
                data = _read_sparse(source, low - at, high - low)
            else:
                data = source[low - at : high - at]
            if data is not None:
                if out is None:
                    out = bytearray(self.cluster)
                out[low - start : low - start + len(data)] = data
        return bytes(out) if out is not None else None


def _read_sparse(fd: int, at: int, length: int) -> bytes | None:
    try:
        if os.lseek(fd, at, os.SEEK_DATA) >= at + length:
            return None
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return None
    return read_all(fd, length, at, "partition", short=True)


def differing(view: View, below: View | None, index: int) -> bytes | None:
    """Return cluster *index* of *view* where it is not what *below* (zeros without one) has there, else None."""
    data = view.read(index)
    if data is None:
        return None
    under = below.read(index) if below is not None and index * below.cluster < below.size else None
    return None if data == (under if under is not None else bytes(len(data))) else data


def write_expanded(
    fd: int,
    view: View,
    version: int,
    below: View | None = None,
    *,
    preallocated: bool = False,
    whole: bool = False,
    verbatim: bool = False,
) -> None:
    """Write *view* into the empty file *fd* as an expanded image on top of *below*, synced.

    What is as in *below* becomes a hole, unless *verbatim*; holes of *view* stay holes, but *whole* makes them zeros
    where *below* has something.  VzError: a disk that the version cannot hold.
    """
    cluster, count = view.cluster, -(-view.size // view.cluster)
    unit = SECTOR if version == 1 else cluster
    first = -(-(HEADER.size + 4 * count) // cluster) * cluster
    most = 1 << 32
    if count > MAX_ENTRIES or (version == 1 and view.size // SECTOR >= most) or (first + view.size) // unit >= most:
        raise VzError(f"{view.size} bytes are too many for an image of version {version}", PloopCode.PARAMETER)
    bat = memoryview(bytearray(4 * count)).cast("I")
    at = first
    for index in range(count):
        data = view.read(index) if verbatim else differing(view, below, index)
        if data is None and whole and below is not None and view.read(index) is None and below.read(index) is not None:
            data = bytes(cluster)
        if data is None and preallocated:
            data = bytes(cluster)
        if data is not None:
            _write_all(fd, data, at)
            bat[index] = at // unit
            at += cluster
    sectors = view.size // SECTOR
    cylinders = min(sectors // (HEADS * SECTORS_PER_TRACK), 0xFFFFFFFF)
    head = HEADER.pack(
        SIGNATURES[version],
        TYPE,
        HEADS,
        cylinders,
        cluster // SECTOR,
        count,
        sectors,
        CLOSED[0],
        first // SECTOR,
        EMPTY if at == first else 0,
        0,
    )
    _write_all(fd, (head + bytes(bat)).ljust(first, b"\0"), 0)  # densely: "ploop check" refuses holes in here
    os.fsync(fd)


def write_raw(fd: int, view: View, start: int = 0, length: int | None = None) -> None:
    """Write *length* bytes of *view* from *start* (all) into the empty file *fd*, synced; zeros become holes."""
    length = view.size - start if length is None else length
    os.ftruncate(fd, length)
    cluster = view.cluster
    zeros = bytes(cluster)
    for index in range(start // cluster, -(-(start + length) // cluster)):
        data = view.read(index)
        if data is None or data == zeros:
            continue
        at = index * cluster - start
        low, high = max(-at, 0), min(cluster, length - at)
        _write_all(fd, memoryview(data)[low:high], at + low)
    os.fsync(fd)


def read_all(fd: int, length: int, at: int, path: str, *, short: bool = False) -> bytes:
    """Read *length* bytes at *at*; BadImage: the file ends before, which *short* allows."""
    data = os.pread(fd, length, at)
    while len(data) < length:
        more = os.pread(fd, length - len(data), at + len(data))
        if not more:
            if short:
                break
            raise BadImage(f"{path}: the file ends at byte {at + len(data)}")
        data += more
    return data


def _write_all(fd: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done
