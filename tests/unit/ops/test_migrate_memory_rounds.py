"""Which way memory takes, what is foreseen of a freeze, and the rounds of a pre-copy, with a criu that is a script."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from vz.checkpoint import images, options
from vz.ops.migrate import memory, pages
from vz.ops.migrate.errors import MigrateFailed

MB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("lazy", "size", "tracked", "obstacles", "kind"),
    [
        (None, 10 * MB, False, [], memory.PAGES),
        (None, 10 * MB, True, [], memory.ITERATIVE),
        (None, 300 * MB, False, [], memory.LAZY),
        (None, 300 * MB, True, [], memory.ITERATIVE),  # there is a way back until the end
        (None, 300 * MB, False, ["no"], memory.PAGES),
        (False, 300 * MB, False, [], memory.PAGES),
        (True, 10 * MB, True, [], memory.LAZY),
    ],
)
def test_the_way(lazy: bool | None, size: int, tracked: bool, obstacles: list[str], kind: str) -> None:
    assert memory.choose(lazy, size, tracked=tracked, obstacles=obstacles) == kind


def test_lazy_that_cannot_be() -> None:
    with pytest.raises(MigrateFailed, match=r"cannot be done:\n\tone\n\ttwo") as caught:
        memory.choose(True, 1, tracked=True, obstacles=["one", "two"])
    assert caught.value.code == 1


# written as criu would: magics, then stats_entry{dump{pages_written}}
CRIU = r"""#!/usr/bin/python3 -I
import os, sys
with open(os.environ.get("CALLS", "@CALLS@"), "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\n")
words = sys.argv[1:]
folder = words[words.index("-D") + 1]
os.write(3, b"x")
sizes = [int(word) for word in open("@SIZES@").read().split()]
turn = int(os.path.basename(folder))
if turn > len(sizes) or sizes[turn - 1] < 0:
    sys.stderr.write("(00.1) Error (criu/mem.c:1): it cannot\n")
    sys.exit(1)
def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])
inner = bytes([7 << 3]) + varint(sizes[turn - 1])
record = bytes([1 << 3 | 2]) + varint(len(inner)) + inner
with open(folder + "/stats-dump", "wb") as file:
    file.write(b"12345678" + len(record).to_bytes(4, "little") + record)
