"""The host's settings that the tests raise are put back by the last node, and after a session that was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import hostsettings


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hostsettings, "NOTE", tmp_path / "note")
    monkeypatch.setattr(hostsettings, "TOP", tmp_path)
    for name in hostsettings.SYSCTLS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("128\n")
    return tmp_path


def values(top: Path) -> set[str]:
    return {(top / name).read_text().strip() for name in hostsettings.SYSCTLS}


def test_the_last_one_puts_them_back(top: Path) -> None:
    hostsettings.hold("a")
    hostsettings.hold("b")
    hostsettings.let_go("a")
    assert values(top) == {str(value) for value in hostsettings.SYSCTLS.values()}
    hostsettings.let_go("b")
    assert values(top) == {"128"}


def test_after_a_killed_session(top: Path) -> None:
    pid = os.fork()
    if pid == 0:
        hostsettings.hold("a")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert "128" not in values(top)
    hostsettings.hold("b")
    hostsettings.let_go("b")
    assert values(top) == {"128"}


def test_what_is_high_enough_stays(top: Path) -> None:
    (top / "kernel/pid_max").write_text("99999999\n")
    hostsettings.hold("a")
    assert (top / "kernel/pid_max").read_text() == "99999999\n"
    hostsettings.let_go("a")
    assert (top / "kernel/pid_max").read_text() == "99999999\n"
