"""A node daemon on the test node, for tests of what it does: the fixtures ``daemon`` and ``idle_daemon`` of conftest.py."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

from testnode import Node


class Daemon:
    """vzeventd in the foreground on the node; what it tells is in *told*."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.told = node.home / "eventd.told"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Daemon:
        with open(self.told, "wb") as told:  # a program that is renewed writes on
            self.process = self.node.popen("vzeventd", "-d", stderr=told, stdout=told)
        self.wait_for("Watching")
        return self

    @property
    def pid(self) -> int:
        return int(self.node.path("/run/vz/eventd.pid").read_text())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def stop(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
            assert self.process.wait(10) == 0

    def text(self) -> str:
        return self.told.read_text()

    def wait_for(self, words: str, times: int = 1, timeout_s: float = 30) -> None:
        until(lambda: self.text().count(words) >= times, lambda: f"{words!r} in {self.text()!r}", timeout_s)


def until(true: Callable[[], object], what: Callable[[], str], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"waited for {what()}"
        time.sleep(0.02)
