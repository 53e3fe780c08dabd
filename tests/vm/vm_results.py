"""pytest plugin inside a VM: one line of JSON for each test on standard output, which the outside reads.

{"id": "tests/e2e/test_kill.py::test_random_kills", "outcome": "passed", "seconds": 1.5, "text": ""}
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

MARK = "vm result: "
_seconds: dict[str, float] = {}
_worst: dict[str, tuple[str, str]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = report.nodeid
    _seconds[name] = _seconds.get(name, 0) + report.duration
    if report.failed or (report.skipped and name not in _worst):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for title, content in report.sections:
            text += f"\n--- {title}\n{content}" if report.failed else ""
        _worst[name] = (report.outcome, text.removeprefix("Skipped: "))
    if report.when == "teardown":
        outcome, text = _worst.get(name, ("passed", ""))
        _say({"id": name, "outcome": outcome, "seconds": round(_seconds[name], 1), "text": text})


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _say({"id": report.nodeid, "outcome": "failed", "seconds": 0, "text": str(report.longrepr)})


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    return (report.outcome, "", "")  # no letters: the lines above say it


def _say(what: dict[str, Any]) -> None:
    out = sys.__stdout__
    assert out is not None
    out.write(f"{MARK}{json.dumps(what)}\n")
    out.flush()


def parse(line: str) -> dict[str, Any] | None:
    """Return the result that is in *line* of the VM's output, None where there is none."""
    _, mark, text = line.partition(MARK)
    if not mark:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None  # cut in two by another message; whoever waits for it learns that it never came
    return found if isinstance(found, dict) else None
