"""What is told of counters, and that it is told once."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vz.container import events
from vz.resources import noticing, usage


@pytest.fixture
def ct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = SimpleNamespace(ctid=101, run_dir=str(tmp_path), run=5, boot="a")
    monkeypatch.setattr(events, "FOLDER", str(tmp_path / "events"))
    monkeypatch.setattr(noticing, "_run_of", lambda ct: made.run)
    monkeypatch.setattr(noticing, "_boot", lambda: made.boot)
    monkeypatch.setattr(usage, "numproc_limit", lambda ct: 20)
    return made


def counts(ct: Any) -> list[int]:
    return [event["count"] for event in events.read(ct.ctid)]


def test_what_is_added_is_told_once(ct: Any) -> None:
    for value in (0, 2, 2, 5):
        noticing.look(ct, {"numproc": value})
    assert counts(ct) == [2, 3]


def test_another_run_begins_with_zeros(ct: Any) -> None:
    noticing.look(ct, {"numproc": 2})
    ct.run = 6
    noticing.look(ct, {"numproc": 2})
    ct.boot = "b"  # a cgroup's number may come again after a reboot
    noticing.look(ct, {"numproc": 2})
    assert counts(ct) == [2, 2, 2]


def test_a_counter_that_could_not_be_read_is_not_told_again(ct: Any) -> None:
    noticing.look(ct, {"numproc": 2})
    noticing.look(ct, {})
    noticing.look(ct, {"numproc": 2})
    assert counts(ct) == [2]


def test_what_cannot_be_kept_as_seen_is_not_told(ct: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk it would be told every five seconds."""
    monkeypatch.setattr(noticing.os, "pwrite", lambda fd, text, at: 3)
    noticing.look(ct, {"numproc": 2})
    assert counts(ct) == []


def test_who_must_not_wait_does_not(ct: Any) -> None:
    noticing.look(ct, {"numproc": 0})
    with open(f"{events.FOLDER}/101.seen") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        noticing.look(ct, {"numproc": 2}, wait=False)
    assert counts(ct) == []


def test_a_broken_record_is_none(ct: Any) -> None:
    noticing.look(ct, {"numproc": 2})
    for text in ("", "{", "[]", json.dumps({"counters": 3, "at": "x"})):
        Path(f"{events.FOLDER}/101.seen").write_text(text)
        noticing.look(ct, {"numproc": 2})
    assert counts(ct) == [2] * 5


def test_the_groups_own_limit_is_what_counts(tmp_path: Path) -> None:
    """Linux 6.11: pids.events has those of the groups below, too."""
    (tmp_path / "pids.current").write_text("3")
    (tmp_path / "pids.events").write_text("max 7\n")
    assert usage.refusals(str(tmp_path)) == "pids.events"
    (tmp_path / "pids.events.local").write_text("max 1\n")
    assert usage.event(str(tmp_path), usage.refusals(str(tmp_path)), "max") == 1
