"""The ways in which memory goes over with vzmigrate --online: page server, lazily, in rounds; and --max-downtime."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from conftest import SOAK, rest, template
from rig import GONE, RUNNING, Rig, inside, kill, ok, processes, status
from testnode import Node

_ids = itertools.count(8501)
ADDRESS = "192.0.2.45"
# fills MB of memory, says "ready", and then changes and checks a page every 2 ms for ever; "bad" is the end of it
WRITER = r"""
setsid perl -e '
use Time::HiRes "sleep"; $| = 1;
my @pad = map { my $n = $_; join("", map { pack("L", $n * 1000003 + $_) } 0 .. 1023) x 256 } 1 .. $ARGV[0];
my @sum = map { unpack("%32C*", $_) } @pad;
open(O, ">", "/root/state"); select(O); $| = 1; print "ready\n"; my $n = 0;
while (1) {
  my $i = $n++ % @pad;
  if (unpack("%32C*", $pad[$i]) != $sum[$i]) { print "bad $i\n"; exit }
  substr($pad[$i], 4096 * ($n % 256), 4) = pack("L", $n);
  $sum[$i] = unpack("%32C*", $pad[$i]);
  print "round $n\n" if $n % @pad == 0;
  sleep 0.002;
}' MEGABYTES </dev/null >/dev/null 2>&1 &
"""


@pytest.fixture
def new(rig: Rig) -> Iterator[Callable[[int], int]]:
    made: list[int] = []

    def make(megabytes: int) -> int:
        ctid = next(_ids)
        made.append(ctid)
        name = template("debian-12")
        ok(rig.a, "vzctl", "create", ctid, "--ostemplate", name, "--ipadd", ADDRESS)
        ok(rig.a, "vzctl", "set", ctid, "--ram", "1500M", "--swap", "0", "--save")
        ok(rig.a, "vzctl", "start", ctid, "--wait")
        inside(rig.a, ctid, WRITER.replace("MEGABYTES", str(megabytes)))
        deadline = time.monotonic() + 60
        while "ready" not in inside(rig.a, ctid, "cat /root/state 2>/dev/null || true"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return ctid

    yield make
    for ctid in made:
        for node in (rig.a, rig.b):
            for words in (("stop", ctid, "--fast"), ("umount", ctid), ("destroy", ctid)):
                node.run("vzctl", *(str(word) for word in words))


SETTINGS = {"vm/unprivileged_userfaultfd": "1", "fs/pipe-max-size": "67108864"}


@pytest.fixture
def lazy() -> Iterator[None]:
    """Let this host serve and fetch a container's memory."""
    before = {}
    for name, value in SETTINGS.items():
        path = f"/proc/sys/{name}"
        if not os.path.exists(path):
            pytest.skip(f"needs {path}")
        with open(path) as file:
            before[path] = file.read()
        with open(path, "w") as file:
            file.write(value)
    yield
    for path, value in before.items():
        with open(path, "w") as file:
            file.write(value)


def still_right(node: Node, ctid: int) -> None:
    """The writer has gone through all of its memory since, twice, and found nothing wrong."""

    def rounds() -> int:
        lines = inside(node, ctid, "cat /root/state").splitlines()
        assert not any("bad" in line for line in lines), lines
        return len(lines)

    before, deadline = rounds(), time.monotonic() + 60
    while rounds() < before + 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("kind", ["pages", "lazy"])
def test_memory_arrives_whole(rig: Rig, new: Callable[[int], int], kind: str, request: pytest.FixtureRequest) -> None:
    words = []
    if kind == "lazy":
        request.getfixturevalue("lazy")
        words = ["--lazy"]
    ct = new(100)
    for source, target in ((rig.a, rig.b), (rig.b, rig.a)):
        done = rig.migrate(source, "--online", "-t", *words, ct)
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (status(source, ct), status(target, ct)) == (GONE, RUNNING)
        still_right(target, ct)
        assert rest(source, ct) == []
        assert inside(target, ct, "systemctl is-system-running").strip() == "running"
        kept = [n for n in os.listdir(target.path("/vz/dump")) if f".{ct}" in n]
        assert kept == []


