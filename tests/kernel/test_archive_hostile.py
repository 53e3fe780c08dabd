"""Archives that want more than to be unpacked: each is refused with one line, or does nothing beyond its directory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import resource
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vz.disk import archive
from vz.errors import ExitCode, VzError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mount namespace, owners")


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(data)
    return info, data


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.SYMTYPE, link=to)


def hardlink(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.LNKTYPE, link=to)


def packed(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Bench:
    """A directory to unpack into, with a file beside it that must stay as it is."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.target = home / "fs"
        self.target.mkdir()
        self.outside = home / "outside"
        self.outside.mkdir(mode=0o755)
        self.victim = self.outside / "victim"
        self.victim.write_text("untouched")

    def unpack(self, data: bytes, suffix: str = ".tar", **bounds: int) -> archive.Contents:
        path = self.home / f"a{suffix}"
        path.write_bytes(data)
        try:
            return archive.unpack(str(path), str(self.target), **bounds)
        finally:
            assert self.victim.read_text() == "untouched"
            assert [p.name for p in self.outside.iterdir()] == ["victim"], "something was written outside"
            assert self.victim.stat().st_nlink == 1 and self.victim.stat().st_mode & 0o7777 == 0o644
            assert self.outside.stat().st_mode & 0o7777 == 0o755

    def refused(self, data: bytes, suffix: str = ".tar", *, untouched: bool = True, **bounds: int) -> str:
        with pytest.raises(VzError) as caught:
            self.unpack(data, suffix, **bounds)
        assert caught.value.code == ExitCode.FS_NEW_VE_PRVT
        text = str(caught.value)
        assert "\n" not in text and text.isprintable() and len(text) < 600
        if untouched:
            assert os.listdir(self.target) == []
        return text


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    os.umask(0o022)
    return Bench(tmp_path)


def test_what_a_good_archive_holds_is_kept(bench: Bench) -> None:
    ping, data = member("./bin/ping", b"ping", mode=0o755)
    capability = "\x01\x00\x00\x02\x00\x20\x00\x00" + "\x00" * 12
    ping.pax_headers = {"SCHILY.xattr.security.capability": capability}
    su, su_data = member("./bin/su", b"su", mode=0o4755)
    su.uid, su.gid = 1234, 5678
    pipe = member("./pipe", kind=tarfile.FIFOTYPE, mode=0o600)
    data = packed(
        directory("./"), directory("./bin"), (ping, data), (su, su_data), hardlink("./bin/su2", "./bin/su"), symlink("./sbin", "bin"),
        symlink("./abs", "/etc/passwd"), symlink("./up", "../../.."), directory("./tmp", 0o1777), pipe,
        member("./naïve name", b"x"), format=tarfile.PAX_FORMAT,
    )  # fmt: skip
    found = bench.unpack(data)
    fs = bench.target
    assert found.files == 11
    assert os.getxattr(fs / "bin/ping", "security.capability") == capability.encode()
    status = (fs / "bin/su").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_nlink) == (0o4755, 1234, 5678, 2)
    assert os.readlink(fs / "abs") == "/etc/passwd" and os.readlink(fs / "up") == "../../.."
    assert (fs / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert stat.S_ISFIFO((fs / "pipe").stat().st_mode)
    assert (fs / "naïve name").read_text() == "x"


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"])
def test_every_compression_is_read_and_a_cut_one_refused(bench: Bench, suffix: str) -> None:
    plain = packed(member("file", random.Random(1).randbytes(200_000)))
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".tar.gz": gzip.compress,
        ".tgz": gzip.compress,
        ".tar.bz2": bz2.compress,
        ".tar.xz": lzma.compress,
        ".tar.zst": lambda data: subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout,
    }
    data = pack[suffix](plain)
    for cut in (0, 1, 20, len(data) // 2, len(data) - 5):
        bench.refused(data[:cut], suffix)
    bench.unpack(data, suffix)
    assert (bench.target / "file").stat().st_size == 200_000


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 700, 1024, 1536, 2048, 2560, 3072])
def test_a_plain_tar_cut_anywhere_is_refused(bench: Bench, cut: int) -> None:
    bench.refused(packed(member("a", b"a" * 600), member("b", b"b" * 600))[:cut])


