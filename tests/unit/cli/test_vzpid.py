"""vzpid: which CT a process belongs to, from what /proc says."""

from __future__ import annotations

import io
import sys

import pytest

import vz.cli.vzpid as vzpid
from vz.cli.main import Globals


class Node:
    cgroup_parent = "vz/test"


PROCESSES = {
    # pid: (cgroup file, NSpid, name)
    "1": ("0::/init.scope\n", "1", "systemd"),
    "500": ("4:pids:/vz/test/101\n0::/vz/test/101/ct/init.scope\n", "500\t1", "init"),
    "501": ("0::/vz/test/101/ct/vz-exec\n", "501\t77\t3", "nested"),
    "502": ("0::/vz/test/1012/ct\n", "502\t5", "e\x1b[31mvil"),
    "503": ("0::/vz/testing/101/ct\n", "503", "other-parent"),
    "504": ("0::/vz/test/abc/ct\n", "504", "no-number"),
    "505": ("0::/docker/x\n", "505\t1", "docker"),
    "506": ("0::/user/vz/test/101/ct\n", "506", "below-user"),
}


@pytest.fixture(autouse=True)
def proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_open(path: str, *_: object, **__: object) -> io.StringIO:
        pid, _, name = path.removeprefix("/proc/").partition("/")
        if pid not in PROCESSES:
            raise FileNotFoundError(path)
        groups, nspid, word = PROCESSES[pid]
        return io.StringIO(groups if name == "cgroup" else f"Name:\t{word}\nPid:\t{pid}\nNSpid:\t{nspid}\n")

    monkeypatch.setattr(vzpid, "open", fake_open, raising=False)
    monkeypatch.setattr(vzpid, "load_node", Node)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = vzpid.run(list(argv), Globals("vzpid"))
    done = capsys.readouterr()
    return status, done.out, done.err


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "1", "500", "501") == (
        0,
        "Pid\tCTID\tName\n1\t0\tsystemd\n500\t101\tinit\n501\t101\tnested\n",
        "",
    )


def test_pids_inside(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "-p", "1", "500", "501", "505")[1]
    assert out == (
        "Pid\tCT/Pid\tCTID\tName\n1\t1\t0\tsystemd\n500\t1\t101\tinit\n501\t77\t101\tnested\n505\t505\t0\tdocker\n"
    )


def test_only_our_own_parent_counts(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "502", "503", "504", "505", "506")[1]
    assert [line.split("\t")[1] for line in out.splitlines()[1:]] == ["1012", "0", "0", "0", "0"]
    assert "\x1b" not in out


def test_missing_and_bad_pids_are_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "9999", "x", "-1", "../self", "5٠0", "500")[1] == "Pid\tCTID\tName\n500\t101\tinit\n"


def test_pids_from_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("1 500\n\n501\n"))
    assert run(capsys, "-")[1].count("\n") == 4


def test_no_pid_is_usage_and_1(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["-p"]):
        status, out, err = run(capsys, *argv)
        assert (status, out) == (1, "")
        assert err.startswith("Usage: vzpid")
