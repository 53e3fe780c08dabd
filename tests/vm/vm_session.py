"""The VMs that ``make test`` starts itself: one for each processor, which share the test files and are asked for results.

They start with the first test that asks, that is after the tests of this host, and end with pytest.  Where all tests
run, the first of them starts at once and takes the time that the tests of this host leave.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from machine import Machine, Unavailable, pytest_command
from vm_results import parse

DEADLINE_S = 2400.0  # for all of its tests together; what hangs must end some time
MOST = 4  # VMs at once
EARLY_FROM = 500  # tests for the VMs, from which one of them starts early
SLOW = ("test_systems.py", "test_kill.py", "test_security_files.py")  # long files begin first, the rest by count


class Session:
    """Plugin of pytest: the VMs for the tests that have the argument *test_id*, of a test to run there."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.machines: list[Machine] = []
        self.running = 0
        self.results: dict[str, tuple[str, str]] = {}  # by id: outcome, what there is to say
        self.printed: dict[int, list[str]] = {}  # by VM: what is no result
        self.unavailable = ""
        self.begun: float | None = None
        self.asked: float | None = None
        self.seconds = 0.0
        self.changed = threading.Condition()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.ids = [
            item.callspec.params["test_id"]
            for item in session.items
            if isinstance(item, pytest.Function) and "test_id" in item.fixturenames
        ]

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if not session.config.option.collectonly and EARLY_FROM < len(self.ids) < len(session.items):
            self._prepare()
            self._start(self.machines[:1], nice=True)

    def pytest_unconfigure(self) -> None:
        for machine in self.machines:
            machine.__exit__()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.machines:
            outcomes = [outcome for outcome, _ in self.results.values()]
            counts = ", ".join(f"{outcomes.count(what)} {what}" for what in ("passed", "failed", "skipped"))
            where = f"{len(self.machines)} x user-mode Linux, cgroup version 2"
            terminalreporter.write_line(f"of these in VMs ({where}): {counts}, in {self.seconds:.0f} s")

    def result(self, name: str) -> tuple[str, str]:
        """Wait for a test, and return its outcome with what there is to say about it."""
        if self.asked is None:
            self.asked = time.monotonic()
            if self.begun is None:
                self._prepare()
            self._start([machine for machine in self.machines if machine.process is None])
        if not self.machines:
            there = os.uname().machine == "x86_64"  # Debian has user-mode-linux for no other
            return ("failed", self.unavailable) if there else ("skipped", "user-mode Linux is for x86_64")
        with self.changed:
            left = self.asked + DEADLINE_S - time.monotonic()
            self.changed.wait_for(lambda: name in self.results or not self.running, left)
            if name in self.results:
                return self.results[name]
            text = "no result: " + ("it hangs" if self.running else "it ended early")
            for number, machine in enumerate(self.machines):
                if machine.status != 0:
                    last = "\n".join(self.printed[number][-30:])
                    text += f"\nthe last that VM {number} said: {machine.trouble}\n{last}"
            return "failed", text

    def _prepare(self) -> None:
        self.begun = time.monotonic()
        by_file: dict[str, list[str]] = {}
        for name in self.ids:
            by_file.setdefault(name.partition("::")[0], []).append(name)
        order = sorted(by_file, key=lambda name: (not name.endswith(SLOW), -len(by_file[name])))
        processors = sorted(os.sched_getaffinity(0))[: min(MOST, len(by_file))]
        words = ["--timeout=300", "-p", "vm_share", *sorted(by_file)]
        share = ""
        try:
            for processor in processors:
                machine = Machine("uml", pytest_command("uml", words), processor, share, "VZ_SOAK" in os.environ)
                machine.prepare()
                if not share:
                    share = machine.share
                    for number, name in enumerate(order):
                        with open(f"{share}/{number:03}", "w") as file:
                            file.write("\n".join(by_file[name]))
                self.printed[len(self.machines)] = []
                self.machines.append(machine)
        except Unavailable as exc:
            self.pytest_unconfigure()
            self.machines = []
            self.unavailable = str(exc)

    def _start(self, machines: list[Machine], *, nice: bool = False) -> None:
        for machine in machines:
            machine.start(nice=nice)
            with self.changed:
                self.running += 1
            number = self.machines.index(machine)
            threading.Thread(target=self._read, args=(number, machine), daemon=True).start()

    def _log(self, found: dict[str, Any]) -> None:
        """With VZ_TEST_VM_LOG in the environment: add the result to that file as it comes."""
        if path := os.environ.get("VZ_TEST_VM_LOG"):
            with open(path, "a") as file:
                file.write(
                    f"{found['outcome']:8}{found['seconds']:7.1f} s  {found['id']}\n{found['text']}\n".replace(
                        "\n\n", "\n"
                    )
                )

    def _read(self, number: int, machine: Machine) -> None:
        for line in machine.lines():
            found = parse(line)
            with self.changed:
                if found is None:
                    self.printed[number].append(line)
                else:
                    self.results[found["id"]] = (found["outcome"], found["text"])
                    self._log(found)
                self.changed.notify_all()
        with self.changed:
            self.running -= 1
            assert self.begun is not None
            self.seconds = time.monotonic() - self.begun
            self.changed.notify_all()
