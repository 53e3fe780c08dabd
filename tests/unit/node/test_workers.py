"""The node daemon's workers: what they are told, that they begin again, and what is mended after them."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vz.node.workers import Feed, Worker, Workers


class Rig:
    def __init__(self, note: Path) -> None:
        self.note = note
        self.told: list[str] = []
        self.mended = 0
        self.running = {101: 7, 102: 8}
        self.worker = Worker("writer", self.main, self.mend)
        self.workers = Workers([self.worker], lambda: self.running, lambda ctid, text: self.told.append(text))

    def main(self, feed: Feed) -> None:
        while True:
            select.select([feed], [], [])
            if feed.read() is None:
                return
            with open(self.note, "a") as file:
                file.write(f"{sorted(feed.inits.items())} {feed.complete}\n")

    def mend(self) -> None:
        self.mended += 1

    def has_noted(self, text: str) -> bool:
        return self.note.exists() and text in self.note.read_text()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "note")
    yield made
    made.workers.end()


def wait(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_told_what_runs(rig: Rig) -> None:
    rig.workers.begin()
    wait(lambda: rig.has_noted("[(101, 7), (102, 8)] True"))
    rig.workers.changed(103, 9)
    rig.workers.changed(101, 0)
    wait(lambda: rig.has_noted("[(102, 8), (103, 9)] True"))


def test_it_ends_with_the_daemon(rig: Rig) -> None:
    rig.workers.begin()
    pid = rig.worker.pid
    rig.workers.end()
    assert not os.path.exists(f"/proc/{pid}")
    assert rig.mended == 1


def test_killed_it_begins_again(rig: Rig) -> None:
    rig.workers.begin()
    wait(lambda: rig.has_noted("True"))
    os.kill(rig.worker.pid, signal.SIGKILL)
    assert rig.workers.ended(*os.waitpid(rig.worker.pid, 0))
    assert (rig.mended, rig.worker.pid) == (1, 0)
    assert rig.told == ["The writer has ended by signal 9: beginning it again"]
    rig.note.unlink()
    rig.running = {105: 1}
    at = rig.workers.next_at()
    assert at is not None
    rig.workers.begin()
    assert rig.worker.pid == 0, "not before its pause is over"
    time.sleep(max(at - time.monotonic(), 0))
    rig.workers.begin()
    wait(lambda: rig.has_noted("[(105, 1)] True"))


def test_one_that_hangs_is_killed_when_nothing_more_fits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vz.node.workers.FEED_BYTES", 4096)
    rig.worker.main = lambda feed: time.sleep(60)
    rig.workers.begin()
    for ctid in range(1, 100000):
        if rig.worker.sock is None:
            break
        rig.workers.changed(ctid, 1)
    assert os.waitstatus_to_exitcode(os.waitpid(rig.worker.pid, 0)[1]) == -signal.SIGKILL
    rig.worker.pid = 0


def test_another_child_is_none_of_them(rig: Rig) -> None:
    rig.workers.begin()
    assert not rig.workers.ended(os.getpid(), 0)
