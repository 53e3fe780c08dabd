"""SIGKILL of a command at a random moment: one next command brings the CT to a sound state, and destroy leaves nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from conftest import BUSYBOX, SOAK, Vz, leftovers
from testnode import Node

COUNT = 200 if SOAK else 20


def kill_after(vz: Vz, node: Node, delay_s: float, *words: object) -> bool:
    """Run vzctl and kill it after *delay_s*; True when it was still alive then."""
    import subprocess

    process = node.popen("vzctl", *(str(w) for w in words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=delay_s)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True


def test_random_kills(vz: Vz, node: Node) -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    killed = 0
    begun = time.monotonic()
    for words in (("create", 5999, "--ostemplate", BUSYBOX), ("start", 5999)):
        vz.ok(*words)
    longest = max(0.02, (time.monotonic() - begun) / 2)  # of one of them, on this machine
    vz.remove(5999)
    for round_number in range(COUNT):
        ctid = 5000 + round_number
        address = f"198.51.100.{1 + round_number % 250}"
        about = f"seed {seed}, round {round_number}"
        operation = ("create", "start", "set", "stop", "destroy")[round_number % 5]
        if operation != "create":
            vz.ok("create", ctid, "--ostemplate", BUSYBOX)
            vz.ok("set", ctid, "--ipadd", address, "--save")
        if operation in ("set", "stop"):
            vz.ok("start", ctid)
        operations: dict[str, tuple[object, ...]] = {
            "create": ("create", ctid, "--ostemplate", BUSYBOX),
            "start": ("start", ctid),
            "set": (
                "set",
                ctid,
                "--ipadd",
                f"203.0.113.{1 + round_number % 250}",
                "--hostname",
                "x.example.com",
                "--save",
            ),
            "stop": ("stop", ctid, "--fast"),
            "destroy": ("destroy", ctid),
        }
        killed += kill_after(vz, node, rng.uniform(0.004, longest), *operations[operation])
        if operation == "create":
            done = vz("create", ctid, "--ostemplate", BUSYBOX)
            assert done.returncode in (0, 44), (about, done)
        elif operation == "destroy":
            done = vz("destroy", ctid)
            assert done.returncode in (0, 14), (about, done)
        if operation != "destroy":
            done = vz("start", ctid)
            assert done.returncode in (0, 32), (about, done)
            assert vz("exec", ctid, "true").returncode == 0, about
            assert vz("stop", ctid, "--fast").returncode == 0, about
            done = vz("destroy", ctid)
            assert done.returncode == 0, (about, done)
        left: list[str] = []
        for _ in range(100):
            left = leftovers(node, ctid)
            if not left:
                break
            time.sleep(0.05)
        assert left == [], about
    assert killed >= COUNT // 4, f"only {killed} of {COUNT} were killed in time (seed {seed})"


def test_layers_that_a_killed_mount_left_attached(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    ctid = new_ct(start=False)
    for name in ("lower", "upper"):  # how a kernel before Linux 6.15 is given them
        vz.run("mkdir", "-p", f"/run/vz/{ctid}/{name}")
        assert vz.run("mount", "--bind", "/etc/vz", f"/run/vz/{ctid}/{name}").returncode == 0
    vz.ok("mount", ctid)
    assert f"/run/vz/{ctid}/" not in vz.run("cat", "/proc/self/mountinfo").stdout
    vz.ok("umount", ctid)
    vz.ok("destroy", ctid)
    assert leftovers(node, ctid) == []
    assert node.path("/etc/vz/vz.conf").exists()


def test_twenty_starts_at_once(vz: Vz, node: Node) -> None:
    import subprocess

    ids = list(range(6001, 6021))
    try:
        for ctid in ids:
            vz.ok("create", ctid, "--ostemplate", BUSYBOX)
            vz.ok("set", ctid, "--ipadd", f"198.51.100.{ctid - 6000}", "--save")
        running = [node.popen("vzctl", "start", str(c), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for c in ids]
        for process in running:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output.decode()
        listed = vz.run("vzlist", "-H", "-o", "ctid").stdout.split()
        assert set(map(str, ids)) <= set(listed)
        assert vz.run("ping", "-c1", "-W1", "198.51.100.20").returncode == 0
    finally:
        for ctid in ids:
            vz.remove(ctid)