@pytest.mark.parametrize("name", ["/abs", "../up", "a/../../up", "./../up", "..", "a/..", "//abs", "./a/../b"])
def test_names_that_lead_outside(bench: Bench, name: str) -> None:
    assert "outside" in bench.refused(packed(member(name, b"x")))
    assert "outside" in bench.refused(packed(member("fine", b"x"), member(name, b"x"), format=tarfile.PAX_FORMAT))


@pytest.mark.parametrize("below", ["l/victim", "./l/victim", "l//victim", "././l/victim", ".//l/./victim"])
@pytest.mark.parametrize("link", ["l", "./l", "././l", ".//l"])
def test_no_member_goes_through_a_link(bench: Bench, below: str, link: str) -> None:
    for to in (str(bench.outside), "../outside"):
        assert "below a link" in bench.refused(packed(symlink(link, to), member(below, b"owned")))
        assert "below a link" in bench.refused(
            packed(symlink(link, to), hardlink("m", link), member(below.replace("l", "m", 1), b"owned"))
        )


@pytest.mark.parametrize("to", ["/etc/passwd", "../outside/victim", "a/../../outside/victim"])
def test_hard_links_that_lead_outside(bench: Bench, to: str) -> None:
    assert "hard link" in bench.refused(packed(member("a", b""), hardlink("h", to)))


def test_a_hard_link_through_a_symlink(bench: Bench) -> None:
    bench.refused(packed(symlink("l", str(bench.outside)), hardlink("h", "l/victim")), untouched=False)
    assert not (bench.target / "h").exists()


def test_a_link_in_the_place_of_a_file_is_not_written_through(bench: Bench) -> None:
    bench.unpack(packed(symlink("x", str(bench.victim)), member("x", b"mine")))
    x = bench.target / "x"
    assert x.is_symlink() or x.read_text() == "mine"  # GNU tar may make the link last; either is inside


def test_a_link_in_the_place_of_a_directory_changes_no_mode_outside(bench: Bench) -> None:
    data = packed(directory("d", 0o700), symlink("d", str(bench.outside)), directory("d", 0o777))
    try:
        bench.unpack(data)
    except VzError as exc:
        assert exc.code == ExitCode.FS_NEW_VE_PRVT


def test_devices_are_left_out_and_named(bench: Bench) -> None:
    nodes = []
    for name, kind in (("dev/sda", tarfile.BLKTYPE), ("./dev/mem", tarfile.CHRTYPE)):
        info, _ = member(name, kind=kind)
        info.devmajor, info.devminor = 8, 0
        nodes.append((info, b""))
    found = bench.unpack(packed(directory("dev"), *nodes, member("after", b"x")))
    assert found.left_out == ["dev/sda", "./dev/mem"]
    assert os.listdir(bench.target / "dev") == [] and (bench.target / "after").exists()


@pytest.mark.parametrize("name", ["null ", "nu*l", "null\\", "#null", " null"])
def test_a_device_with_an_odd_name_is_not_made(bench: Bench, name: str) -> None:
    info, _ = member(name, kind=tarfile.CHRTYPE)
    info.devmajor, info.devminor = 1, 3
    try:
        bench.unpack(packed((info, b""), member("nuxl", b"x")))
        assert (bench.target / "nuxl").exists(), "the pattern reached further than the name"
    except VzError as exc:
        assert exc.code == ExitCode.FS_NEW_VE_PRVT
    assert not any(stat.S_ISCHR(path.lstat().st_mode) for path in bench.target.iterdir())


def test_too_many_files_and_bytes(bench: Bench) -> None:
    data = packed(*(member(f"f{n}", b"x" * 100) for n in range(20)))
    assert "more than 19 files" in bench.refused(data, max_files=19)
    assert "more than 1999 bytes" in bench.refused(data, max_bytes=1999)
    bench.unpack(data, max_files=20, max_bytes=2000)


def test_devices_count_too(bench: Bench) -> None:
    nodes = [member(f"n{n}", kind=tarfile.CHRTYPE) for n in range(20)]
    assert "more than 10 files" in bench.refused(packed(*nodes, member("x")), max_files=10)


