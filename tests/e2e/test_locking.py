"""The lock file as other programs know it: who takes it, what is in it, whose it may be, and when it is stale."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import BUSYBOX, Vz
from testnode import Node

LOCKING = {
    "create": ["--ostemplate", BUSYBOX],
    "destroy": [],
    "delete": [],
    "mount": [],
    "umount": [],
    "start": [],
    "stop": ["--fast"],
    "restart": ["--fast"],
    "set": ["--onboot", "yes", "--save"],
    "runscript": ["/vz/script"],
}
FREE = {"status": [], "exec": ["true"], "exec2": ["true"], "exec3": ["true"], "enter": []}


@pytest.fixture
def stopped(vz: Vz, ctid: int) -> Iterator[int]:
    vz.ok("create", ctid, "--ostemplate", BUSYBOX)
    yield ctid
    for name in (f"{ctid}.lck", f"{ctid}.lck.d"):
        path = vz.node.path(f"/vz/lock/{name}")
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    vz.remove(ctid)


def lock_of(vz: Vz, ctid: int) -> Path:
    return vz.node.path(f"/vz/lock/{ctid}.lck")


def files(vz: Vz) -> list[str]:
    return sorted(path.name for path in vz.node.path("/vz/lock").iterdir())


@pytest.mark.parametrize("verb", LOCKING)
def test_a_live_holder_is_not_waited_for(vz: Vz, node: Node, stopped: int, verb: str) -> None:
    assert node.holder is not None
    lock_of(vz, stopped).write_text(str(node.holder.pid))  # any program may have made it, in its own way
    before = vz.ok("status", stopped)
    done = vz(verb, stopped, *LOCKING[verb], timeout=10)
    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr == f"Container already locked\nLocked by: pid {node.holder.pid}, cmdline sleep infinity\n"
    assert vz.ok("status", stopped) == before
    assert lock_of(vz, stopped).read_text() == str(node.holder.pid), "the lock is theirs"


@pytest.mark.parametrize("verb", FREE)
def test_some_commands_never_lock(vz: Vz, node: Node, stopped: int, verb: str) -> None:
    assert node.holder is not None
    vz.ok("start", stopped)
    lock_of(vz, stopped).write_text(f"{node.holder.pid}\n\n")
    assert vz(verb, stopped, *FREE[verb]).returncode == 0


def test_what_the_file_says_and_when_it_goes(vz: Vz, node: Node, stopped: int) -> None:
    script = node.path(f"/etc/vz/conf/{stopped}.premount")
    script.write_text(f"#!/bin/sh\ncat /vz/lock/{stopped}.lck; echo $PPID; cat /proc/$PPID/cmdline | tr '\\0' ' '\n")
    script.chmod(0o755)
    try:
        lines = vz.ok("mount", stopped).splitlines()
    finally:
        script.unlink()
    assert lines[0] == lines[3] and lines[0].isdigit(), "its first line is the holder's pid"
    assert lines[1] == "", "its second is an empty status"
    assert len(lines[2].split()) == 2, "its third is ours: what tells a pid that was given again"
    assert "mount" in lines[4]
    assert files(vz) == []
    assert vz("umount", stopped).returncode == 0
    assert vz("umount", stopped).returncode == 40 and files(vz) == [], "a failure gives it up too"


def test_restart_holds_one_lock_over_both(vz: Vz, node: Node, stopped: int) -> None:
    vz.ok("start", stopped)
    made = []
    for name in ("umount", "premount"):
        script = node.path(f"/etc/vz/conf/{stopped}.{name}")
        script.write_text(
            f"#!/bin/sh\n(stat -c %i /vz/lock/{stopped}.lck; cat /vz/lock/{stopped}.lck) | tr '\\n' ' ' >> /vz/locks; echo >> /vz/locks\n"
        )
        script.chmod(0o755)
        made.append(script)
    try:
        vz.ok("restart", stopped, "--fast")
        first, second = node.path("/vz/locks").read_text().splitlines()
        assert first == second
    finally:
        for path in [*made, node.path("/vz/locks")]:
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("text", ["999999999\n\n", "4194303\n\n", "999999999 x", "0\n\n", "-1\n", "", "\n\n", "me\n"])
def test_a_lock_of_nobody_is_stale(vz: Vz, stopped: int, text: str) -> None:
    lock_of(vz, stopped).write_text(text)
    done = vz("mount", stopped)
    assert (done.returncode, done.stdout) == (0, "Container is mounted\n")
    assert done.stderr == f"Removing stale lock file /vz/lock/{stopped}.lck\n"
    assert files(vz) == []


def test_a_lock_of_a_process_that_nobody_collects_is_stale(vz: Vz, stopped: int) -> None:
    dead = subprocess.Popen(["true"])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie as long as we like
    lock_of(vz, stopped).write_text(f"{dead.pid}\n")
    done = vz("mount", stopped)
    dead.wait()
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"Removing stale lock file /vz/lock/{stopped}.lck\n"


def test_a_lock_that_is_being_written_is_no_stale_one(vz: Vz, node: Node, stopped: int) -> None:
    assert node.holder is not None
    lock_of(vz, stopped).write_text("")
    command = node.popen("vzctl", "mount", str(stopped), stderr=subprocess.PIPE)
    time.sleep(0.3)
    lock_of(vz, stopped).write_text(f"{node.holder.pid}\n\n")
    assert command.communicate()[1].startswith(b"Container already locked\n")
    assert command.returncode == 9


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_a_lock_that_cannot_be_read_is_3(vz: Vz, stopped: int, kind: str) -> None:
    path = lock_of(vz, stopped)
    path.mkdir() if kind == "directory" else path.symlink_to("/etc/passwd")
    done = vz("mount", stopped)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith(f"Unable to lock container: /vz/lock/{stopped}.lck ")
    assert os.path.lexists(path)


def test_a_read_only_lock_directory_is_3_and_names_skiplock(vz: Vz, stopped: int) -> None:
    command = "mount --bind /vz/lock /vz/lock && mount -o remount,bind,ro /vz/lock && exec vzctl"
    done = vz.run("unshare", "-m", "sh", "-c", f"{command} set {stopped} --onboot yes --save")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "Read-only file system" in done.stderr and "--skiplock" in done.stderr
    done = vz.run("unshare", "-m", "sh", "-c", f"{command} --skiplock set {stopped} --onboot yes --save")
    assert (done.returncode, done.stderr) == (0, "")


def test_skiplock_leaves_a_lock_of_somebody_else_alone(vz: Vz, node: Node, stopped: int) -> None:
    assert node.holder is not None
    lock_of(vz, stopped).write_text(f"{node.holder.pid}\n\n")
    assert vz("--skiplock", "mount", stopped).stdout == "Container is mounted\n"
    assert lock_of(vz, stopped).read_text() == f"{node.holder.pid}\n\n"


def test_the_lock_directory_is_made(vz: Vz, stopped: int) -> None:
    conf = vz.node.path("/etc/vz/vz.conf")
    old = conf.read_text()
    conf.write_text("LOCKDIR=/vz/new/lock\n" + old)
    try:
        vz.ok("mount", stopped)
        assert vz.node.path("/vz/new/lock").stat().st_mode & 0o777 == 0o700
        assert list(vz.node.path("/vz/new/lock").iterdir()) == []
    finally:
        conf.write_text(old)
        vz.run("rm", "-r", "/vz/new")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_and_gives_the_lock_up(vz: Vz, node: Node, stopped: int, number: int) -> None:
    script = node.path(f"/etc/vz/conf/{stopped}.mount")
    script.write_text("#!/bin/sh\ntrap '' INT TERM\necho mounted\nexec sleep 0.7\n")
    script.chmod(0o755)
    try:
        command = node.popen("vzctl", "start", str(stopped), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert command.stdout is not None
        while command.stdout.readline() != b"mounted\n":
            pass
        os.kill(command.pid, number)  # nsenter has become vzctl
        out, err = command.communicate(timeout=30)
    finally:
        script.unlink()
    assert command.returncode == 3
    assert err.decode().splitlines()[0] == "Cancelling..."
    assert b"start in progress" not in out
    assert vz.ok("status", stopped) == f"CTID {stopped} exist unmounted down\n"
    assert files(vz) == []


def test_a_cancelled_create_leaves_nothing(vz: Vz, node: Node, ctid: int) -> None:
    script = node.path("/etc/vz/conf/vps.create")
    script.write_text("#!/bin/sh\ntrap '' INT TERM\necho made\nexec sleep 0.7\n")
    script.chmod(0o755)
    try:
        command = node.popen(
            "vzctl", "create", str(ctid), "--ostemplate", BUSYBOX, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert command.stdout is not None
        while command.stdout.readline() != b"made\n":
            pass
        os.kill(command.pid, signal.SIGTERM)
        _, err = command.communicate(timeout=30)
    finally:
        script.unlink()
    assert command.returncode == 3
    assert err.decode() == "Cancelling...\nCreation of container private area failed: Cancelled\n"
    assert vz.ok("status", ctid) == f"CTID {ctid} deleted unmounted down\n"
    assert not node.path(f"/etc/vz/conf/{ctid}.conf").exists()
    assert files(vz) == []