"""


class FakeRequest:
    lazy = None
    max_downtime_s = 0.0


class FakeSession:
    def __init__(self) -> None:
        self.request = FakeRequest()
        self.facts = {"live": {"memory": 1000 * MB}}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.route = None
        self.migration = "0" * 32

    def tick(self) -> None:
        pass

    def ask(self, operation: str, data: bytes = b"", **fields: Any) -> dict[str, Any]:
        fields.pop("tick", None)
        self.asked.append((operation, fields))
        return {}


class FakeStream:
    def __init__(self, *_: object) -> None:
        self.socket = os.open("/dev/null", os.O_WRONLY)

    def close(self) -> None:
        os.close(self.socket)


class FakeRecord:
    init_pid = 1


@pytest.fixture
def rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what runs a pre-copy whose rounds have these sizes in MB, and returns (memory, calls of criu)."""

    def run(*sizes: int) -> tuple[memory.Memory, list[str], FakeSession]:
        criu = tmp_path / "criu"
        script = CRIU.replace("@CALLS@", str(tmp_path / "calls")).replace("@SIZES@", str(tmp_path / "sizes"))
        criu.write_text(script)
        criu.chmod(criu.stat().st_mode | stat.S_IXUSR)
        (tmp_path / "sizes").write_text(" ".join(str(size * MB // PAGE if size >= 0 else -1) for size in sizes))
        monkeypatch.setattr(memory, "criu_program", lambda: str(criu))
        monkeypatch.setattr(memory, "Stream", FakeStream)
        monkeypatch.setattr(memory, "tracks_memory", lambda: True)
        monkeypatch.setattr(memory.cgroups, "ct_dir", lambda ct: str(tmp_path))
        session = FakeSession()
        way = memory.Memory(session, [])  # type: ignore[arg-type]
        way.precopy(None, FakeRecord(), str(tmp_path / "Dump.1.out"))  # type: ignore[arg-type]
        return way, (tmp_path / "calls").read_text().splitlines(), session

    return run


def test_rounds_until_little_is_left(rounds: Any) -> None:
    way, calls, session = rounds(900, 200, 20, 1)
    assert (way.kind, way.rounds, way.bytes) == (memory.ITERATIVE, 3, 20 * MB)
    assert [words.split()[0] for words in calls] == ["pre-dump"] * 3
    assert ["--prev-images-dir" in words for words in calls] == [False, True, True]
    assert calls[2].endswith("--page-server --ps-socket 3 --track-mem --prev-images-dir ../2")
    opened = [fields for operation, fields in session.asked if operation == "pages"]
    assert [(one["folder"], one["previous"]) for one in opened] == [("pre1", ""), ("pre2", "pre1"), ("pre3", "pre2")]
    assert way.dump_options("/vz/dump/Dump.1.out")[-2:] == ["--prev-images-dir", "../../Dump.1.out.pre/3"]


def test_rounds_that_do_not_shrink(rounds: Any) -> None:
    way, _, _ = rounds(900, 500, 450, 400)
    assert (way.rounds, way.bytes) == (3, 450 * MB)


def test_never_more_than_five(rounds: Any) -> None:
    way, _, _ = rounds(1000, 600, 400, 250, 170, 100, 60)
    assert (way.rounds, way.bytes) == (5, 170 * MB)


@pytest.mark.parametrize("sizes", [(-1,), (900, -1)])
def test_a_round_that_fails_is_not_missed(
    rounds: Any, sizes: tuple[int, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    way, _, _ = rounds(*sizes)
    assert (way.kind, way.rounds) == (memory.PAGES, 0)
    assert "--prev-images-dir" not in way.dump_options("/vz/dump/Dump.1.out")
    assert "cannot be copied while the container runs" in capfd.readouterr().err


class TestForeseen:
    def way(self, kind: str, size: int, rate: float, limit_s: float) -> memory.Memory:
        session = FakeSession()
        session.request.max_downtime_s = limit_s
        session.request.lazy = False  # type: ignore[assignment]
        way = memory.Memory(session, ["no"])  # type: ignore[arg-type]
        way.kind, way.bytes, way.rate = kind, size, rate
        return way

    @pytest.fixture(autouse=True)
    def untracked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "tracks_memory", lambda: False)

    def test_too_much(self) -> None:
        with pytest.raises(
            MigrateFailed, match=r"about \d+ ms \(1000 MB of memory to copy\), --max-downtime allows 2000"
        ):
            self.way(memory.PAGES, 1000 * MB, 100 * MB, 2.0).predict()

    @pytest.mark.parametrize(
        ("kind", "size", "limit_s"),
        [(memory.PAGES, 10 * MB, 2.0), (memory.LAZY, 10000 * MB, 2.0), (memory.PAGES, 10000 * MB, 0.0)],
    )
    def test_what_fits(self, kind: str, size: int, limit_s: float) -> None:
        self.way(kind, size, 100 * MB, limit_s).predict()


def test_where_criu_gets_its_socket() -> None:
    argv = options.page_server("/d/images", "/d", "../pre2")
    assert argv[argv.index("--ps-socket") + 1] == "3" and argv[-2:] == ["--prev-images-dir", "../pre2"]
    assert "--prev-images-dir" not in options.page_server("/d/images", "/d", "")


def test_pages_of_a_dump_that_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "stats-dump").write_bytes(b"12345678")
    assert images.pages_written(str(tmp_path)) == 0


def test_a_relay_knows_ids_only() -> None:
    assert pages.relay("../../x") == 1
