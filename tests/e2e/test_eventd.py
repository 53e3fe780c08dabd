"""The node daemon: reboot and halt from inside, its own death and renewal, commands that it runs for others.

Nothing here waits by the clock for more than what must not happen.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Vz, template
from daemonrig import Daemon, until
from testnode import Node


def record(node: Node, ctid: int) -> dict[str, str]:
    """Return the run record of the CT; empty when there is none."""
    try:
        text = node.path(f"/run/vz/{ctid}/record").read_text()
    except FileNotFoundError:
        return {}
    return dict(line.split("=", 1) for line in text.splitlines())


def init_of(node: Node, ctid: int) -> tuple[str, str]:
    found = record(node, ctid)
    return found["init_pid"], found["init_start"]


def parent_of(node: Node, ctid: int) -> int:
    with open(f"/proc/{init_of(node, ctid)[0]}/status", encoding="ascii") as status:
        return int(re.search(r"^PPid:\t(\d+)$", status.read(), re.M)[1])  # type: ignore[index]


def status(vz: Vz, ctid: int) -> str:
    return vz.ok("status", ctid).split(maxsplit=2)[2].strip()


def is_anew(node: Node, ctid: int, before: tuple[str, str]) -> bool:
    """Tell whether another init than *before* runs, and its start is finished."""
    now = record(node, ctid)
    return (
        bool(now) and now["stage"] == "" and now["init_pid"] != "0" and (now["init_pid"], now["init_start"]) != before
    )


def wait_anew(node: Node, ctid: int, before: tuple[str, str], timeout_s: float = 30) -> None:
    until(lambda: is_anew(node, ctid, before), lambda: f"a new init of {ctid}, not {before}", timeout_s)


def reboot_at_once(vz: Vz, ctid: int) -> None:
    vz("exec", ctid, "reboot", "-f")


def log_of(node: Node) -> str:
    return node.path("/var/lib/vzctl/vzctl.log").read_text()


def test_a_reboot_and_a_halt_from_inside(vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--ipadd", "192.0.2.81")
    assert parent_of(node, ctid) == daemon.pid
    before = init_of(node, ctid)
    vz("exec", ctid, "touch /run/of-before /kept; reboot")  # which may kill the exec too
    wait_anew(node, ctid, before)
    assert vz.sh(ctid, "ls -d /run/of-before /kept 2>/dev/null") == "/kept\n"
    assert node.run("ping", "-c", "1", "-W", "2", "192.0.2.81").returncode == 0
    assert parent_of(node, ctid) == daemon.pid
    vz("exec", ctid, "halt")
    until(lambda: not record(node, ctid), lambda: "the end of what was left")
    assert status(vz, ctid) == "exist unmounted down"
    assert vz("exec", ctid, "true").stderr == "Container is not running\n"  # nothing of it is left to be cleared
    assert [
        line.rpartition(" : ")[2] for line in log_of(node).splitlines() if f"vzeventd : CT {ctid} : Container " in line
    ] == [
        "Container asked for a reboot: starting it again",
        "Container ended by itself: clearing what is left of it",
        "Container is mounted",
        "Container start in progress...",
        "Container halted",
        "Container ended by itself: clearing what is left of it",
    ]
    assert not os.listdir(node.path("/var/lib/vzctl/vzreboot"))


def test_a_debian_system_reboots_itself(vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]) -> None:
    ctid = new_ct(template=template("debian-12"), start=False)
    vz.ok("start", ctid, "--wait")
    before = init_of(node, ctid)
    vz("exec", ctid, "systemctl reboot")
    wait_anew(node, ctid, before, 120)
    until(lambda: "running" in vz.sh(ctid, "systemctl is-system-running --wait"), lambda: "its units", 60)
    vz("exec", ctid, "systemctl poweroff")
    until(lambda: not record(node, ctid), lambda: "its halt", 120)
    assert status(vz, ctid) == "exist unmounted down"


def test_an_init_that_is_killed_or_ends_is_cleared_not_started(
    vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]
) -> None:
    ctid = new_ct()
    os.kill(int(init_of(node, ctid)[0]), signal.SIGKILL)
    daemon.wait_for("Container was killed by signal 9")
    until(lambda: not record(node, ctid), lambda: "the end of what was left")
    assert status(vz, ctid) == "exist unmounted down"
    up = node.path(f"/vz/private/{ctid}/up")
    (up / "sbin").mkdir(exist_ok=True)
    (up / "sbin/init").unlink(missing_ok=True)
    (up / "sbin/init").write_text("#!/bin/sh\nexit 7\n")
    (up / "sbin/init").chmod(0o755)
    vz("start", ctid)
    daemon.wait_for("Container ended with status 7")
    until(lambda: not record(node, ctid), lambda: "the end of what was left")
    assert "starting it again" not in daemon.text()


def test_what_a_command_ends_is_left_to_it(vz: Vz, node: Node, daemon: Daemon, ct: int) -> None:
    before = init_of(node, ct)
    vz.ok("restart", ct, "--fast")
    assert is_anew(node, ct, before)
    vz.ok("stop", ct, "--fast")
    again = vz.ok("start", ct)
    assert "cleared" not in again and parent_of(node, ct) == daemon.pid
    vz.ok("stop", ct)
    time.sleep(0.2)
    assert daemon.text().count("\n") == 1, daemon.text()  # of all that it has told nothing


def test_a_ct_that_somebody_has_locked_waits(vz: Vz, node: Node, daemon: Daemon, ct: int) -> None:
    """A backup program, say, which holds the lock by its own pid."""
    before = init_of(node, ct)
    lock = node.path(f"/vz/lock/{ct}.lck")
    lock.write_text(f"{os.getpid()}\n\n")
    reboot_at_once(vz, ct)
    until(lambda: node.path(f"/var/lib/vzctl/vzreboot/{ct}").exists(), lambda: "the mark")
    time.sleep(0.5)
    assert init_of(node, ct) == before
    lock.unlink()
    wait_anew(node, ct, before)


def test_a_stop_wins_over_a_reboot_that_is_waiting(vz: Vz, node: Node, daemon: Daemon, ct: int) -> None:
    lock = node.path(f"/vz/lock/{ct}.lck")
    lock.write_text(f"{os.getpid()}\n\n")
    reboot_at_once(vz, ct)
    mark = node.path(f"/var/lib/vzctl/vzreboot/{ct}")
    until(mark.exists, lambda: "the mark")
    vz.ok("--skiplock", "stop", ct)
    lock.unlink()
    assert not mark.exists()
    time.sleep(1)
    assert status(vz, ct) == "exist unmounted down"


def test_a_crash_loop_comes_to_an_end(vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]) -> None:
    ctid, other = new_ct(start=False), new_ct()
    before = init_of(node, other)
    up = node.path(f"/vz/private/{ctid}/up")
    (up / "sbin").mkdir(parents=True, exist_ok=True)
    (up / "sbin/init").write_text("#!/bin/sh\necho >>/boots\nreboot -f\n")
    (up / "sbin/init").chmod(0o755)
    vz("start", ctid)
    daemon.wait_for("it stays stopped", timeout_s=60)
    until(lambda: not record(node, ctid), lambda: "the end of what was left")
    assert (up / "boots").read_text() == 6 * "\n"
    assert daemon.text().count("starting it again") == 5
    assert status(vz, ctid) == "exist unmounted down"
    assert init_of(node, other) == before
    reboot_at_once(vz, other)  # it is another's loop
    wait_anew(node, other, before)


def test_a_start_that_fails_is_said_and_ends_it(vz: Vz, node: Node, daemon: Daemon, ct: int) -> None:
    script = node.path(f"/etc/vz/conf/{ct}.mount")
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    reboot_at_once(vz, ct)
    daemon.wait_for("Unable to start it again: ")
    until(lambda: not node.path(f"/var/lib/vzctl/vzreboot/{ct}").exists(), lambda: "the end of the mark")
    assert status(vz, ct) == "exist unmounted down"
    script.unlink()
    vz.ok("start", ct)
    before = init_of(node, ct)
    reboot_at_once(vz, ct)
    wait_anew(node, ct, before)


def test_killing_the_daemon_disturbs_nothing(
    vz: Vz, node: Node, idle_daemon: Daemon, new_ct: Callable[..., int]
) -> None:
    daemon = idle_daemon.start()
    halting, rebooting, staying = new_ct(), new_ct(), new_ct("--ipadd", "192.0.2.82")
    before = {ctid: init_of(node, ctid) for ctid in (halting, rebooting, staying)}
    vz.ok("exec", staying, "sleep 1000 & echo $! >/pid")
    daemon.kill()
    for ctid, init in before.items():
        assert init_of(node, ctid) == init and status(vz, ctid) == "exist mounted running"
    assert vz.sh(staying, "kill -0 $(cat /pid) && echo alive") == "alive\n"
    assert node.run("ping", "-c", "1", "-W", "2", "192.0.2.82").returncode == 0
    alone = new_ct()  # without a daemon, and beside its dead socket
    assert parent_of(node, alone) != daemon.pid
    daemon.start()
    assert "Watching 4 running container(s), 0 of them own children" in daemon.text()
    assert {ctid: init_of(node, ctid) for ctid in before} == before
    # of another's child the end is seen for sure, and the reason if the zombie is still there
    vz("exec", halting, "halt", "-f")
    until(lambda: not record(node, halting), lambda: "the end of what was left")
    reboot_at_once(vz, rebooting)
    until(lambda: record(node, rebooting).get("init_pid") != before[rebooting][0], lambda: "its reboot or end")
    if "starting it again" in daemon.text():
        wait_anew(node, rebooting, before[rebooting])
        assert parent_of(node, rebooting) == daemon.pid
    else:
        daemon.wait_for("nobody saw how")
        until(lambda: status(vz, rebooting) == "exist unmounted down", lambda: "a stopped CT")
    assert init_of(node, staying) == before[staying]
    daemon.stop()
    assert status(vz, staying) == "exist mounted running"


def test_what_ended_while_there_was_no_daemon_is_cleared(
    vz: Vz, node: Node, idle_daemon: Daemon, new_ct: Callable[..., int]
) -> None:
    ctid = new_ct()
    vz("exec", ctid, "halt", "-f")
    until(lambda: "down" in status(vz, ctid), lambda: "its end")
    assert record(node, ctid)
    daemon = idle_daemon.start()
    until(lambda: not record(node, ctid), lambda: "the end of what was left")
    daemon.stop()
    assert status(vz, ctid) == "exist unmounted down"


def test_a_reboot_that_a_killed_daemon_had_seen_is_not_lost(vz: Vz, node: Node, idle_daemon: Daemon, ct: int) -> None:
    daemon = idle_daemon.start()
    vz.ok("restart", ct, "--fast")
    lock = node.path(f"/vz/lock/{ct}.lck")
    lock.write_text(f"{os.getpid()}\n\n")
    before = init_of(node, ct)
    reboot_at_once(vz, ct)
    until(lambda: node.path(f"/var/lib/vzctl/vzreboot/{ct}").exists(), lambda: "the mark")
    daemon.kill()
    lock.unlink()
    daemon.start()
    wait_anew(node, ct, before)
    daemon.stop()
    assert not node.path(f"/var/lib/vzctl/vzreboot/{ct}").exists()


def test_a_new_version_is_the_same_process_and_parent(vz: Vz, node: Node, daemon: Daemon, ct: int) -> None:
    before, pid = init_of(node, ct), daemon.pid
    for times in (2, 3):
        os.kill(pid, signal.SIGHUP)
        daemon.wait_for("Watching", times)
    assert "Watching 1 running container(s), 1 of them own children" in daemon.text()
    assert (daemon.pid, parent_of(node, ct)) == (pid, pid)
    assert daemon.process is not None and daemon.process.poll() is None
    reboot_at_once(vz, ct)
    wait_anew(node, ct, before)
    assert vz.run("vzeventd", "-d").stderr == f"vzeventd runs already (pid {pid})\n"


def held_start(node: Node, ctid: int) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a CT whose mount script runs until /vz/mounting is removed; return the command, and the script."""
    script = node.path(f"/etc/vz/conf/{ctid}.mount")
    script.write_text("#!/bin/sh\ntouch /vz/mounting\nwhile [ -e /vz/mounting ]; do sleep 0.05; done\n")
    script.chmod(0o755)
    starting = node.popen("vzctl", "start", str(ctid), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(node.path("/vz/mounting").exists, lambda: "the mount script")
    return starting, script


def test_a_start_outlives_the_daemon(vz: Vz, node: Node, idle_daemon: Daemon, new_ct: Callable[..., int]) -> None:
    daemon = idle_daemon.start()
    ctid = new_ct(start=False)
    starting, script = held_start(node, ctid)
    daemon.kill()
    node.path("/vz/mounting").unlink()
    printed, complained = starting.communicate(timeout=60)
    assert (starting.returncode, complained) == (0, b"")
    assert printed.endswith(b"Container start in progress...\n")
    assert status(vz, ctid) == "exist mounted running"
    script.unlink()
    daemon.start()
    daemon.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_by_the_daemon_can_be_cancelled(
    vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int], number: int
) -> None:
    ctid = new_ct(start=False)
    starting, script = held_start(node, ctid)
    starting.send_signal(number)
    time.sleep(0.1)
    node.path("/vz/mounting").unlink()
    _, complained = starting.communicate(timeout=60)
    assert (starting.returncode, complained) == (3, b"Cancelling...\nCancelled\n")
    assert status(vz, ctid) == "exist unmounted down"
    script.unlink()


