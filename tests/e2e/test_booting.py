"""vzeventd --boot and --shutdown: which containers, in which order, and what does not keep the others."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable

from conftest import Vz
from probes import build
from testnode import Node


def started(node: Node, since: int = 0, words: str = "Starting container") -> list[int]:
    """Return the CTs in the order in which the log says *words* of them."""
    text = node.path("/var/lib/vzctl/vzctl.log").read_bytes()[since:].decode()
    return [int(number) for number in re.findall(rf" : CT (\d+) : {words}", text)]


def log_size(node: Node) -> int:
    return node.path("/var/lib/vzctl/vzctl.log").stat().st_size


def running(vz: Vz) -> set[int]:
    return {int(word) for word in vz.run("vzlist", "-H", "-o", "ctid").stdout.split()}


def put_init(node: Node, ctid: int, program: bytes) -> None:
    """Give the stopped CT another init."""
    sbin = node.path(f"/vz/private/{ctid}/up/sbin")
    sbin.mkdir(parents=True, exist_ok=True)
    (sbin / "init").write_bytes(program)
    (sbin / "init").chmod(0o755)


def make_deaf(node: Node, ctid: int) -> None:
    """Give the stopped CT an init that no halt reaches."""
    put_init(node, ctid, build("deaf").read_bytes())


def test_twenty_boot_in_their_order_and_stop_in_the_reverse(
    vz: Vz, node: Node, vz_conf: Callable[[str], None], new_ct: Callable[..., int]
) -> None:
    vz_conf("VE_PARALLEL=1\nVE_STOP_MODE=stop")
    orders = [None, 5, 100, -3, 5, None, 7, 0, 1000, 12]
    made = [new_ct("--onboot", "yes", *(("--bootorder", n) if n is not None else ()), start=False) for n in orders * 2]
    not_asked = new_ct("--onboot", "no", "--bootorder", 500, start=False)
    of = dict(zip(made, orders * 2, strict=True))
    expected = sorted(made, key=lambda ctid: (of[ctid] is None, -(of[ctid] or 0), ctid))
    for ctid in made:  # one that halts at once, where busybox' takes two seconds
        put_init(node, ctid, b"#!/bin/sh\ntrap 'exit 0' USR2\nwhile :; do sleep 1000 & wait; done\n")
    vz.run("vzeventd")
    before = log_size(node)
    done = vz.run("vzeventd", "--boot")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"Container {ctid} is started" for ctid in expected]
    assert started(node, before) == expected
    assert running(vz) >= set(made) and not_asked not in running(vz)
    again = vz.run("vzeventd", "--boot")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    os.kill(int(node.path("/run/vz/eventd.pid").read_text()), signal.SIGTERM)
    before = log_size(node)
    done = vz.run("vzeventd", "--shutdown")
    assert (done.returncode, done.stderr) == (0, "")
    assert started(node, before, "Stopping container") == expected[::-1]
    assert not running(vz) & set(made)


def test_one_that_does_not_start_does_not_keep_the_others(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    bad, good, runs, off, last = (new_ct("--onboot", "yes", start=False) for _ in range(5))
    vz.ok("set", bad, "--bootorder", 9, "--save")
    vz.ok("set", off, "--disabled", "yes", "--save")
    vz.ok("start", runs)
    init = node.path(f"/var/lib/vzctl/vepid/{runs}").read_text()
    script = node.path(f"/etc/vz/conf/{bad}.mount")
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    done = vz.run("vzeventd", "--boot")
    assert done.returncode == 1
    assert (
        done.stderr
        == f"Container {bad} is not started (status 79): Action script /etc/vz/conf/{bad}.mount failed with status 1\n"
    )
    assert sorted(done.stdout.splitlines()) == sorted(
        [f"Container {off} is disabled", f"Container {good} is started", f"Container {last} is started"]
    )
    assert node.path(f"/var/lib/vzctl/vepid/{runs}").read_text() == init
    assert running(vz) >= {good, runs, last} and not running(vz) & {bad, off}


def test_what_asked_for_a_reboot_comes_first(
    vz: Vz, node: Node, vz_conf: Callable[[str], None], new_ct: Callable[..., int]
) -> None:
    """The node went down before the daemon could start it again: its mark is of another boot."""
    vz_conf("VE_PARALLEL=1")
    usual, marked = new_ct("--onboot", "yes", "--bootorder", 9, start=False), new_ct(start=False)
    marks = node.path("/var/lib/vzctl/vzreboot")
    marks.mkdir(exist_ok=True)
    for ctid in (marked, 7654321):
        (marks / str(ctid)).write_text("4711 4711 another-boot\n")
    before = log_size(node)
    assert vz.run("vzeventd", "--boot").returncode == 0
    assert started(node, before) == [marked, usual]
    assert not os.listdir(marks)


def test_a_node_that_shall_start_nothing(vz: Vz, vz_conf: Callable[[str], None], new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--onboot", "yes", start=False)
    vz_conf("")
    conf = vz.node.path("/etc/vz/vz.conf")
    conf.write_text(conf.read_text().replace("VIRTUOZZO=yes", "VIRTUOZZO=no"))
    done = vz.run("vzeventd", "--boot")
    assert (done.returncode, done.stdout) == (0, "VIRTUOZZO is not yes in vz.conf: no container is started\n")
    assert ctid not in running(vz)


def test_what_does_not_end_in_time_is_killed(
    vz: Vz, node: Node, vz_conf: Callable[[str], None], new_ct: Callable[..., int]
) -> None:
    vz_conf("VE_STOP_MODE=stop")
    deaf = [new_ct(start=False) for _ in range(3)]
    for ctid in deaf:
        make_deaf(node, ctid)
        vz.ok("start", ctid)
    began = time.monotonic()
    done = vz.run("vzeventd", "--shutdown", "--timeout", "1")
    assert done.returncode == 0, done.stderr
    assert f"Killing what still runs: {' '.join(map(str, reversed(deaf)))}\n" in done.stderr
    assert not running(vz) & set(deaf)
    for ctid in deaf:
        assert vz.ok("status", ctid) == f"CTID {ctid} exist unmounted down\n"
    assert time.monotonic() - began < 60  # two minutes are what a stop takes


def test_a_shutdown_can_be_broken_off(
    vz: Vz, node: Node, vz_conf: Callable[[str], None], new_ct: Callable[..., int]
) -> None:
    vz_conf("VE_STOP_MODE=stop")
    ctid = new_ct(start=False)
    make_deaf(node, ctid)
    vz.ok("start", ctid)
    process = node.popen("vzeventd", "--shutdown", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not node.path(f"/vz/lock/{ctid}.lck").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, complained = process.communicate(timeout=60)
    assert process.returncode == 1
    assert complained.decode().splitlines()[-1] == f"Still running: {ctid}"
    assert vz.ok("status", ctid) == f"CTID {ctid} exist mounted running\n"


def test_suspended_at_shutdown_and_back_at_boot(
    vz: Vz, node: Node, vz_conf: Callable[[str], None], new_ct: Callable[..., int]
) -> None:
    made = [new_ct(), new_ct("--onboot", "yes"), new_ct("--onboot", "yes", start=False)]
    for ctid in made[:2]:
        vz.ok("exec", ctid, "sleep 1000 & echo $! >/run/pid")
    done = vz.run("vzeventd", "--shutdown")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [f"Container {ctid} is suspended" for ctid in made[:2]]
    for ctid in made[:2]:
        assert vz.ok("status", ctid) == f"CTID {ctid} exist unmounted down suspended\n"
    assert sorted(os.listdir(node.path("/var/lib/vzctl/vzreboot"))) == [str(ctid) for ctid in made[:2]]
    done = vz.run("vzeventd", "--boot")
    assert (done.returncode, done.stderr) == (0, "")
    for ctid in made[:2]:
        assert vz.sh(ctid, "kill -0 $(cat /run/pid) && echo went on") == "went on\n"
    assert running(vz) >= set(made)
    assert not os.listdir(node.path("/var/lib/vzctl/vzreboot"))


def test_one_that_cannot_be_suspended_is_stopped(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    ctid = new_ct()
    session = node.popen("vzctl", "exec", str(ctid), "echo; sleep 1000", stdout=subprocess.PIPE)  # pipes of the node
    assert session.stdout is not None and session.stdout.read(1) == b"\n"
    done = vz.run("vzeventd", "--shutdown")
    session.communicate(timeout=30)
    assert done.returncode == 0
    assert f"Container {ctid} is not suspended (status 16), it is stopped: " in done.stderr
    assert vz.ok("status", ctid) == f"CTID {ctid} exist unmounted down\n"
