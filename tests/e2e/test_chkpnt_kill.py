"""SIGKILL of chkpnt, restore and criu at random moments: the CT runs on or is suspended, and nothing of it is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest

from conftest import SOAK, Vz, leftovers
from testnode import Node

COUNT = 60 if SOAK else 12
ADDRESS = "192.0.2.79"
COUNTER = "(while :; do n=$((n+1)); echo $n > /run/count; sleep 0.02; done) </dev/null >/dev/null 2>&1 &"


def count(vz: Vz, ctid: int) -> int:
    shown = vz.ok("exec", ctid, "cat /run/count; cat /run/count")
    return int(shown.split()[-1])


def goes_on(vz: Vz, ctid: int) -> bool:
    was = count(vz, ctid)
    time.sleep(0.1)
    return count(vz, ctid) > was


def kill_after(vz: Vz, delay_s: float, *words: object) -> bool:
    """Run vzctl and kill it after *delay_s*; True when it was still alive then."""
    process = vz.node.popen(
        "vzctl", *(str(word) for word in words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(timeout=delay_s)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True


def criu_at_work(ctid: int) -> list[int]:
    """Return the pids of the criu processes that work on the dump of *ctid*."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if b"criu" in os.path.basename(words[0]) and any(f"Dump.{ctid}".encode() in word for word in words):
                found.append(int(name))
    return found


@pytest.mark.parametrize("verb", ["chkpnt", "restore"])
def test_random_kills(vz: Vz, node: Node, new_ct, verb: str) -> None:  # type: ignore[no-untyped-def]
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    ctid = new_ct("--ipadd", ADDRESS)
    vz.sh(ctid, COUNTER)
    time.sleep(0.3)
    begun = time.monotonic()
    vz.ok("chkpnt", ctid)
    vz.ok("restore", ctid)
    longest = (time.monotonic() - begun) / 2  # of one of them, on this machine
    killed = 0
    seen = count(vz, ctid)
    for number in range(COUNT):
        about = f"seed {seed}, round {number}"
        if verb == "restore":
            vz.ok("chkpnt", ctid)
        killed += kill_after(vz, rng.uniform(0.02, longest), verb, ctid)
        done = vz("restore", ctid)
        assert done.returncode in (0, 32), (about, done)
        assert vz("status", ctid).stdout == f"CTID {ctid} exist mounted running\n", about
        time.sleep(0.1)
        now = count(vz, ctid)
        assert now > seen, (about, seen, now)
        seen = now
        assert vz.run("ping", "-c1", "-W2", ADDRESS).returncode == 0, about
        assert vz.run("sh", "-c", f"ls -d /vz/dump/Dump.{ctid}*").stdout.replace(
            f"/vz/dump/Dump.{ctid}.fail\n", ""
        ) == (""), about
        assert f"vzlock{ctid}" not in vz.run("nft", "list", "ruleset").stdout, about
    assert killed >= COUNT // 4, f"only {killed} of {COUNT} were killed in time (seed {seed})"
    vz.ok("stop", ctid, "--fast")
    vz.ok("destroy", ctid)
    time.sleep(0.5)
    assert leftovers(node, ctid) == []
    assert vz.run("sh", "-c", "grep -F .criu. /proc/self/mountinfo; ls /vz/vztmp").stdout.split() == ["rm.lck"]


