"""The partition table that ploop puts on a disk: a GPT with one partition; see the UEFI specification, chapter 5."""

from __future__ import annotations

import os
from _struct import pack, unpack_from

from vz.disk.ploopimage import SECTOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.disk.ploopimage import View

LINUX_DATA = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
ENTRIES, ENTRY_BYTES = 128, 128
ARRAY_SECTORS = ENTRIES * ENTRY_BYTES // SECTOR
TAIL_SECTORS = ARRAY_SECTORS + 1
BLOCK = 4096
EXT_MAGIC = 0xEF53


def read_bytes(view: View, at: int, length: int) -> bytes:
    """Return *length* bytes of *view* at *at*; holes and what is behind its end are zeros."""
    out = b""
    while length > 0:
        index, inside = divmod(at, view.cluster)
        data = view.read(index) if at < view.size else None
        part = min(length, view.cluster - inside)
        out += data[inside : inside + part] if data is not None else bytes(part)
        at, length = at + part, length - part
    return out


def partition(view: View) -> tuple[int, int] | None:
    """Return (start, length) in bytes of the first partition of *view*; None without a sound table."""
    from zlib import crc32

    head = read_bytes(view, SECTOR, 92)
    if head[:8] != b"EFI PART":
        return None
    crc, array, count, size, array_crc = unpack_from("<I52xQIII", head, 16)
    if crc32(head[:16] + bytes(4) + head[20:]) != crc or size != ENTRY_BYTES or not 0 < count <= ENTRIES:
        return None
    table = read_bytes(view, array * SECTOR, count * size) if array < view.size // SECTOR else b""
    if crc32(table) != array_crc:
        return None
    for number in range(count):
        kind = table[number * size : number * size + 16]
        first, last = unpack_from("<2Q", table, number * size + 32)
        if any(kind):
            if not 1 < first <= last < view.size // SECTOR:
                return None
            return first * SECTOR, (last - first + 1) * SECTOR
    return None


def room(size: int, cluster: int) -> tuple[int, int]:
    """Return (start, length) in bytes of the partition of a disk of *size* bytes; length 0: it is too small."""
    start = max(cluster, 1 << 20)
    length = (size - TAIL_SECTORS * SECTOR - start) // BLOCK * BLOCK
    return start, max(length, 0)


def table(size: int, start: int, length: int) -> tuple[bytes, bytes]:
    """Return the (first 34 sectors, last 33 sectors) of a disk of *size* bytes with one partition."""
    from zlib import crc32

    sectors = size // SECTOR
    first, last = start // SECTOR, (start + length) // SECTOR - 1
    protective = bytes(446) + pack("<8B2I", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, min(sectors - 1, 0xFFFFFFFF))
    name = "primary".encode("utf-16-le").ljust(72, b"\0")
    entries = LINUX_DATA + os.urandom(16) + pack("<3Q", first, last, 0) + name
    entries = entries.ljust(ENTRIES * ENTRY_BYTES, b"\0")
    disk = os.urandom(16)

    def header(own: int, other: int, array: int) -> bytes:
        fields = (own, other, 34, sectors - TAIL_SECTORS - 1)
        head = b"EFI PART" + pack("<4I", 0x10000, 92, 0, 0) + pack("<4Q", *fields) + disk
        head += pack("<Q3I", array, ENTRIES, ENTRY_BYTES, crc32(entries))
        return (head[:16] + pack("<I", crc32(head)) + head[20:]).ljust(SECTOR, b"\0")

    front = protective.ljust(510, b"\0") + b"\x55\xaa" + header(1, sectors - 1, 2) + entries
    return front, entries + header(sectors - 1, 1, sectors - TAIL_SECTORS)


def ext_usage(view: View, start: int) -> tuple[int, int, int, int] | None:
    """Return (KiB, KiB used, inodes, inodes used) of the ext2/3/4 file system at byte *start*; None: there is none."""
    block = read_bytes(view, start + 1024, 1024)
    inodes, blocks, _reserved, free, free_inodes, _first, log = unpack_from("<7I", block, 0)
    if unpack_from("<H", block, 56)[0] != EXT_MAGIC or log > 6:
        return None
    if unpack_from("<I", block, 96)[0] & 0x80:  # 64bit
        high, _reserved_high, free_high = unpack_from("<3I", block, 0x150)
        blocks, free = blocks + (high << 32), free + (free_high << 32)
    overhead = unpack_from("<I", block, 0x248)[0]
    if free + overhead > blocks or free_inodes > inodes:
        return None
    kib = 1 << log
    return (blocks - overhead) * kib, (blocks - overhead - free) * kib, inodes, inodes - free_inodes
