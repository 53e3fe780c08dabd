"""vzctl why: what it says of each kind of event, in words and as JSON; other programs read the second."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from vz.cli import why
from vz.cli.main import Globals
from vz.container import events
from vz.errors import BadSyntax, BadValue

EVENTS: list[dict[str, Any]] = [
    {"time": 1000000.0, "kind": "limit", "what": "numproc", "since": 999999.0, "count": 3, "limit": 20},
    {"time": 1000100.0, "kind": "limit", "what": "numtcpsock", "since": 1000099.0, "count": 1, "limit": 50},
    {
        "time": 1000200.0,
        "kind": "limit",
        "what": "physpages",
        "since": 1000195.0,
        "count": 1,
        "limit": 32768,
        "ram": 16384,
        "swap": 16384,
        "processes": ["perl (pid 4711)"],
    },
    {"time": 1000300.0, "kind": "limit", "what": "cpulimit", "since": 1000000.0, "seconds": 12.5, "limit": 25},
    {"time": 1000400.0, "kind": "limit", "what": "vswap", "since": 1000340.0, "seconds": 3.2, "limit": 16384},
    {"time": 1000500.0, "kind": "command", "command": "vzctl start", "text": "no such file", "status": 3},
    {"time": 1000600.0, "kind": "end", "text": "Container halted"},
]
TEXT = """\
1970-01-12 13:56:40  Container halted
1970-01-12 13:55:00  vzctl start: no such file (status 3)
1970-01-12 13:53:20  slowed: it stood still for 3.2 s, since it grew above its RAM of 64M into its virtual swap
    To change that: vzctl set 101 --ram 96M --save
1970-01-12 13:51:40  slowed: its processes were kept from running for 12.5 s since 13:46:40; cpulimit is 25 %
    To change that: vzctl set 101 --cpulimit 50 --save
1970-01-12 13:50:00  killed: perl (pid 4711); the container had used up 64M of RAM and 64M of swap
    To change that: vzctl set 101 --ram 96M --save
1970-01-12 13:48:20  1 new TCP socket was refused (ENOBUFS): it had all 50 that numtcpsock allows
    To change that: vzctl set 101 --numtcpsock 100 --save
1970-01-12 13:46:40  3 new processes or threads were refused (EAGAIN): it had all 20 processes and threads that numproc allows
    To change that: vzctl set 101 --numproc 40 --save
"""


class Stopped:
    def is_running(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(events, "FOLDER", str(tmp_path))
    monkeypatch.setattr(why, "prepare", lambda options, word: (None, int(word)))
    monkeypatch.setattr(why, "load", lambda ctid, node: Stopped())
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    (tmp_path / "101").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    return tmp_path


def told(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert why.run(["101", *words], Globals("vzctl")) == 0
    return capfd.readouterr().out


def test_in_words_the_newest_first(capfd: pytest.CaptureFixture[str]) -> None:
    assert told(capfd) == TEXT


def test_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(capfd, "--json"))
    assert [event["time"] for event in found] == sorted((event["time"] for event in EVENTS), reverse=True)
    assert found[-1] == {**EVENTS[0], "proposal": "vzctl set 101 --numproc 40 --save"}
    assert found[0] == {**EVENTS[-1], "proposal": ""}


def test_nothing_and_since(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    assert told(capfd, "--since", "1h") == "Nothing is known to have stopped container 101\n"
    events.note(101, "end", text="Container halted")
    assert told(capfd, "--since=1h").endswith("  Container halted\n")
    (folder / "101").unlink()
    assert json.loads(told(capfd, "--json")) == []


def test_what_follows_closely_is_told_together(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = {"kind": "limit", "what": "numproc", "limit": 20, "since": 1.0}
    times = (2000000.0, 2000010.0, 2000065.0, 2000200.0)
    (folder / "101").write_text("".join(json.dumps({**base, "time": at, "count": 2}) + "\n" for at in times))
    assert [(event["time"], event["count"]) for event in json.loads(told(capfd, "--json"))] == [
        (2000200.0, 2),
        (2000065.0, 6),
    ]


def test_hostile_and_broken_lines(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "101").write_bytes(b'{"time": 5, "kind": "end", "text": "a\\u001b[31mb"}\n{"cut\n[]\n\xff\n')
    assert told(capfd) == "1970-01-01 00:00:05  a\\x1b[31mb\n"


@pytest.mark.parametrize("value", ["", "0", "1x", "-1", "1.5h", "h", "१h"])
def test_bad_times(value: str) -> None:
    with pytest.raises(BadValue):
        why.parse(["--since", value])


@pytest.mark.parametrize("words", [["--since"], ["--jsonx"], ["x"]])
def test_bad_words(words: list[str]) -> None:
    with pytest.raises(BadSyntax):
        why.parse(words)


def test_the_log_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_BYTES", 2000)
    for number in range(200):
        events.note(7, "end", text=f"{number} " + "x" * 50)
    assert sum(path.stat().st_size for path in folder.glob("7*")) < 5000
    assert events.read(7)[-1]["text"].startswith("199 ")
    events.forget(7)
    assert not list(folder.glob("7*"))
