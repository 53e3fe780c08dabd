"""Sets of ploop images, built byte by byte from the format's description, and read the same way: none of it is ours."""

from __future__ import annotations

import struct
from pathlib import Path

TOP = "{5fbaabe3-6958-40ff-92a7-860e329aab41}"
NONE = "{00000000-0000-0000-0000-000000000000}"
CLUSTER = 64 << 10
CLUSTERS = 24  # the last one is half a cluster
SIZE = CLUSTERS * CLUSTER - CLUSTER // 2


def guid(number: int) -> str:
    return f"{{00000000-0000-4000-8000-{number:012x}}}"


def image(version: int, written: dict[int, bytes], *, size: int = SIZE, cluster: int = CLUSTER, mark: int = 0) -> bytes:
    """Return an expanded image that has *written* (cluster → what it is filled with), in order of writing."""
    count = -(-size // cluster)
    first = -(-(64 + 4 * count) // cluster) * cluster
    bat, data = [0] * count, b""
    for place, (index, fill) in enumerate(written.items()):
        at = first + place * cluster
        bat[index] = at // 512 if version == 1 else at // cluster
        data += (fill * cluster)[:cluster]
    signature = b"WithoutFreeSpace" if version == 1 else b"WithouFreSpacExt"
    head = struct.pack("<16sIIIII", signature, 2, 16, 7, cluster // 512, count)
    head += struct.pack("<II", size // 512, 0) if version == 1 else struct.pack("<Q", size // 512)
    head += struct.pack("<IIIQ", mark, first // 512, 0 if written else 1, 0)
    assert len(head) == 64
    return (head + struct.pack(f"<{count}I", *bat)).ljust(first, b"\0") + data


def descriptor(
    images: list[tuple[str, str, str, str]], *, size: int = SIZE, cluster: int = CLUSTER, top: str = TOP
) -> str:
    """Return a DiskDescriptor.xml with *images* (GUID, parent, type, file), as OpenVZ's own code lays it out."""
    files = "".join(
        f"<Image><GUID>{g}</GUID><Type>{kind}</Type><File>{file}</File></Image>" for g, _, kind, file in images
    )
    shots = "".join(f"<Shot><GUID>{g}</GUID><ParentGUID>{parent}</ParentGUID></Shot>" for g, parent, _, _ in images)
    return (
        '<?xml version="1.0"?><Parallels_disk_image Version="1.0"><Disk_Parameters>'
        f"<Disk_size>{size // 512}</Disk_size><Cylinders>7</Cylinders><Heads>16</Heads><Sectors>63</Sectors>"
        "<Padding>0</Padding><Unknown>kept</Unknown></Disk_Parameters><StorageData><Storage><Start>0</Start>"
        f"<End>{size // 512}</End><Blocksize>{cluster // 512}</Blocksize>{files}</Storage></StorageData>"
        f"<Snapshots><TopGUID>{top}</TopGUID>{shots}</Snapshots></Parallels_disk_image>\n"
    )


def build(folder: Path, version: int, layers: list[dict[int, bytes]], *, raw_base: bool = False) -> Path:
    """Make a disk with a snapshot under each layer but the last; return its DiskDescriptor.xml."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, written in enumerate(layers):
        own = TOP if number == len(layers) - 1 else guid(number + 1)
        file = "root.hdd" if number == 0 else f"root.hdd.{guid(0xF00 + number)}"
        plain = raw_base and number == 0
        if plain:
            disk = bytearray(SIZE)
            for index, fill in written.items():
                length = min(CLUSTER, SIZE - index * CLUSTER)
                disk[index * CLUSTER : index * CLUSTER + length] = (fill * CLUSTER)[:length]
            (folder / file).write_bytes(bytes(disk))
        else:
            (folder / file).write_bytes(image(version, written))
        rows.append((own, NONE if number == 0 else guid(number), "Plain" if plain else "Compressed", file))
    path = folder / "DiskDescriptor.xml"
    path.write_text(descriptor(rows[::-1]))  # the order of the images means nothing
    return path


def flat(layers: list[dict[int, bytes]]) -> bytes:
    """Return what a disk with *layers* holds."""
    disk = bytearray(SIZE)
    for written in layers:
        for index, fill in written.items():
            length = min(CLUSTER, SIZE - index * CLUSTER)
            disk[index * CLUSTER : index * CLUSTER + length] = (fill * CLUSTER)[:length]
    return bytes(disk)


def read_disk(path: Path, top: str | None = None) -> bytes:
    """Return what the disk of the descriptor *path* holds, as of *top*."""
    import xml.etree.ElementTree as tree

    root = tree.parse(path).getroot()
    size = int(root.findtext("Disk_Parameters/Disk_size") or "") * 512
    files = {i.findtext("GUID"): (i.findtext("Type"), i.findtext("File")) for i in root.iter("Image")}
    parents = {s.findtext("GUID"): s.findtext("ParentGUID") for s in root.iter("Shot")}
    chain, here = [], top or root.findtext("Snapshots/TopGUID")
    while here != NONE:
        chain.append(files[here])
        here = parents[here]
    disk = bytearray(size)
    for kind, file in reversed(chain):
        data = (path.parent / str(file)).read_bytes()
        if kind == "Plain":
            disk[: len(data)] = data[:size]
            continue
        sectors, count = struct.unpack_from("<II", data, 28)
        cluster = sectors * 512
        for index, entry in enumerate(struct.unpack_from(f"<{count}I", data, 64)):
            if entry:
                at = entry * (512 if data.startswith(b"WithoutFreeSpace") else cluster)
                part = data[at : at + cluster]
                assert len(part) == cluster
                length = min(cluster, max(size - index * cluster, 0))
                disk[index * cluster : index * cluster + length] = part[:length]
    return bytes(disk)
