"""The version of a CT's systemd, told by the name of its library."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vz.ops import systemd


def put(root: Path, place: str, name: str) -> None:
    (root / place).mkdir(parents=True)
    (root / place / name).touch()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("libsystemd-shared-252.so", 252),
        ("libsystemd-shared-257.so", 257),
        ("libsystemd-shared-258.1-1.fc43.so", 258),
        ("libsystemd-shared-x.so", 0),
        ("libsystemd-core-257.so", 0),
    ],
)
@pytest.mark.parametrize("place", systemd.PLACES)
def test_where_it_is(tmp_path: Path, place: str, name: str, number: int) -> None:
    put(tmp_path, place, name)
    assert systemd.version(str(tmp_path)) == number
    assert systemd.must_not_see_pidfds(str(tmp_path)) == (number == 257)


@pytest.mark.parametrize(
    ("number", "inodes", "doubted"), [(257, True, 0), (258, True, 1), (259, True, 1), (258, False, 0)]
)
def test_what_a_restore_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, inodes: bool, doubted: int
) -> None:
    put(tmp_path, systemd.PLACES[0], f"libsystemd-shared-{number}.so")
    monkeypatch.setattr(systemd, "pidfds_have_inodes", lambda: inodes)
    assert systemd.doubt(str(tmp_path)).count(f"systemd {number} in the container") == doubted


def test_pidfds_of_this_kernel() -> None:
    release = [int(word) for word in os.uname().release.split(".")[:2]]
    assert systemd.pidfds_have_inodes() == (release >= [6, 9])


def test_none(tmp_path: Path) -> None:
    assert systemd.version(str(tmp_path)) == 0


def test_no_link_leads_out(tmp_path: Path) -> None:
    put(tmp_path / "host", "usr/lib/systemd", "libsystemd-shared-257.so")
    (tmp_path / "ct/usr/lib").mkdir(parents=True)
    (tmp_path / "ct/usr/lib/systemd").symlink_to(tmp_path / "host/usr/lib/systemd")
    assert systemd.version(str(tmp_path / "ct")) == 0


def test_a_fifo_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    os.mkfifo(tmp_path / "usr/lib/systemd")
    assert systemd.version(str(tmp_path)) == 0
