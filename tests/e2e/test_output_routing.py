"""Where a line goes: chatter to stdout, errors and warnings to stderr, both to the log; --quiet, --verbose, the levels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import BUSYBOX, Vz

LOG = "/var/lib/vzctl/routing.log"
LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}) vzctl : CT (\d+) : (.*)")
UNSAVED = "WARNING: Settings were not saved to config (use --save flag)\n"


@pytest.fixture
def log(vz: Vz) -> Iterator[Path]:
    """An empty log; vz.conf is put back at the end."""
    conf = vz.node.path("/etc/vz/vz.conf")
    old = conf.read_text()
    conf.write_text(old.replace("LOGFILE=/var/lib/vzctl/vzctl.log", f"LOGFILE={LOG}"))
    path = vz.node.path(LOG)
    yield path
    conf.write_text(old)
    path.unlink(missing_ok=True)


def setting(vz: Vz, line: str) -> None:
    conf = vz.node.path("/etc/vz/vz.conf")
    conf.write_text(line + "\n" + conf.read_text())


def texts(log: Path) -> list[str]:
    """Return what was logged, each line checked for its form."""
    found = []
    for line in log.read_text().splitlines() if log.exists() else ():
        match = LINE.fullmatch(line)
        assert match, line
        found.append(match[3])
    return found


def test_a_line_of_the_log(vz: Vz, log: Path, ctid: int) -> None:
    vz.ok("set", ctid, "--hostname", "a")
    assert vz("start", ctid).returncode == 14
    for line in log.read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match and match[2] == str(ctid), line
    assert texts(log) == [UNSAVED.rstrip("\n"), "Container config file does not exist"]
    assert log.stat().st_mode & 0o777 == 0o600


def test_both_streams_are_logged_and_a_text_of_two_lines_is_one(vz: Vz, log: Path, ctid: int) -> None:
    assert vz.node.holder is not None
    vz.node.path(f"/vz/lock/{ctid}.lck").write_text(f"{vz.node.holder.pid}\n\n")
    try:
        assert vz("set", ctid, "--hostname", "a", "--save").returncode == 9
    finally:
        vz.node.path(f"/vz/lock/{ctid}.lck").unlink()
    (text,) = texts(log)
    assert text.startswith(f"Container already locked Locked by: pid {vz.node.holder.pid}, cmdline sleep")


def test_quiet_takes_both_streams_and_leaves_the_log_and_what_was_asked_for(vz: Vz, log: Path, ctid: int) -> None:
    done = vz("--quiet", "create", ctid, "--ostemplate", BUSYBOX)
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert texts(log)[-1] == "Container private area was created"
        done = vz("--quiet", "umount", ctid)
        assert (done.returncode, done.stdout, done.stderr) == (40, "", "")
        assert texts(log)[-1] == "CT is not mounted"
        done = vz("--quiet", "start", ctid)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert vz("--quiet", "status", ctid).stdout == f"CTID {ctid} exist mounted running\n"
        done = vz("--quiet", "exec2", ctid, "echo out; echo err >&2; exit 3")
        assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
        done = vz("--quiet", "set", ctid, "--nonsense")
        assert (done.returncode, done.stdout, done.stderr) == (21, "", "")
        assert texts(log)[-1] == "Unknown option --nonsense"
    finally:
        vz.remove(ctid)


def test_status_and_exec_print_no_chatter(vz: Vz, log: Path, ct: int) -> None:
    log.unlink(missing_ok=True)
    assert vz("--verbose", "status", ct).stdout == f"CTID {ct} exist mounted running\n"
    assert vz("--verbose", "exec", ct, "echo x").stdout == "x\n"
    assert texts(log) == []


def test_verbose_adds_details_that_the_log_does_not_have(vz: Vz, log: Path, ctid: int) -> None:
    script = vz.node.path(f"/etc/vz/conf/{ctid}.premount")
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    detail = f"Running action script /etc/vz/conf/{ctid}.premount"
    vz.ok("create", ctid, "--ostemplate", BUSYBOX)
    try:
        assert vz("--verbose", "mount", ctid).stdout == f"{detail}\nContainer is mounted\n"
        assert detail not in texts(log)
        vz.ok("umount", ctid)
        assert vz("mount", ctid).stdout == "Container is mounted\n"
        vz.ok("umount", ctid)
        setting(vz, "LOG_LEVEL=1\nVERBOSE=1")
        assert vz("mount", ctid).stdout == f"{detail}\nContainer is mounted\n"
        assert texts(log)[-2:] == [detail, "Container is mounted"]
        vz.ok("umount", ctid)
        assert vz("--quiet", "--verbose", "--verbose", "mount", ctid).stdout == ""
    finally:
        vz.remove(ctid)
        script.unlink(missing_ok=True)


def test_no_log_at_all(vz: Vz, log: Path, ctid: int) -> None:
    setting(vz, "LOGGING=no")
    vz.ok("set", ctid, "--hostname", "a")
    assert not log.exists()


def test_a_log_that_cannot_be_written_stops_nobody(vz: Vz, log: Path, ctid: int) -> None:
    log.mkdir()
    try:
        assert vz("set", ctid, "--hostname", "a").stdout == UNSAVED
    finally:
        log.rmdir()


def test_a_closed_pipe_undoes_nothing(vz: Vz, ctid: int) -> None:
    vz.ok("create", ctid, "--ostemplate", BUSYBOX)
    try:
        done = vz.run("sh", "-c", f"{{ vzctl start {ctid}; echo $? > /vz/status; }} | true")
        assert done.returncode == 0
        assert vz.node.path("/vz/status").read_text() == "0\n"
        assert "running" in vz.ok("status", ctid)
    finally:
        vz.remove(ctid)


def test_warnings_of_vz_conf_are_said_at_start(vz: Vz, log: Path, ctid: int) -> None:
    setting(vz, "NETFILTER=full\nIPTABLES=iptable_nat\nnonsense")
    vz.ok("create", ctid, "--ostemplate", BUSYBOX)
    try:
        lines = vz("start", ctid).stderr.splitlines()
        for number, what in ((3, "not a KEY=VALUE line"), (1, "NETFILTER is ignored here"), (2, "IPTABLES is ignored")):
            assert any(f"/etc/vz/vz.conf:{number}: {what}" in line for line in lines), lines
    finally:
        vz.remove(ctid)


def test_keys_of_later_versions_are_named_in_one_warning_at_start(vz: Vz, ctid: int) -> None:
    vz.ok("create", ctid, "--ostemplate", BUSYBOX)
    path = vz.node.path(f"/etc/vz/conf/{ctid}.conf")
    path.write_text(path.read_text() + 'MEMINFO="none"\nQUOTAUGIDLIMIT="10"\nQUOTATIME="never"\nX_PANEL="1"\n')
    try:
        lines = vz("start", ctid).stderr.splitlines()
        named = [line for line in lines if line.startswith("Not in force in this version: ")]
        assert len(named) == 1 and {"MEMINFO", "QUOTAUGIDLIMIT"} <= set(named[0].split())
        assert any(f"{ctid}.conf:" in line and "QUOTATIME" in line for line in lines), "its syntax is checked"
        assert any("unknown parameter X_PANEL" in line for line in lines)
        assert 'MEMINFO="none"\nQUOTAUGIDLIMIT="10"\nQUOTATIME="never"\nX_PANEL="1"\n' in path.read_text()
    finally:
        vz.remove(ctid)


def test_who_is_not_root_is_told(vz: Vz, ct: int) -> None:
    for verb, *words in (["status"], ["exec", "true"], ["start"], ["set", "--hostname", "a"], ["enter"], ["destroy"]):
        done = vz.run("setpriv", "--reuid", "65534", "--clear-groups", "vzctl", verb, ct, *words)
        assert (done.returncode, done.stdout, done.stderr) == (12, "", f"vzctl {verb}: this needs root\n")
    assert vz.run("setpriv", "--reuid", "65534", "--clear-groups", "vzctl", "--version").returncode == 0
    assert "running" in vz.ok("status", ct)
