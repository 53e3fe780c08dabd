"""vzctl why: programs in a CT run into limits, commands fail, and it says which, with and without the node daemon."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from conftest import BUSYBOX, Vz, template
from daemonrig import Daemon, until
from rig import Rig, ok
from testnode import Node
from vz.kernel import cgroup


def events(vz: Vz, ctid: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(vz.ok("why", ctid, "--json"))
    return found


def test_processes(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    ctid, other = new_ct("--numproc", "12"), new_ct()
    assert events(vz, ctid) == []
    shown = vz.sh(ctid, "i=0; while [ $i -lt 20 ]; do sleep 30 & i=$((i+1)); done")
    assert "fork" in shown and "temporarily unavailable" in shown, shown
    vz.sh(ctid, "killall sleep")
    (event,) = events(vz, ctid)
    assert (event["kind"], event["what"], event["limit"]) == ("limit", "numproc", 12) and event["count"] >= 1
    assert int(vz.run("vzlist", "-Ho", "numproc.f", ctid).stdout) == event["count"]
    assert events(vz, ctid) == [event]  # once
    assert events(vz, other) == []
    vz.ok(*event["proposal"].split()[1:])
    assert "fork" not in vz.sh(ctid, "i=0; while [ $i -lt 10 ]; do sleep 30 & i=$((i+1)); done")


def test_memory(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--ram", "96M", "--swap", "32M", template=template("debian-12"))
    done = vz("exec", ctid, "perl -e '$x = \"x\" x (300 << 20)'; echo $?")
    assert done.stdout.strip() == "137", done
    event = next(event for event in events(vz, ctid) if event.get("what") == "physpages")
    assert (event["ram"], event["swap"]) == (96 << 8, 32 << 8)
    assert event["proposal"] == f"vzctl set {ctid} --ram 144M --save"
    if os.access("/dev/kmsg", os.R_OK):
        assert event["processes"][0].startswith("perl (pid "), event
    assert "killed" in vz.ok("why", ctid) and "96M of RAM and 32M of swap" in vz.ok("why", ctid)


def test_what_ended_it_is_known_afterwards(vz: Vz, new_ct: Callable[..., int]) -> None:
    """The counters go with the cgroups: whoever takes these away looks at them once more."""
    ctid = new_ct("--numproc", "12")
    vz.sh(ctid, "i=0; while [ $i -lt 20 ]; do sleep 30 & i=$((i+1)); done")
    vz.ok("stop", ctid, "--fast")
    (event,) = events(vz, ctid)
    assert event["what"] == "numproc" and event["count"] >= 1
    vz.ok("start", ctid)
    assert events(vz, ctid) == [event]


def test_a_group_of_the_cts_own_is_not_its_limit(vz: Vz, new_ct: Callable[..., int]) -> None:
    """As systemd inside does with MemoryMax=; there is a controller for that on version 2 only."""
    if cgroup.hierarchies().version("memory") != 2:
        pytest.skip("needs the version 2 memory controller")
    ctid = new_ct("--ram", "256M", "--swap", "0", template=template("debian-12"), start=False)
    vz.ok("start", ctid, "--wait")
    shown = vz.sh(
        ctid,
        "cd /sys/fs/cgroup && echo +memory > cgroup.subtree_control && mkdir x && echo 40M > x/memory.max && "
        "sh -c 'echo $$ > x/cgroup.procs; exec perl -e \"\\$x = q(x) x (120 << 20)\"'; echo status $?",
    )
    assert "status 137" in shown, shown
    event = next(event for event in events(vz, ctid) if event.get("what") == "physpages")
    assert (event.get("whose"), event["proposal"]) == ("program", ""), event


def test_sockets(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--ram", "512M", "--swap", "64M", "--numtcpsock", "20", template=template("debian-12"))
    script = "perl -MSocket -e 'for (1..40) { socket($t[$_], PF_INET, SOCK_STREAM, 0) or $f++ } print $f'"
    failed = int(vz("exec", ctid, script).stdout or 0)
    if not failed:
        pytest.skip("needs cgroup BPF programs for sockets")
    (event,) = [event for event in events(vz, ctid) if event.get("what") == "numtcpsock"]
    assert (event["count"], event["limit"]) == (failed, 20)


def test_a_slow_processor(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--cpulimit", "10")
    vz.sh(ctid, "timeout 3 sh -c 'while :; do :; done'")
    event = next(event for event in events(vz, ctid) if event.get("what") == "cpulimit")
    assert event["limit"] == 10 and event["seconds"] > 1


def test_commands_that_fail(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    ctid = new_ct(start=False)
    script = node.path(f"/etc/vz/conf/{ctid}.mount")
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o700)
    failed = vz("start", ctid)
    assert failed.returncode
    vz("set", ctid, "--numproc", "x")
    vz("stert", ctid)
    vz("exec", ctid, "true")
    (event,) = events(vz, ctid)
    assert (event["kind"], event["command"], event["status"]) == ("command", "vzctl start", failed.returncode)
    assert event["text"] in failed.stderr + failed.stdout
    script.unlink()
    vz.ok("set", ctid, "--userpasswd", "root:secret", "--save")
    vz.ok("start", ctid)
    assert len(events(vz, ctid)) == 1
    assert "secret" not in "".join(path.read_text() for path in node.path("/var/lib/vzctl/events").glob(f"{ctid}*"))
    vz.ok("stop", ctid, "--fast")
    vz.ok("destroy", ctid)
    assert not list(node.path("/var/lib/vzctl/events").glob(f"{ctid}*"))


def test_an_interrupted_command_is_none(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    ctid = new_ct(start=False)
    script = node.path(f"/etc/vz/conf/{ctid}.mount")
    script.write_text("#!/bin/sh\ntouch /vz/begun; sleep 4\n")
    script.chmod(0o700)
    start = node.popen("vzctl", "start", str(ctid))
    until(node.path("/vz/begun").exists, lambda: "the script")
    found = [pid for pid in os.listdir("/proc") if pid.isdigit() and start.pid in _line(int(pid))]
    os.kill(int(found[0]) if found else start.pid, signal.SIGINT)
    start.wait(30)
    node.path("/vz/begun").unlink()
    script.unlink()
    assert events(vz, ctid) == []


def _line(pid: int) -> list[int]:
    """Return the parents of *pid*, itself first, where it is vzctl."""
    found = []
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            if "bin/vzctl" not in file.read():
                return []
        while pid > 1:
            found.append(pid)
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return found


def test_a_migration_takes_it_along_and_a_failed_one_is_told(rig: Rig) -> None:
    ct = 8701
    try:
        ok(rig.a, "vzctl", "create", ct, "--ostemplate", BUSYBOX)
        rig.b.path(f"/etc/vz/conf/{ct}.conf").write_text("")
        assert rig.migrate(rig.a, ct).returncode != 0
        rig.b.path(f"/etc/vz/conf/{ct}.conf").unlink()
        found = json.loads(ok(rig.a, "vzctl", "why", ct, "--json"))
        assert [event["command"] for event in found] == [f"vzmigrate {rig.b.address4}"], found
        done = rig.migrate(rig.a, ct)
        assert done.returncode == 0, done.stderr
        assert json.loads(ok(rig.b, "vzctl", "why", ct, "--json")) == found
        assert not list(rig.a.path("/var/lib/vzctl/events").glob(f"{ct}*"))
    finally:
        for node in (rig.a, rig.b):
            node.run("vzctl", "destroy", str(ct))
            node.path(f"/etc/vz/conf/{ct}.conf").unlink(missing_ok=True)


def test_the_daemon_notices_by_itself(vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--numproc", "12")
    vz.sh(ctid, "i=0; while [ $i -lt 20 ]; do sleep 5 & i=$((i+1)); done")
    log = node.path(f"/var/lib/vzctl/events/{ctid}")
    until(log.exists, lambda: "the event")
    assert json.loads(log.read_text().splitlines()[0])["what"] == "numproc"
    vz.ok("set", ctid, "--numproc", "100")
    vz("exec", ctid, "halt")
    until(lambda: '"end"' in log.read_text(), log.read_text)
    assert "Container halted" in vz.ok("why", ctid)