class TestAllOrNothing:
    """Whatever happens to the stream, the CT runs on one node with all of its memory."""

    def test_the_stream_is_cut_while_it_is_frozen(self, rig: Rig, new: Callable[[int], int]) -> None:
        ct = new(200)
        migration = begin(rig, ct)
        # not in a round before, where the kernel has soft-dirty pages: that costs nothing but the round
        wait_for(
            lambda: processes(rig.a, "criu dump ", "--page-server") and strike(rig.a, "ssh ", "--pages"), migration
        )
        out, errors = migration.communicate(timeout=60)
        assert migration.returncode in (6, 8), (out, errors)
        assert (status(rig.a, ct), status(rig.b, ct)) == (RUNNING, GONE)
        still_right(rig.a, ct)
        assert rest(rig.b, ct) == []

    @pytest.mark.parametrize("who", ["ssh ", "criu", "vzmigrate --pages"] if SOAK else ["ssh "])
    def test_memory_that_does_not_follow(self, rig: Rig, new: Callable[[int], int], lazy: None, who: str) -> None:
        """It has run over there for a moment; it is as it was when it was frozen."""
        ct = new(300)
        inside(rig.a, ct, "echo before > /root/when")
        migration = begin(rig, ct, "--lazy")
        words = {
            "ssh ": ("ssh ", "--pages"),
            "criu": ("criu", "lazy-pages"),
            "vzmigrate --pages": ("vzmigrate", "--pages"),
        }[who]
        node = rig.a if who == "ssh " else rig.b
        wait_for(lambda: runs_again(rig.b, ct) and strike(node, *words), migration)
        out, errors = migration.communicate(timeout=60)
        assert migration.returncode == 7 and "memory did not come over" in errors, (migration.returncode, out, errors)
        assert (status(rig.a, ct), status(rig.b, ct)) == (RUNNING, GONE)
        still_right(rig.a, ct)
        assert rest(rig.b, ct) == []

    @pytest.mark.skipif(not SOAK, reason="a minute of waiting for timeouts: make soak runs it")
    def test_a_link_that_is_cut_meanwhile(self, rig: Rig, new: Callable[[int], int], lazy: None) -> None:
        """Nobody is told: the destination gives up what does not come, the source asks until it can be reached."""
        ct = new(600)
        migration = begin(rig, ct, "--lazy")
        try:
            wait_for(lambda: runs_again(rig.b, ct), migration)
            rig.cut(rig.b)
            migration.communicate(timeout=240)
            deadline = time.monotonic() + 60
            while status(rig.b, ct) != GONE:  # it gives up by itself, while nobody can reach it
                assert time.monotonic() < deadline
                time.sleep(0.5)
        finally:
            rig.heal(rig.b)
        deadline = time.monotonic() + 120
        while (status(rig.a, ct), status(rig.b, ct)) != (RUNNING, GONE) or stage(rig.a, ct):
            assert time.monotonic() < deadline, (status(rig.a, ct), status(rig.b, ct), stage(rig.a, ct))
            time.sleep(0.5)
        still_right(rig.a, ct)
        assert rest(rig.b, ct) == []

    def test_a_killed_helper_disturbs_nobody(self, rig: Rig, new: Callable[[int], int], lazy: None) -> None:
        ct = new(300)
        migration = begin(rig, ct, "--lazy")
        wait_for(lambda: runs_again(rig.b, ct) and strike(rig.b, "bin/vzmigrate", "--serve"), migration)
        migration.communicate(timeout=90)
        deadline = time.monotonic() + 60
        while sorted((status(rig.a, ct), status(rig.b, ct))) != sorted((GONE, RUNNING)) and time.monotonic() < deadline:
            time.sleep(0.1)
        there = rig.b if status(rig.b, ct) == RUNNING else rig.a
        assert status(rig.other(there), ct) == GONE
        still_right(there, ct)