def test_a_start_by_the_daemon_whose_process_is_killed(
    vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]
) -> None:
    ctid = new_ct(start=False)
    script = node.path(f"/etc/vz/conf/{ctid}.mount")
    script.write_text("#!/bin/sh\necho $PPID >/vz/worker\nexec sleep 30\n")
    script.chmod(0o755)
    starting = node.popen("vzctl", "start", str(ctid), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: node.path("/vz/worker").exists() and node.path("/vz/worker").read_text(), lambda: "the mount script")
    worker = int(node.path("/vz/worker").read_text())
    assert vz("stop", ctid).returncode == 9
    with open(f"/proc/{worker}/task/{worker}/children", encoding="ascii") as children:
        scripts = [int(word) for word in children.read().split()]
    os.kill(worker, signal.SIGKILL)
    for pid in scripts:
        os.kill(pid, signal.SIGKILL)
    _, complained = starting.communicate(timeout=60)
    assert (starting.returncode, complained) == (
        3,
        b"The command was killed; the next one on this container mends what it left\n",
    )
    script.unlink()
    node.path("/vz/worker").unlink()
    vz.ok("start", ctid)
    assert parent_of(node, ctid) == daemon.pid


def test_commands_by_the_daemon_are_those_of_the_caller(
    vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]
) -> None:
    """Status, both streams, --quiet, and what cannot be: an unknown option, a CT that runs."""
    ctid = new_ct(start=False)
    with_daemon = [
        vz("start", ctid, "--none"),
        vz("--quiet", "start", ctid),
        vz("start", ctid),
        vz("restart", ctid, "--fast"),
    ]
    daemon.stop()
    vz.ok("stop", ctid, "--fast")
    without = [
        vz("start", ctid, "--none"),
        vz("--quiet", "start", ctid),
        vz("start", ctid),
        vz("restart", ctid, "--fast"),
    ]
    told = [[(d.returncode, d.stdout, d.stderr) for d in done] for done in (with_daemon, without)]
    assert told[0] == told[1]
    assert [status for status, _, _ in told[0]] == [20, 0, 32, 0]


