"""The ploop command on stacks of deltas: what a disk holds survives every change, kills included; broken ones are refused."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ploopsets import CLUSTER, CLUSTERS, NONE, SIZE, TOP, build, descriptor, flat, guid, image, read_disk
from vz.cli import ploop
from vz.cli.main import Globals
from vz.disk.ploopimage import PloopCode
from vz.errors import VzError

LAYERS = [
    {0: b"base", 3: b"three", CLUSTERS - 1: b"end!", 7: b"seven", 5: b"five"},
    {3: b"THREE", 9: b"nine", 5: b"\0"},  # zeros that hide something
    {9: b"NINE", CLUSTERS - 1: b"END?"},
    {1: b"one", 7: b"7"},
]


def run(*words: object) -> int:
    return ploop.run([str(word) for word in words], Globals("ploop"))


def fails(*words: object) -> tuple[int, str]:
    with pytest.raises(VzError) as caught:
        run(*words)
    text = str(caught.value)
    assert "\n" not in text
    return caught.value.code, text


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=[(1, False), (2, False), (2, True)], ids=["v1", "v2", "raw-base"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    version, raw = request.param
    path = build(tmp_path / "disk", version, LAYERS, raw_base=raw)
    assert read_disk(path) == flat(LAYERS)
    return path


def test_a_stack_is_flattened_as_of_each_snapshot(disk: Path, tmp_path: Path) -> None:
    for number in range(1, len(LAYERS) + 1):
        own = TOP if number == len(LAYERS) else guid(number)
        out = tmp_path / f"{number}.raw"
        run("convert", "-f", "raw", "-u", own, "-o", out, disk)
        assert out.read_bytes() == flat(LAYERS[:number])
        for version in (1, 2):
            folder = tmp_path / f"{number}v{version}"
            folder.mkdir()
            run("convert", "-f", "expanded", "-v", version, "-u", own, "-o", folder / "root.hdd", disk)
            assert read_disk(folder / "DiskDescriptor.xml") == flat(LAYERS[:number])
            assert run("check", folder / "DiskDescriptor.xml") == 0


def test_snapshots_are_made_deleted_merged_and_gone_back_to(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("snapshot", "-u", guid(0x77).upper()[1:-1], disk)
    assert "Creating snapshot dev=none img=" in capsys.readouterr().out
    assert read_disk(disk) == read_disk(disk, guid(0x77)) == flat(LAYERS)
    run("snapshot-switch", "-u", guid(2), disk)
    assert read_disk(disk) == flat(LAYERS[:2])
    assert read_disk(disk, guid(0x77)) == flat(LAYERS)
    before = tree(disk.parent)
    assert fails("snapshot-delete", "-u", guid(2), disk)[0] == PloopCode.PARAMETER  # two grow on it
    assert fails("snapshot-merge", "-A", disk)[0] == PloopCode.PARAMETER
    assert tree(disk.parent) == before
    run("snapshot-delete", "-u", guid(0x77), disk)
    run("snapshot-delete", "-u", guid(3), disk)
    assert read_disk(disk) == flat(LAYERS[:2])
    run("snapshot-delete", "-u", guid(1), disk)  # merged into the second
    assert read_disk(disk, guid(2)) == flat(LAYERS[:2])
    run("snapshot-merge", "-A", disk)
    assert read_disk(disk) == flat(LAYERS[:2])
    assert set(tree(disk.parent)) == {"DiskDescriptor.xml", "root.hdd"}
    text = disk.read_text()
    assert "<Unknown>kept</Unknown>" in text
    assert run("check", disk) == (PloopCode.FORMAT if "Plain" in text else 0)  # a raw one of half a block too much


def test_a_middle_snapshot_is_merged_and_the_others_stay(disk: Path) -> None:
    run("snapshot-merge", "-u", guid(3), disk)  # the second's GUID goes
    assert fails("snapshot-merge", "-u", guid(2), disk)[0] == PloopCode.NO_SNAPSHOT
    assert read_disk(disk) == flat(LAYERS)
    assert read_disk(disk, guid(3)) == flat(LAYERS[:3])
    assert read_disk(disk, guid(1)) == flat(LAYERS[:1])
    run("snapshot-merge", "-n", "joined", disk)
    assert read_disk(disk) == flat(LAYERS)
    assert "joined" in tree(disk.parent)


def test_a_version_is_changed_in_place_and_a_format_without_snapshots(disk: Path) -> None:
    for version in (1, 2):
        run("convert", "-v", version, disk)
        assert read_disk(disk) == flat(LAYERS)
        assert read_disk(disk, guid(1)) == flat(LAYERS[:1])
    names = set(tree(disk.parent))
    assert fails("convert", "-f", "raw", disk)[0] == PloopCode.PARAMETER
    run("snapshot-merge", "-A", disk)
    for kind in ("raw", "preallocated", "raw", "expanded"):
        run("convert", "-f", kind, disk)
        assert read_disk(disk) == flat(LAYERS)
        assert set(tree(disk.parent)) == {"DiskDescriptor.xml", "root.hdd"} < names
    assert os.stat(disk.parent / "root.hdd").st_size < SIZE


def test_files_are_merged_without_a_descriptor(tmp_path: Path) -> None:
    for number, written in enumerate(LAYERS):
        (tmp_path / f"d{number}").write_bytes(image(2, written))
    run("merge", tmp_path / "d3", tmp_path / "d2", tmp_path / "d1")
    assert set(tree(tmp_path)) == {"d0", "d1"}
    run("merge", "-n", tmp_path / "all", tmp_path / "d1", tmp_path / "d0")
    run("restore-descriptor", tmp_path, tmp_path / "all")
    assert read_disk(tmp_path / "DiskDescriptor.xml") == flat(LAYERS)


def test_a_copy_is_the_same_file_or_none(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    source.write_bytes(image(2, LAYERS[0]))
    target.write_bytes(b"old")
    stream = tmp_path / "stream"
    out = os.open(stream, os.O_RDWR | os.O_CREAT)
    run("copy", "-s", source, "-o", out)
    os.close(out)
    whole = stream.read_bytes()
    for cut in (0, 8, 15, 16, 5000, len(whole) - 1):
        stream.write_bytes(whole[:cut])
        assert receive(stream, target) == PloopCode.PROTOCOL
        assert tree(tmp_path).keys() == {"from", "to", "stream"}
        assert target.read_bytes() == b"old"
    stream.write_bytes(struct.pack("<IIQ", 0x4CC0AC3D, 4, 1 << 60) + b"data")
    assert receive(stream, target) == PloopCode.PROTOCOL
    stream.write_bytes(whole)
    assert receive(stream, target) == 0
    assert target.read_bytes() == source.read_bytes()
    run("copy", "-s", source, "-d", tmp_path / "third")
    assert (tmp_path / "third").read_bytes() == source.read_bytes()


def receive(stream: Path, target: Path) -> int:
    source = os.open(stream, os.O_RDONLY)
    try:
        return run("copy", "-d", target, "-i", source)
    except VzError as exc:
        return exc.code
    finally:
        os.close(source)


def test_init_makes_what_resize_changes_and_info_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("init", "-s", "40M", "-L", "label", tmp_path / "root.hdd")
    path = tmp_path / "DiskDescriptor.xml"
    run("snapshot", path)
    run("resize", "-s", "80M", path)
    run("info", path)
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[0] == "%11s %14s %14s" % ("resource", "Size", "Used")
    assert 70000 < int(lines[1].split()[1]) < 81920
    run("resize", "-s", "30M", path)
    run("info", "-s", path)
    assert capsys.readouterr().out.splitlines() == ["size:\t\t61440", "blocksize:\t2048", "fmt_version:\t2"]
    assert fails("resize", "-s", "2M", path)[0] in (PloopCode.PARAMETER, PloopCode.RESIZE_FS)
    run("convert", "-f", "raw", "-p", "-o", tmp_path / "fs", path)
    assert b"label" in (tmp_path / "fs").read_bytes()[1024:2048]
    assert run("check", path) == 0


# --- kills ------------------------------------------------------------------------------------------------------------

CALLS = ("open", "pwrite", "write", "rename", "link", "unlink", "fsync", "ftruncate")


def killed_at(number: int, words: list[object]) -> bool:
    """Run ploop *words* in a child that is killed before its *number*-th change; tell whether it got that far."""
    child = os.fork()
    if child == 0:
        left = number

        def striking(call: Callable[..., object]) -> Callable[..., object]:
            def struck(*args: object, **named: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **named)

            return struck

        for name in CALLS:
            setattr(os, name, striking(getattr(os, name)))
        try:
            run(*words)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (["snapshot-merge", "-u", guid(2)], LAYERS),
        (["snapshot-switch", "-u", guid(2)], LAYERS[:2]),
        (["snapshot"], LAYERS),
        (["snapshot-delete", "-u", guid(1)], LAYERS),
        (["convert", "-v", "1"], LAYERS),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else "",
)
def test_a_killed_command_leaves_the_old_or_the_new_disk(
    words: list[object], after: list[dict[int, bytes]], tmp_path: Path
) -> None:
    struck = 0
    seen = set()
    while True:
        path = build(tmp_path / str(struck), 2, LAYERS)
        before = tree(path.parent)
        killed = killed_at(struck, [*words, path])
        state = read_disk(path)
        assert state in (flat(LAYERS), flat(after)), struck
        if not killed:
            break
        seen.add(path.read_text() == before["DiskDescriptor.xml"].decode())
        run("check", "-s", path)  # any command that changes clears up
        assert read_disk(path) == state
        named = {line.split("<")[0] for line in path.read_text().replace("\n", "").split("<File>")[1:]}
        assert set(tree(path.parent)) == {*named, "DiskDescriptor.xml"}, struck
        struck += 1
    assert struck > 10
    assert seen == {True, False}  # on both sides of the change


# --- hostile files ----------------------------------------------------------------------------------------------------


def edited(data: bytes, at: int, form: str, *values: object) -> bytes:
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


GOOD = image(2, LAYERS[0])
BROKEN = {
    "empty": b"",
    "short": GOOD[:40],
    "signature": b"WithoutFreeSpice" + GOOD[16:],
    "type": edited(GOOD, 16, "<I", 3),
    "cluster 0": edited(GOOD, 28, "<I", 0),
    "cluster odd": edited(GOOD, 28, "<I", 127),
    "cluster huge": edited(GOOD, 28, "<I", 1 << 31),
    "no entries": edited(GOOD, 32, "<I", 0),
    "few entries": edited(GOOD, 32, "<I", CLUSTERS - 1),
    "4 G entries": edited(GOOD, 32, "<I", 0xFFFFFFFF),
    "table behind the end": edited(GOOD, 32, "<I", 1 << 20),
    "size 0": edited(GOOD, 36, "<Q", 0),
    "size huge": edited(GOOD, 36, "<Q", (1 << 64) - 1),
    "first in the table": edited(GOOD, 48, "<I", 1),
    "first crooked": edited(GOOD, 48, "<I", 129),
    "converting": edited(GOOD, 52, "<I", 2),
    "entry behind the end": edited(GOOD, 64, "<I", 0xFFFFFFFF),
    "entry just behind the end": edited(GOOD, 64, "<I", len(GOOD) // CLUSTER),
    "entries shared": edited(GOOD, 64, "<2I", 1, 1),
    "truncated": GOOD[:-1],
    "extension outside": edited(GOOD, 56, "<Q", 1 << 40),
    "extension broken": edited(GOOD, 56, "<Q", CLUSTER // 512),
    "v1 entry in the table": edited(image(1, LAYERS[0]), 64, "<I", 1),
    "v1 entry crooked": edited(image(1, LAYERS[0]), 64, "<I", 129),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_refused_and_nothing_changes(name: str, tmp_path: Path) -> None:
    path = build(tmp_path / "disk", 2, LAYERS[:2])
    (path.parent / "root.hdd").write_bytes(BROKEN[name])
    before = tree(path.parent)
    assert run("check", path) == PloopCode.FORMAT
    assert run("check", path.parent / "root.hdd") == PloopCode.FORMAT
    out = tmp_path / "out"
    for words in (
        ("convert", "-f", "raw", "-o", out, path),
        ("snapshot-merge", path),
        ("snapshot", path),
        ("convert", "-v", "1", path),
        ("resize", "-s", "80M", path),
        ("merge", path.parent / "root.hdd", path.parent / "root.hdd"),
        ("info", "-s", path),
    ):
        code, _ = fails(*words)
        assert code in (PloopCode.FORMAT, PloopCode.PARAMETER)
        assert tree(path.parent) == before
        assert not out.exists()


def test_broken_entries_are_dropped_when_asked_and_a_mark_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "delta"
    file.write_bytes(edited(GOOD, 64 + 4 * 3, "<I", 0xFFFFFFF))
    assert run("check", "-r", "-F", file) == PloopCode.FORMAT
    assert run("check", "-F", file) == 0
    assert file.read_bytes() == edited(GOOD, 64 + 4 * 3, "<I", 0)
    file.write_bytes(image(2, LAYERS[0], mark=0x746F6E59))
    assert run("check", file) == PloopCode.IN_USE
    assert run("check", "-d", file) == 0
    assert file.read_bytes() == GOOD
    path = build(tmp_path / "disk", 2, LAYERS[:2])
    (path.parent / "root.hdd").write_bytes(image(2, LAYERS[0], mark=0x746F6E59))
    assert fails("snapshot", path)[0] == PloopCode.FORMAT
    assert run("check", path) == 0
    run("snapshot", path)


ONE = (TOP, NONE, "Compressed", "root.hdd")
DOCTYPE = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
BAD_XML = {
    "empty": "",
    "no xml": "root.hdd\n",
    "torn": descriptor([ONE])[:-30],
    "bomb": DOCTYPE + descriptor([ONE]).replace('<?xml version="1.0"?>', "").replace("kept", "&b;"),
    "outside": '<!DOCTYPE x SYSTEM "file:///etc/passwd">' + descriptor([ONE]).replace('<?xml version="1.0"?>', ""),
    "deep": "<a>" * 500 + "</a>" * 500,
    "large": descriptor([ONE]).replace("kept", "k" * (1 << 20)),
    "encoding": descriptor([ONE]).replace('"1.0"?>', '"1.0" encoding="nobody-knows"?>'),
    "parent of itself": descriptor([(TOP, TOP, "Compressed", "root.hdd")]),
    "circle": descriptor([(TOP, guid(1), "Compressed", "root.hdd"), (guid(1), TOP, "Compressed", "b")]),
    "no parent": descriptor([(TOP, guid(9), "Compressed", "root.hdd")]),
    "no top": descriptor([(guid(1), NONE, "Compressed", "root.hdd")]),
    "twice": descriptor([ONE, ONE]),
    "one file for two": descriptor([ONE, (guid(1), NONE, "Compressed", "root.hdd")]),
    "path": descriptor([(TOP, NONE, "Compressed", "../root.hdd")]),
    "absolute": descriptor([(TOP, NONE, "Compressed", "/etc/passwd")]),
    "itself": descriptor([(TOP, NONE, "Compressed", "DiskDescriptor.xml")]),
    "type": descriptor([(TOP, NONE, "Squeezed", "root.hdd")]),
    "guid": descriptor([("{5fba}", NONE, "Compressed", "root.hdd")]),
    "size": descriptor([ONE], size=1 << 70),
    "negative": descriptor([ONE], size=-512),
    "block": descriptor([ONE], cluster=512 * 3),
    "encrypted": descriptor([ONE]).replace("<Padding>", "<Encryption><KeyId>k</KeyId></Encryption><Padding>"),
}


@pytest.mark.parametrize("name", BAD_XML)
def test_a_bad_descriptor_is_refused_and_nothing_changes(name: str, tmp_path: Path) -> None:
    path = build(tmp_path / "disk", 2, LAYERS[:1])
    path.write_text(BAD_XML[name])
    before = tree(path.parent)
    for words in (("check",), ("snapshot",), ("snapshot-list",), ("resize", "-s", "1G"), ("info", "-s")):
        assert fails(*words, path)[0] == PloopCode.DESCRIPTOR
    assert tree(path.parent) == before


def test_links_pipes_and_what_is_locked_are_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "disk", 2, LAYERS[:1])
    file = path.parent / "root.hdd"
    file.rename(tmp_path / "elsewhere")
    for make in (lambda: file.symlink_to(tmp_path / "elsewhere"), lambda: os.mkfifo(file), lambda: file.mkdir(), None):
        if make:
            make()
        assert fails("convert", "-f", "raw", "-o", tmp_path / "out", path)[0] == PloopCode.OPEN
        assert fails("check", path)[0] == PloopCode.OPEN
        if make:
            file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    path.rename(tmp_path / "real.xml")
    path.symlink_to(tmp_path / "real.xml")
    assert fails("snapshot", path)[0] == PloopCode.OPEN
    import fcntl

    good = build(tmp_path / "good", 2, LAYERS[:1])
    held = os.open(good.parent, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert fails("snapshot", good)[0] == PloopCode.LOCK
    os.close(held)
    (good.parent / ".ploop-journal").write_text("../elsewhere\nDiskDescriptor.xml\nroot.hdd\nend\n")
    run("snapshot", good)
    assert (tmp_path / "elsewhere").exists()
    assert read_disk(good) == flat(LAYERS[:1])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], PloopCode.PARAMETER),
        (["nonsense"], PloopCode.PARAMETER),
        (["init", "x"], PloopCode.PARAMETER),
        (["init", "-s", "1Q", "x"], PloopCode.PARAMETER),
        (["init", "-s", "1G", "-b", "100", "x"], PloopCode.PARAMETER),
        (["init", "-s", "1G", "-k", "key", "x"], PloopCode.PARAMETER),
        (["check", "--zap", "x"], PloopCode.PARAMETER),
        (["mount", "DiskDescriptor.xml"], PloopCode.PARAMETER),
        (["snapshot", "-u", "1234", "DiskDescriptor.xml"], PloopCode.PARAMETER),
        (["snapshot-switch", "DiskDescriptor.xml"], PloopCode.PARAMETER),
        (["balloon", "show", "-d", "/dev/ploop0"], PloopCode.DEVICE),
        (["umount", "-m", "/nowhere"], PloopCode.NOT_MOUNTED),
    ],
)
def test_wrong_words(words: list[str], code: int) -> None:
    with pytest.raises(VzError) as caught:
        run(*words)
    assert caught.value.code == code
