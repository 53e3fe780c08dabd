"""A VM that works beside the tests of this host: it starts once they are collected, and is asked for each result."""

from __future__ import annotations

import threading
import time

import pytest
from machine import Machine, Unavailable, pytest_command
from vm_results import parse

DEADLINE_S = 3600.0  # for all of its tests together; what hangs must end some time


class Session:
    """Plugin of pytest: a VM for the tests that have the argument *inside*, the id of a test to run there."""

    def __init__(self) -> None:
        self.machine: Machine | None = None
        self.results: dict[str, tuple[str, str]] = {}  # by id: outcome, what there is to say
        self.printed: list[str] = []  # what is no result
        self.unavailable = ""
        self.ended = False
        self.begun = self.seconds = time.monotonic()
        self.changed = threading.Condition()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        ids = [
            item.callspec.params["inside"]
            for item in session.items
            if isinstance(item, pytest.Function) and "inside" in item.fixturenames
        ]
        if not ids or session.config.option.collectonly:
            return
        self.machine = Machine("uml", pytest_command("uml", ["--timeout=300", *ids]))
        try:
            self.machine.__enter__()
        except Unavailable as exc:
            self.machine = None
            self.unavailable = str(exc)
            return
        threading.Thread(target=self._read, args=(self.machine,), daemon=True).start()

    def pytest_sessionfinish(self) -> None:
        if self.machine is not None:
            self.machine.__exit__()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.machine is not None:
            outcomes = [outcome for outcome, _ in self.results.values()]
            counts = ", ".join(f"{outcomes.count(what)} {what}" for what in ("passed", "failed", "skipped"))
            where = "user-mode Linux, cgroup version 2"
            terminalreporter.write_line(f"of these in the VM ({where}): {counts}, in {self.seconds:.0f} s beside the rest")

    def result(self, name: str) -> tuple[str, str]:
        """Wait for a test, and return its outcome with what there is to say about it."""
        if self.machine is None:
            return "skipped", self.unavailable
        with self.changed:
            left = self.begun + DEADLINE_S - time.monotonic()
            self.changed.wait_for(lambda: name in self.results or self.ended, left)
            if name in self.results:
                return self.results[name]
            trouble = self.machine.trouble or ("it ended early" if self.ended else "it hangs")
            last = "\n".join(self.printed[-30:])
            return "failed", f"no result: {trouble}; the last that it said:\n{last}"

    def _read(self, machine: Machine) -> None:
        for line in machine.lines():
            found = parse(line)
            with self.changed:
                if found is None:
                    self.printed.append(line)
                else:
                    self.results[found["id"]] = (found["outcome"], found["text"])
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.seconds = time.monotonic() - self.begun
            self.changed.notify_all()