class TestMaxDowntime:
    def test_what_is_foreseen(self, rig: Rig, new: Callable[[int], int]) -> None:
        ct = new(100)
        done = rig.migrate(rig.a, "--online", "--max-downtime", "100", ct)
        assert done.returncode == 8 and "It would be frozen for about" in done.stderr, done.stdout + done.stderr
        assert "--max-downtime allows 100" in done.stderr
        assert (status(rig.a, ct), status(rig.b, ct)) == (RUNNING, GONE)
        still_right(rig.a, ct)
        assert rest(rig.b, ct) == []

    def test_what_is_not(self, rig: Rig, new: Callable[[int], int]) -> None:
        """The other side stands still: it is let go when its time is up."""
        ct = new(1)
        criu = os.path.realpath(os.path.join(os.path.dirname(__file__), "../../.prefix/criu/sbin/criu"))
        script = rig.b.path("/vz/slow-criu")
        script.write_text(f'#!/bin/sh\n[ "$1" != page-server ] || exec sleep 100\nexec {rig.b.home}/criu "$@"\n')
        script.chmod(0o755)
        ok(
            rig.b,
            "sh",
            "-c",
            f"touch {rig.b.home}/criu && mount --bind {criu} {rig.b.home}/criu && mount --bind /vz/slow-criu {criu}",
        )
        try:
            done = rig.migrate(rig.a, "--online", "--max-downtime=5000", ct)
        finally:
            ok(rig.b, "sh", "-c", f"umount {criu} && umount {rig.b.home}/criu")
        assert done.returncode == 8 and "It has been frozen for 5000 ms" in done.stderr, done.stdout + done.stderr
        assert (status(rig.a, ct), status(rig.b, ct)) == (RUNNING, GONE)
        still_right(rig.a, ct)
        assert rest(rig.b, ct) == []

    @pytest.mark.parametrize("word", ["0", "-1", "1.5", "x", "99999999999"])
    def test_bad_values(self, rig: Rig, word: str) -> None:
        done = rig.migrate(rig.a, "--online", f"--max-downtime={word}", 1)
        assert done.returncode == 1 and "Bad argument for --max-downtime" in done.stderr

    def test_without_online(self, rig: Rig) -> None:
        for option in ("--lazy", "--no-lazy", "--max-downtime=5"):
            done = rig.migrate(rig.a, option, 1)
            assert done.returncode == 1 and "goes with --online only" in done.stderr


def test_lazy_where_it_is_not_to_be_had(rig: Rig, new: Callable[[int], int]) -> None:
    with open("/proc/sys/vm/unprivileged_userfaultfd") as file:
        if file.read().strip() == "1":
            pytest.skip("this host lets everybody use userfaultfd")
    ct = new(1)
    done = rig.migrate(rig.a, "--online", "--lazy", ct)
    assert done.returncode == 1 and "sysctl vm.unprivileged_userfaultfd=1" in done.stderr, done.stdout + done.stderr
    assert (status(rig.a, ct), status(rig.b, ct)) == (RUNNING, GONE)


def begin(rig: Rig, ct: int, *words: str) -> subprocess.Popen[str]:
    argv = rig.migrate_argv(rig.a, "--online", *words, ct)
    return rig.a.popen(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stage(node: Node, ct: int) -> str:
    try:
        lines = node.path(f"/var/lib/vzctl/journal/{ct}").read_text().splitlines()
    except OSError:
        return ""
    return next((line[6:] for line in lines if line.startswith("stage=")), "")


def runs_again(node: Node, ct: int) -> bool:
    """Tell whether it has been let go over there: its dump is retired."""
    return node.path(f"/vz/dump/Dump.{ct}.in.gone").exists()


def strike(node: Node, *words: str) -> int:
    """Kill the processes of *node* whose command line has all of *words*; return how many there were."""
    pids = processes(node, *words)
    kill(pids)
    return len(pids)


def wait_for(condition: Callable[[], object], migration: subprocess.Popen[str]) -> None:
    while not condition():
        assert migration.poll() is None, ("it went by unseen", migration.communicate())
        time.sleep(0.001)