def test_a_caller_elsewhere_does_it_itself(vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]) -> None:
    """In another network namespace the daemon's would be the wrong one."""
    ctid = new_ct(start=False)
    done = vz.run("unshare", "--net", "vzctl", "start", ctid)
    assert done.returncode == 0, done.stderr
    assert parent_of(node, ctid) != daemon.pid
    before = init_of(node, ctid)
    reboot_at_once(vz, ctid)
    until(lambda: record(node, ctid).get("init_pid") != before[0], lambda: "its reboot or end")


def test_only_root_reaches_the_socket(vz: Vz, node: Node, daemon: Daemon) -> None:
    path = node.path("/run/vz/eventd")
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, 0)
    script = "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect('/run/vz/eventd')"
    done = vz.run("setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-IS", "-c", script)
    assert "PermissionError" in done.stderr


def test_a_restored_ct_is_the_daemons_child(vz: Vz, node: Node, daemon: Daemon, ct: int) -> None:
    vz.ok("chkpnt", ct)
    vz.ok("restore", ct)
    assert parent_of(node, ct) == daemon.pid
    before = init_of(node, ct)
    reboot_at_once(vz, ct)
    wait_anew(node, ct, before)


def test_in_the_background(vz: Vz, node: Node) -> None:
    done = vz.run("vzeventd")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int(node.path("/run/vz/eventd.pid").read_text())
    assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
    again = vz.run("vzeventd")
    assert (again.returncode, again.stderr) == (1, f"vzeventd runs already (pid {pid})\n")
    os.kill(pid, signal.SIGTERM)
    until(lambda: not node.path("/run/vz/eventd").exists(), lambda: "its end")


@pytest.mark.parametrize(
    "words", ["--none", "--boot --shutdown", "--timeout 5", "--shutdown --timeout x", "x", "--timeout"]
)
def test_wrong_words(vz: Vz, words: str) -> None:
    done = vz.run("vzeventd", *words.split())
    assert done.returncode == 1
    assert done.stderr.startswith("vzeventd: ") and "\nUsage: vzeventd" in done.stderr
    assert vz.run("vzeventd", "-h").stdout.startswith("Usage: vzeventd")


def test_without_a_configuration(vz: Vz, node: Node) -> None:
    conf = node.path("/etc/vz/vz.conf")
    conf.rename(conf.with_name("away"))
    try:
        done = vz.run("vzeventd")
    finally:
        conf.with_name("away").rename(conf)
    assert (done.returncode, len(done.stderr.splitlines())) == (10, 1)