def test_a_member_of_an_unknown_kind_cannot_hide_its_size(bench: Bench) -> None:
    """GNU tar unpacks what it does not know as a file."""
    bench.refused(packed(member("odd", b"x" * 5000, kind=b"Z")), max_bytes=1000)


def test_a_bomb_is_refused_early(bench: Bench) -> None:
    bomb, _ = member("bomb")
    bomb.size = 40 << 30
    assert "bytes" in bench.refused(bomb.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096, max_bytes=1 << 30)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_huge_header_does_not_fill_the_memory(bench: Bench, kind: bytes) -> None:
    """Headers are read into memory: 300 MB of zeros are a few kB of zstd."""
    head, _ = member("x", kind=kind)
    head.size = 300 << 20
    data = head.tobuf(tarfile.USTAR_FORMAT) + b"\0" * (300 << 20) + packed(member("after", b"x"))
    small = subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout
    del data
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20), before[1]))
    try:
        bench.refused(small, ".tar.zst")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_nothing_hides_behind_a_broken_header(bench: Bench) -> None:
    """GNU tar skips to the next header it can read: what comes then was not looked at."""
    bench.refused(packed(member("a"))[:512] + b"\xff" * 512 + packed(member("../up", b"x")))


def test_nothing_hides_behind_the_end(bench: Bench) -> None:
    data = packed(member("a", b"a"))
    assert "after its end" in bench.refused(data + b"\xff" * (8 << 20))
    bench.unpack(data + b"\0" * 65536)  # padding is usual
    assert os.listdir(bench.target) == ["a"]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2Jclear", "bidi\u202e"])
def test_names_reach_no_terminal_as_they_are(bench: Bench, name: str) -> None:
    bench.refused(packed(member(f"../{name}", b"x"), format=tarfile.PAX_FORMAT))


def test_members_in_conflict_are_an_error(bench: Bench) -> None:
    bench.refused(packed(member("a", b"file"), member("a/b", b"x")), untouched=False)


@pytest.mark.parametrize("data", [b"", b"\0" * 1024, b"\0" * 10240, b"no archive at all", b"\xff" * 4096])
def test_no_archive_at_all(bench: Bench, data: bytes) -> None:
    bench.refused(data)
    bench.refused(data, ".tar.zst")


def test_a_name_that_is_no_archive(bench: Bench) -> None:
    bench.refused(b"x", ".zip")
    with pytest.raises(VzError, match="Unable to read"):
        archive.look(str(bench.home / "absent.tar"))


def test_a_full_disk_is_said_as_such(bench: Bench) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "vz-test", str(bench.target)], check=True)
    try:
        (bench.home / "a.tar").write_bytes(packed(member("big", b"x" * 200_000)))
        with pytest.raises(VzError, match="no space") as caught:
            archive.unpack(str(bench.home / "a.tar"), str(bench.target))
        assert caught.value.code == ExitCode.FS_NO_DISK_SPACE
    finally:
        subprocess.run(["umount", str(bench.target)], check=True)


def test_damaged_archives_end_in_one_line(bench: Bench) -> None:
    """Random damage: unpacked or refused, never a traceback, never anything outside."""
    rng = random.Random(20261124)
    good = packed(
        directory("d"), member("d/a", b"a" * 700), symlink("l", "d"), hardlink("h", "d/a"), member("x" * 150, b"long"),
        member("é", b"p"), format=tarfile.PAX_FORMAT,
    )  # fmt: skip
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(good) - 10240 % len(good) if len(good) > 10240 else len(good))
            data[at] = rng.choice((0, 0x2F, 0x2E, 0x37, 0x80, 0xFF, rng.randrange(256)))
            if rng.random() < 0.5:  # with a checksum that is right again
                head = at // 512 * 512
                block = bytearray(data[head : head + 512])
                block[148:156] = b" " * 8
                data[head + 148 : head + 156] = f"{sum(block):06o}\0 ".encode()
        path = bench.home / "a.tar"
        path.write_bytes(data)
        try:
            archive.look(str(path), max_bytes=1 << 30)
        except VzError as exc:
            assert "\n" not in str(exc)