def test_the_next_command_says_what_it_mends(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct()
    vz.sh(ctid, COUNTER)
    for _ in range(10):
        process = vz.node.popen("vzctl", "chkpnt", str(ctid), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not criu_at_work(ctid):
            time.sleep(0.002)
        process.kill()
        process.wait()
        done = vz("exec", ctid, "cat /run/count")
        if "An earlier checkpoint of this container was interrupted" in done.stdout + done.stderr:
            break
        vz("restore", ctid)
    else:
        pytest.fail("never killed in time")
    seen = count(vz, ctid)
    time.sleep(0.1)
    assert count(vz, ctid) > seen


def test_a_killed_criu(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    """A dump puts code of criu's into each process for some milliseconds; killed then, it takes the process along.

    Nothing can be done about that from outside (docs/checkpoint.md); it is rare, and the CT can be started.
    """
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    ctid = new_ct("--ipadd", ADDRESS)
    vz.sh(ctid, COUNTER)
    time.sleep(0.3)
    hit = lost = 0
    seen = count(vz, ctid)
    for number in range(COUNT):
        about = f"seed {seed}, round {number}, {lost} lost"
        verb = ("chkpnt", "restore")[number % 2]
        if verb == "restore":
            vz.ok("chkpnt", ctid)
        process = vz.node.popen("vzctl", verb, str(ctid), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not criu_at_work(ctid):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.12))
        victims = criu_at_work(ctid)
        for pid in victims[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        code = process.wait(timeout=60)
        hit += code != 0
        assert code in (0, 16 if verb == "chkpnt" else 17), (about, code)
        shown = vz("status", ctid).stdout.split()
        running = "running" in shown
        if verb == "chkpnt" and code and not (running and goes_on(vz, ctid)):
            lost += 1
            assert lost <= 1 + COUNT // 20, about
            assert "suspended" not in shown, (about, shown)
            if not running:
                vz.ok("start", ctid)
            vz.sh(ctid, COUNTER)
            time.sleep(0.3)
            seen = count(vz, ctid)
            continue
        assert running != ("suspended" in shown), (about, shown)
        if (verb == "chkpnt") == (code != 0):
            assert running, (about, verb, code)
        if not running:
            vz.ok("restore", ctid)
        time.sleep(0.1)
        now = count(vz, ctid)
        assert now > seen, (about, verb, code, seen, now)
        seen = now
        assert vz.run("ping", "-c1", "-W2", ADDRESS).returncode == 0, about
    assert hit >= COUNT // 4, f"only {hit} of {COUNT} were hit (seed {seed})"


def journal(node: Node, ctid: int, **facts: str) -> None:
    folder = node.path("/var/lib/vzctl/journal")
    folder.mkdir(exist_ok=True)
    (folder / str(ctid)).write_text("".join(f"{key}={value}\n" for key, value in facts.items()))


def test_after_a_power_cut_the_dump_that_has_its_name_counts(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct()
    vz.sh(ctid, COUNTER)
    vz.ok("chkpnt", ctid)
    dump = f"/vz/dump/Dump.{ctid}"
    serial = vz.run("sed", "-n", "s/^serial=//p", f"{dump}/info").stdout.strip()
    journal(node, ctid, operation="chkpnt", path=dump, serial=serial, keep="no", frozen="no", counts="no")
    done = vz("restore", ctid)
    assert done.returncode == 0, done
    assert "An earlier checkpoint of this container was interrupted at its end: it is suspended" in done.stdout
    assert count(vz, ctid) > 0


def test_after_a_power_cut_a_dump_that_has_not_is_dropped(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct()
    vz.sh(ctid, COUNTER)
    vz.ok("chkpnt", ctid)
    dump = f"/vz/dump/Dump.{ctid}"
    vz.run("cp", "-a", dump, f"{dump}.new")
    journal(node, ctid, operation="chkpnt", path=dump, serial="0" * 16, keep="no", frozen="no", counts="no")
    done = vz("restore", ctid)
    assert done.returncode == 0, done
    assert count(vz, ctid) > 0, "the older dump is the one that counts"
    assert vz.run("test", "-e", f"{dump}.new").returncode


def test_after_a_power_cut_a_dump_that_was_used_is_not_used_again(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct()
    vz.sh(ctid, COUNTER)
    vz.ok("chkpnt", ctid)
    dump = f"/vz/dump/Dump.{ctid}"
    vz.run("mv", dump, f"{dump}.gone")
    journal(node, ctid, operation="restore", path=dump)
    done = vz("start", ctid)
    assert done.returncode == 0, done
    assert "its dump is used up" in done.stdout
    assert vz("exec", ctid, "test ! -e /run/count").returncode == 0
    assert vz.run("test", "-e", f"{dump}.gone").returncode


def test_a_restore_that_was_killed_after_its_last_step_is_finished(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """It has deleted the dump, and only the journal is left."""
    ctid = new_ct()
    vz.sh(ctid, COUNTER)
    vz.ok("chkpnt", ctid)
    vz.ok("restore", ctid)
    journal(node, ctid, operation="restore", path=f"/vz/dump/Dump.{ctid}")
    done = vz("restore", ctid)
    assert done.returncode == 32, done
    assert count(vz, ctid) > 0
