"""Descriptors of /dev/tty in criu's images become such of /dev/pts/N; what is open as /dev/tty, and as what terminal."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from vz.checkpoint import images, terminals
from vz.checkpoint.images import VARINT, field, record

HEAD = bytes(images.HEAD)
PTS3, MASTER3, OURS = 30, 31, 32  # ids of files


def message(*pairs: tuple[int, int | bytes]) -> bytes:
    return b"".join(
        field(number, images.BYTES if isinstance(value, bytes) else VARINT, value) for number, value in pairs
    )


def regular(number: int, name: bytes) -> bytes:
    return record(message((1, 1), (2, number), (3, message((1, number), (2, 0o2), (6, name)))))


def tty(number: int, info: int, file: int | None, flags: int = 0o2) -> bytes:
    inner = message((1, number), (2, info), (3, flags), *([(6, file)] if file else []))
    return record(message((1, 11), (2, number), (19, inner)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the images of process 7, whose descriptor 10 is /dev/tty; another has terminal 3 open."""
    files = regular(40, b"/dev/pts/3") + tty(PTS3, 6, 40) + regular(41, b"/dev/ptmx") + tty(MASTER3, 7, 41)
    (tmp_path / "files.img").write_bytes(HEAD + files + tty(OURS, 2026, None, flags=0o100002))
    (tmp_path / "ids-7.img").write_bytes(HEAD + record(message((1, 1), (2, 5), (3, 6))))
    fds = record(message((1, PTS3), (2, 0), (3, 11), (4, 0))) + record(message((1, OURS), (2, 0), (3, 11), (4, 10)))
    (tmp_path / "fdinfo-5.img").write_bytes(HEAD + fds)
    return tmp_path


def test_it_gets_the_name_of_its_terminal(folder: Path) -> None:
    before = images.records((folder / "files.img").read_bytes(), "files.img")
    assert terminals.name_by_number(str(folder), [(7, 10, 3)]) == 1
    after = images.records((folder / "files.img").read_bytes(), "files.img")
    assert after[:4] == before[:4]
    new, changed = after[4:]
    reg, inner = images.first(new, 3), images.first(changed, 19)
    assert isinstance(reg, bytes) and isinstance(inner, bytes)
    assert (images.integer(new, 2), images.integer(reg, 1), images.first(reg, 6)) == (42, 42, b"/dev/pts/3")
    assert images.integer(reg, 2) == images.integer(inner, 3) == 0o100002
    assert (images.integer(inner, 2), images.integer(inner, 6), images.integer(changed, 2)) == (6, 42, OURS)


def test_two_descriptors_of_one_file(folder: Path) -> None:
    fds = (folder / "fdinfo-5.img").read_bytes() + record(message((1, OURS), (2, 0), (3, 11), (4, 11)))
    (folder / "fdinfo-5.img").write_bytes(fds)
    assert terminals.name_by_number(str(folder), [(7, 10, 3), (7, 11, 3)]) == 1


@pytest.mark.parametrize(
    ("descriptor", "words"),
    [((7, 10, 4), "nobody has /dev/pts/4 open"), ((7, 12, 3), "no descriptor 12")],
)
def test_what_the_images_do_not_have(folder: Path, descriptor: tuple[int, int, int], words: str) -> None:
    before = (folder / "files.img").read_bytes()
    with pytest.raises(images.BadImage, match=words):
        terminals.name_by_number(str(folder), [descriptor])
    assert (folder / "files.img").read_bytes() == before


def test_nothing_to_do(tmp_path: Path) -> None:
    assert terminals.name_by_number(str(tmp_path), []) == 0


def test_what_a_process_has_open() -> None:
    pid, master = pty.fork()
    if pid == 0:
        os.open("/dev/tty", os.O_RDWR)
        os.write(1, b"ready")
        os.read(0, 1)
        os._exit(0)
    try:
        assert os.read(master, 9) == b"ready"
        index = int(os.path.basename(os.readlink(f"/proc/{pid}/fd/0")))
        found, slaves = terminals.look([pid, 2**22])
        assert [(descriptor.pid, descriptor.index) for descriptor in found] == [(pid, index)]
        assert index in slaves and terminals.stray([pid]) == []
        device = os.stat("/dev/tty").st_dev
        assert terminals.externals(found) == ["--external", f"tty[500:{device:x}]"]
    finally:
        os.close(master)
        os.waitpid(pid, 0)
