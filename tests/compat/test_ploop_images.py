"""ploop's images beside the programs that others have for them: Debian's ploop, and QEMU's driver "parallels"."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ploopsets import TOP, build, flat, guid, read_disk
from vz.cli import ploop
from vz.cli.main import Globals

LAYERS = [{0: b"base", 3: b"three", 23: b"end!"}, {3: b"THREE", 9: b"nine"}, {9: b"NINE", 5: b"five"}]
SIGNATURES = (b"WithoutFreeSpace", b"WithouFreSpacExt")
# that of Debian, wherever ours is
THEIRS = next((path for path in ("/usr/sbin/ploop", "/sbin/ploop") if os.path.exists(path)), "")


@pytest.fixture
def qemu() -> str:
    found = shutil.which("qemu-img")
    if found is None:
        pytest.skip("needs qemu-img (package qemu-utils)")
    return found


@pytest.fixture
def theirs() -> str:
    if not THEIRS or b"libploop" not in Path(THEIRS).read_bytes():
        pytest.skip("needs Debian's package ploop")
    if not os.path.isdir("/var/lock"):
        pytest.skip("needs /var/lock, where Debian's ploop has its locks")
    return THEIRS


def run(*words: object) -> None:
    assert ploop.run([str(word) for word in words], Globals("ploop")) == 0


def accepted(theirs: str, path: Path) -> None:
    """Debian's ploop finds nothing wrong, and nothing to mend, in the disk *path* and in each of its images."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith(".lck")}
    expanded = [file for file in path.parent.iterdir() if file.read_bytes().startswith(SIGNATURES)]
    for words in ([path], *([f"-{letter}", file] for file in expanded for letter in ("fr", "cr"))):
        done = subprocess.run([theirs, "check", *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    after = {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith(".lck")}
    assert after == before


def raw_of(qemu: str, images: list[Path], out: Path) -> bytes:
    """Return what QEMU reads from the stack *images*, the base first."""
    source: dict[str, object] = {}
    for image in images:
        below = {"backing": source} if source else {}
        source = {"driver": "parallels", "file": {"driver": "file", "filename": str(image)}, **below}
    subprocess.run([qemu, "convert", "-q", "-O", "raw", f"json:{json.dumps(source)}", out], check=True)
    return out.read_bytes()


@pytest.mark.parametrize("version", [1, 2])
def test_stacks_are_accepted_after_every_change(version: int, theirs: str, tmp_path: Path) -> None:
    path = build(tmp_path / "disk", version, LAYERS)
    accepted(theirs, path)
    run("snapshot", "-u", guid(9), path)
    accepted(theirs, path)
    run("snapshot-delete", "-u", guid(1), path)
    accepted(theirs, path)
    run("convert", "-v", 3 - version, path)
    accepted(theirs, path)
    run("snapshot-switch", "-u", guid(2), path)
    accepted(theirs, path)
    run("snapshot-delete", "-u", guid(9), path)
    run("snapshot-merge", "-A", path)
    accepted(theirs, path)
    assert read_disk(path) == flat(LAYERS[:2])


def test_the_list_of_snapshots_is_the_same_text(theirs: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = build(tmp_path / "disk", 2, LAYERS)
    base = ["snapshot-list", str(path)]
    for words in (
        [],
        ["-H"],
        ["-s"],
        ["-o", "uuid"],
        ["-o", "fname,current"],
        ["-o", "current,fname,uuid"],
        ["-u", guid(2)],
    ):
        capfd.readouterr()
        run(*base[:1], *words, *base[1:])
        ours = capfd.readouterr().out
        other = subprocess.run(
            [theirs, *base[:1], *words, *base[1:]], capture_output=True, text=True, check=True
        ).stdout
        assert ours == other
    path = tmp_path / "new" / "DiskDescriptor.xml"
    path.parent.mkdir()
    run("init", "-s", "12345K", "-b", 512, "-t", "none", path.parent / "root.hdd")
    run("info", "-s", path)
    other = subprocess.run([theirs, "info", "-s", str(path)], capture_output=True, text=True, check=True).stdout
    assert capfd.readouterr().out.splitlines() == other.splitlines()[-3:]  # the first names the file that it opens


def test_a_new_disk_is_accepted_by_both_and_theirs_converts_it(theirs: str, qemu: str, tmp_path: Path) -> None:
    path = tmp_path / "disk" / "DiskDescriptor.xml"
    for kind, version in (("expanded", 1), ("expanded", 2), ("preallocated", 2)):
        path.parent.mkdir()
        image = path.parent / "root.hdd"
        run("init", "-s", "20M", "-f", kind, "-v", version, image)
        accepted(theirs, path)
        found = json.loads(subprocess.check_output([qemu, "check", "-f", "parallels", "--output=json", image]))
        assert not found.keys() & {"leaks", "corruptions"} and found["check-errors"] == 0
        run("resize", "-s", "40M", path)
        accepted(theirs, path)
        before = raw_of(qemu, [image], tmp_path / "raw")
        subprocess.run(["e2fsck", "-fn", write(tmp_path / "fs", before[1 << 20 :])], capture_output=True, check=True)
        subprocess.run([theirs, "convert", "-f", "raw", str(path)], capture_output=True, check=True)
        assert "Plain" in path.read_text()
        run("check", path)
        run("convert", "-f", "expanded", "-v", version, path)
        accepted(theirs, path)
        assert raw_of(qemu, [path.parent / "root.hdd"], tmp_path / "raw") == before
        shutil.rmtree(path.parent)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_what_qemu_has_made_is_read_and_the_other_way(theirs: str, qemu: str, tmp_path: Path) -> None:
    """An image that QEMU has written, with a delta of QEMU's on it; and our stacks, read by QEMU."""
    disk = flat(LAYERS).ljust(64 << 20, b"\0")
    raw = write(tmp_path / "in.raw", disk)
    image = tmp_path / "root.hdd"
    subprocess.run([qemu, "convert", "-q", "-O", "parallels", raw, image], check=True)
    run("check", "-S", image)
    run("restore-descriptor", tmp_path, image)
    path = tmp_path / "DiskDescriptor.xml"
    accepted(theirs, path)
    run("convert", "-f", "raw", "-o", tmp_path / "out.raw", path)
    assert (tmp_path / "out.raw").read_bytes() == disk
    run("snapshot", "-u", guid(1), path)
    top = next(file for file in tmp_path.glob("root.hdd.{*"))
    io = shutil.which("qemu-io") or "qemu-io"
    source = {
        "driver": "parallels",
        "file": {"driver": "file", "filename": str(top)},
        "backing": {"driver": "parallels", "file": {"driver": "file", "filename": str(image)}, "read-only": True},
    }
    subprocess.run([io, "-c", "write -P 0x5a 3M 2M", f"json:{json.dumps(source)}"], capture_output=True, check=True)
    run("check", "-s", "-S", path)
    wanted = disk[: 3 << 20] + b"\x5a" * (2 << 20) + disk[5 << 20 :]
    assert read_disk(path) == wanted
    assert read_disk(path, guid(1)) == disk
    assert raw_of(qemu, [image, top], tmp_path / "q.raw") == wanted
    run("snapshot-merge", "-A", path)
    assert raw_of(qemu, [image], tmp_path / "q.raw") == wanted
    accepted(theirs, path)
    for version in (1, 2):
        other = build(tmp_path / f"v{version}", version, LAYERS)
        deltas = [other.parent / file for file in ("root.hdd", f"root.hdd.{guid(0xF01)}", f"root.hdd.{guid(0xF02)}")]
        assert raw_of(qemu, deltas, tmp_path / "q.raw") == flat(LAYERS)
        run("convert", "-v", 3 - version, other)
        run("snapshot-merge", "-A", other)
        assert raw_of(qemu, [other.parent / "root.hdd"], tmp_path / "q.raw") == flat(LAYERS)
    assert TOP in path.read_text()
