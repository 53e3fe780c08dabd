"""/run/vz/CTID/ub: maxima only grow, limits are replaced, two writers lose nothing of each other's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vz.resources import ubfile


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ubfile, "RUN", str(tmp_path))
    (tmp_path / "101").mkdir()
    return tmp_path


def test_maxima_and_limits(run: Path) -> None:
    assert ubfile.read(101) == {}
    ubfile.raise_maxima(101, {"numproc": 7, "numfile": 20})
    ubfile.raise_maxima(101, {"numproc": 5, "numfile": 21})
    ubfile.set_limits(101, {"numfile": (30, 40)})
    ubfile.set_limits(101, {"numfile": (1, 2)})
    found = ubfile.read(101)
    assert {name: (kept.maxheld, kept.limits) for name, kept in found.items()} == {
        "numproc": (7, None),
        "numfile": (21, (1, 2)),
    }
    assert (run / "101/ub").stat().st_mode & 0o777 == 0o600
    assert (run / "101/ub").read_text() == "numproc 7 - -\nnumfile 21 1 2\n"


def test_a_ct_that_has_stopped_leaves_nothing(run: Path) -> None:
    ubfile.raise_maxima(102, {"numproc": 7})
    assert ubfile.read(102) == {} and not (run / "102").exists()


@pytest.mark.parametrize("text", ["", "x", "numproc\n", "numproc x - -\n", "a b c d e\n", "\0\0\n"])
def test_what_is_no_line_is_left_out(run: Path, text: str) -> None:
    (run / "101/ub").write_text(text + "\nnumfile 3 - -\n")
    assert list(ubfile.read(101)) == ["numfile"]


def test_writers_at_once(run: Path) -> None:
    children = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            for step in range(50):
                ubfile.raise_maxima(101, {f"c{number}": step, "both": number * 50 + step})
            os._exit(0)
        children.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    found = ubfile.read(101)
    assert [found[f"c{number}"].maxheld for number in range(8)] == [49] * 8
    assert found["both"].maxheld == 399
