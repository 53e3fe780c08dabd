"""A migration that is killed or cut anywhere, on either node: the CT is on exactly one of them, and whole."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from conftest import BUSYBOX, SOAK, left_at_last
from rig import Rig, processes
from testnode import Node

_ids = itertools.count(7501)
LIMIT_S = 60.0
HALTING_S = 4.0  # busybox' init takes two seconds


class Case:
    """One CT that migrates from a to b while things happen to it."""

    def __init__(self, rig: Rig, *, slow_start: bool = False) -> None:
        self.rig = rig
        self.ctid = next(_ids)
        self.run(rig.a, "create", "--ostemplate", BUSYBOX, "--ipadd", "192.0.2.31", "--name", f"n{self.ctid}")
        self.run(rig.a, "start")
        done = rig.a.run(
            "vzctl", "exec2", str(self.ctid), "-", stdin="seq 1 20000 > /root/data; ln /root/data /root/d2"
        )
        assert done.returncode == 0
        if slow_start:  # over there only
            script = rig.a.path(f"/etc/vz/conf/{self.ctid}.mount")
            script.write_text("#!/bin/sh\n[ $(hostname) = node ] || sleep 0.5\n")
            script.chmod(0o755)
        self.migration: subprocess.Popen[bytes] | None = None

    def run(self, node: Node, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        return node.run("vzctl", verb, str(self.ctid), *words)

    def unlocked(self, verb: str) -> subprocess.CompletedProcess[str]:
        """Run *verb* on the source when the guard does not hold the lock, which it does while it asks."""
        deadline = time.monotonic() + LIMIT_S
        while "already locked" in (done := self.run(self.rig.a, verb)).stderr and time.monotonic() < deadline:
            time.sleep(0.05)
        return done

    def begin(self) -> None:
        argv = self.rig.migrate_argv(self.rig.a, self.ctid)
        self.migration = self.rig.a.popen(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_stage(self, node: Node, stage: str) -> bool:
        """Wait until the journal of *node* says *stage*; False when the migration ended before that was seen."""
        assert self.migration is not None
        path = node.path(f"/var/lib/vzctl/journal/{self.ctid}")
        line = f"stage={stage}\n"
        while self.migration.poll() is None:
            try:
                if line in path.read_text():
                    return True
            except OSError:
                pass
            time.sleep(0.001)
        return False

    def victims(self, who: str) -> list[int]:
        """Return the pids of *who*; nobody is left out that is not there any more."""
        a, b, main = self.rig.a, self.rig.b, self.migration
        assert main is not None
        if who == "vzmigrate":
            return [main.pid]
        if who == "vzmigrate and its guard":
            return [pid for pid in processes(a, "bin/vzmigrate", str(self.ctid)) if "ssh -o" not in _line(pid)]
        if who == "helper":
            return [pid for pid in processes(b, "--serve") if "bin/vzmigrate" in _line(pid)]
        if who == "rsync here":
            return processes(a, "rsync ", str(self.ctid))
        if who == "rsync there":
            return processes(b, "rsync --server")
        if who == "ssh":
            return [pid for pid in processes(a, "ssh ", "--serve") if "bin/vzmigrate" not in _line(pid)]
        if who == "everything":
            found = self.victims("vzmigrate and its guard") + self.victims("helper") + self.victims("ssh")
            return found + self.victims("rsync here") + self.victims("rsync there")
        raise AssertionError(who)

    def kill(self, who: str, number: int = signal.SIGKILL) -> int:
        """Kill them; return how many there were."""
        pids = self.victims(who)
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        return len(pids)

    def settle(self, order: tuple[Node, Node]) -> None:
        """Let everything end, then give one command on each node the chance to mend."""
        assert self.migration is not None
        self.migration.wait(timeout=LIMIT_S)
        deadline = time.monotonic() + LIMIT_S
        while any(processes(node, "bin/vzmigrate") for node in order):
            assert time.monotonic() < deadline, [_line(p) for n in order for p in processes(n, "bin/vzmigrate")]
            time.sleep(0.02)
        for node in order:
            done = self.run(node, "umount")
            stopped = "It was running and is stopped now" in done.stderr  # by what had begun to stop it
            assert done.returncode in (14, 32, 40) or stopped, done.stdout + done.stderr

    def goes_on(self) -> None:
        """Check that the CT is not about to end: its init, once asked to halt, would not take that back."""
        time.sleep(HALTING_S)
        assert self.run(self.rig.a, "status").stdout.split()[-1] == "running"

    def check(self, *, guarded: bool = True) -> Node:
        """Return the one node that has the CT, which runs and is whole; the other has nothing of it."""
        a, b = self.rig.a, self.rig.b
        found = {node: self.run(node, "status").stdout.split()[2:] for node in (a, b)}
        there = [node for node in (a, b) if found[node][0] == "exist"]
        assert len(there) == 1, found
        if not guarded and found[there[0]][2] == "down":
            assert self.run(there[0], "start").returncode == 0
        else:
            assert found[there[0]] == ["exist", "mounted", "running"], found
        other = b if there[0] is a else a
        assert left_at_last(other, self.ctid) == []
        for node in (a, b):
            assert not os.path.lexists(node.path(f"/var/lib/vzctl/journal/{self.ctid}"))
        done = there[0].run(
            "vzctl", "exec2", str(self.ctid), "-", stdin="seq 1 20000 | cmp - /root/d2; ls -l /root/data"
        )
        assert done.returncode == 0 and done.stdout.split()[1] == "2", done.stdout + done.stderr
        self.rig.client("ping", "-c", "1", "-W", "3", "192.0.2.31")
        return there[0]

    def remove(self) -> None:
        for node in (self.rig.a, self.rig.b):
            self.run(node, "stop", "--fast")
            self.run(node, "destroy")
            node.run("sh", "-c", f"rm -f /etc/vz/conf/{self.ctid}.*")


def _line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


@pytest.fixture
def case(rig: Rig) -> object:
    made: list[Case] = []

    def make(**options: bool) -> Case:
        made.append(Case(rig, **options))
        return made[-1]

    yield make
    for one in made:
        if one.migration is not None and one.migration.poll() is None:
            one.migration.kill()
            one.migration.wait()
        one.remove()


# who is killed, on which node's journal which stage is waited for, and where the CT has to be then (None: either)
CASES = [
    ("vzmigrate", "a", "copying", "a"),
    ("vzmigrate", "a", "stopping", "a"),
    ("vzmigrate", "b", "arrived", None),
    ("vzmigrate", "b", "mine", "b"),
    ("vzmigrate", "a", "leaving", "b"),
    ("vzmigrate and its guard", "a", "stopping", "a"),
    ("vzmigrate and its guard", "b", "mine", "b"),
    ("helper", "b", "receiving", "a"),
    ("helper", "b", "mine", None),
    ("rsync here", "b", "receiving", "a"),
    ("rsync there", "b", "receiving", "a"),
    ("ssh", "a", "stopping", "a"),
    ("ssh", "b", "mine", "b"),
    ("everything", "b", "mine", None),
    ("everything", "a", "stopping", "a"),
]


@pytest.mark.parametrize(("who", "node", "stage", "where"), CASES, ids=lambda value: str(value).replace(" ", "-"))
def test_killed(rig: Rig, case: Callable[..., Case], who: str, node: str, stage: str, where: str | None) -> None:
    one = case(slow_start=stage == "mine")
    one.begin()
    seen = one.wait_stage(rig.a if node == "a" else rig.b, stage)
    if who.startswith("rsync"):
        deadline = time.monotonic() + 10
        while not one.victims(who) and time.monotonic() < deadline:
            time.sleep(0.001)
    killed = one.kill(who) if seen else 0
    assert killed or stage in ("leaving", "arrived"), "it went by unseen"
    one.settle((rig.a, rig.b) if os.getpid() % 2 else (rig.b, rig.a))
    it_is = one.check(guarded=who not in ("vzmigrate and its guard", "everything"))
    if where is not None and killed:
        assert it_is is (rig.a if where == "a" else rig.b)


def test_the_guard_alone_brings_it_back(rig: Rig, case: Callable[..., Case]) -> None:
    """Nobody gives another command: the CT must not stay down."""
    one = case()
    one.begin()
    assert one.wait_stage(rig.a, "stopping")
    time.sleep(0.1)  # init has been asked
    one.kill("vzmigrate")
    deadline = time.monotonic() + 30
    while one.run(rig.a, "status").stdout.split()[-1] != "running" or processes(rig.a, "bin/vzmigrate"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert one.check() is rig.a
    one.goes_on()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(rig: Rig, case: Callable[..., Case], number: int) -> None:
    one = case()
    one.begin()
    assert one.wait_stage(rig.a, "stopping")
    time.sleep(0.1)  # init has been asked
    one.kill("vzmigrate", number)
    assert one.migration is not None and one.migration.wait(timeout=LIMIT_S) == 3
    assert one.check() is rig.a
    one.goes_on()


def test_a_link_that_is_cut_while_only_the_other_knows(rig: Rig, case: Callable[..., Case]) -> None:
    one = case(slow_start=True)
    argv = rig.migrate_argv(
        rig.a, "--ssh=-o ServerAliveInterval=1 -o ServerAliveCountMax=1 -o ConnectTimeout=2", one.ctid
    )
    one.migration = rig.a.popen(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert one.wait_stage(rig.b, "mine")
        rig.cut(rig.b)
        _, errors = one.migration.communicate(timeout=LIMIT_S)
        assert one.migration.returncode == 20 and b"cannot be asked" in errors, errors
        done = one.unlocked("start")  # not on both nodes
        assert done.returncode == 9 and "--take-back" in done.stderr, done.stdout + done.stderr
    finally:
        rig.heal(rig.b)
    done = one.unlocked("start")
    assert done.returncode == 14, done.stdout + done.stderr
    one.settle((rig.a, rig.b))
    assert one.check() is rig.b


def test_taken_back_from_a_node_that_is_gone_for_good(rig: Rig, case: Callable[..., Case]) -> None:
    one = case(slow_start=True)
    argv = rig.migrate_argv(
        rig.a, "--ssh=-o ServerAliveInterval=1 -o ServerAliveCountMax=1 -o ConnectTimeout=2", one.ctid
    )
    one.migration = rig.a.popen(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert one.wait_stage(rig.b, "mine")
        rig.cut(rig.b)
        assert one.migration.wait(timeout=LIMIT_S) == 20
        done = rig.a.run("vzmigrate", "--take-back", str(one.ctid))
        assert done.returncode == 0, done.stdout + done.stderr
        assert one.run(rig.a, "start").returncode == 0
    finally:
        rig.heal(rig.b)
    # the dead node of this test is alive, and has it too: that is what the manual warns of
    one.run(rig.b, "stop", "--fast")
    one.run(rig.b, "destroy")
    assert rig.a.run("vzmigrate", "--take-back", str(one.ctid)).returncode == 10


def test_killed_at_any_time(rig: Rig, case: Callable[..., Case]) -> None:
    """No stage in mind: whoever, whenever."""
    chance = random.Random(os.urandom(8))
    everybody = ["vzmigrate", "vzmigrate and its guard", "helper", "ssh", "everything", "rsync here", "rsync there"]
    for _ in range(60 if SOAK else 4):
        one = case(slow_start=chance.random() < 0.5)
        who, delay_s = chance.choice(everybody), chance.uniform(0.05, 4.5)
        one.begin()
        time.sleep(delay_s)
        one.kill(who)
        order = (rig.a, rig.b) if chance.random() < 0.5 else (rig.b, rig.a)
        try:
            one.settle(order)
            one.check(guarded=who not in ("vzmigrate and its guard", "everything"))
        except AssertionError as exc:
            raise AssertionError(f"{who} killed after {delay_s:.3f} s") from exc
        one.remove()
