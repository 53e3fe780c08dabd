"""vzctl check --migrate, and what every live migration looks at first: all that would fail, before anything is frozen."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import vz.ops.migrate.serve
from conftest import BUSYBOX, left_at_last
from rig import Rig, ok
from testnode import TREE, Node, programs

_ids = itertools.count(6501)
ADDRESS, ADDRESS6 = "192.0.2.46", "2001:db8::46"
SUBSTITUTE = "/vz/substitute"


@pytest.fixture
def ct(rig: Rig) -> Iterator[int]:
    """A running CT with addresses on the first node."""
    ctid = next(_ids)
    ok(rig.a, "vzctl", "create", ctid, "--ostemplate", BUSYBOX, "--ipadd", ADDRESS, "--ipadd", ADDRESS6)
    ok(rig.a, "vzctl", "start", ctid)
    yield ctid
    rig.a.run("vzctl", "stop", str(ctid), "--fast")
    rig.a.run("vzctl", "destroy", str(ctid))
    assert left_at_last(rig.b, ctid) == []


@pytest.fixture
def check(rig: Rig, ct: int) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what asks the other node about the CT."""

    def asked(*words: str) -> subprocess.CompletedProcess[str]:
        return rig.a.run("vzctl", "check", str(ct), f"--ssh={rig.ssh_options(rig.a)}", *words)

    return lambda: asked("--migrate", rig.b.address4)


@contextmanager
def instead(node: Node, path: str, text: str | None = None) -> Iterator[None]:
    """Put a file with *text* in the place of *path* on *node*; None: something that is no program."""
    source = "/dev/null"
    if text is not None:
        source = SUBSTITUTE
        node.path(source).write_text(text)
    ok(node, "mount", "--bind", source, path)
    try:
        yield
    finally:
        ok(node, "umount", path)


def meminfo(**kilobytes: int) -> str:
    lines = []
    for line in Path("/proc/meminfo").read_text().splitlines():
        name = line.split(":")[0]
        lines.append(f"{name}: {kilobytes[name]} kB" if name in kilobytes else line)
    return "\n".join(lines) + "\n"


def test_nothing_in_the_way(rig: Rig, ct: int, check: Callable[[], subprocess.CompletedProcess[str]]) -> None:
    done = check()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Container {ct} can be migrated live to {rig.b.address4}\n"
    assert ok(rig.a, "vzctl", "status", ct).endswith("running\n")
    assert ok(rig.b, "vzctl", "status", ct).split()[2:] == ["deleted", "unmounted", "down"]
    done = rig.a.run("vzctl", "check", str(ct), "--migrate")
    assert (done.returncode, done.stderr) == (0, "")
    first, *needs = done.stdout.splitlines()
    assert first == f"Container {ct} can be migrated live to a node that has"
    for words in (
        "criu ",
        "tar, gzip, ip",
        "MB of memory free",
        f"template {BUSYBOX}",
        f"address {ADDRESS},",
        "processor",
    ):
        assert any(words in line for line in needs), (words, needs)


@contextmanager
def brought_in(node: Node, ct: int) -> Iterator[None]:
    """Have a process in the CT that came from outside."""
    visitor = node.popen("vzctl", "exec", str(ct), "sleep 600", stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while "sleep" not in node.run("vzctl", "exec", str(ct), "cat /proc/[0-9]*/comm").stdout:
            assert time.monotonic() < deadline
        yield
    finally:
        node.run("vzctl", "exec", str(ct), "killall sleep")
        visitor.wait(timeout=20)


def test_all_of_it_is_said_at_once(rig: Rig, ct: int, check: Callable[[], subprocess.CompletedProcess[str]]) -> None:
    """Both sides are asked whatever the other has said; nothing is frozen, nothing made."""
    ok(rig.a, "vzctl", "set", ct, "--ram", "8T", "--swap", "0", "--save")
    rig.client("ip", "addr", "add", f"{ADDRESS}/32", "dev", "lan")
    rig.client("ip", "-6", "addr", "add", f"{ADDRESS6}/128", "dev", "lan", "nodad")
    try:
        with (
            brought_in(rig.a, ct),
            instead(rig.b, os.path.realpath("/usr/bin/tar")),
            instead(rig.b, "/proc/meminfo", meminfo(MemAvailable=50 << 10, SwapFree=0)),
        ):
            done = check()
            migration = rig.migrate(rig.a, "--online", "--check-only", ct)
    finally:
        rig.client("ip", "addr", "del", f"{ADDRESS}/32", "dev", "lan")
        rig.client("ip", "-6", "addr", "del", f"{ADDRESS6}/128", "dev", "lan")
    assert done.returncode == 16 and done.stderr == ""
    lines = done.stdout.splitlines()
    mac = rig.client("ip", "-br", "link", "show", "lan").stdout.split()[2]
    wanted = [
        ("process sleep", "was brought in by vzctl exec"),
        ("tar is not installed on the destination node",),
        ("has 50 MB of memory and swap free, the container needs 1", "--nodeps=memory"),
        ("may use 8388608 MB of memory, the destination node has", "set --ram to less"),
        (f"address {ADDRESS} is in use by another host", f"{mac} answered", "--nodeps=address"),
        (f"address {ADDRESS6} is in use by another host", f"{mac} answered"),
    ]
    for words in wanted:
        assert sum(all(word in line for word in words) for line in lines) == 1, (words, lines)
    assert len(lines) == len(wanted), lines
    assert migration.returncode == 8, migration.stderr  # the first one's
    said = [line.removeprefix("Error: ") for line in migration.stderr.splitlines()]
    assert sorted(said) == sorted(line.partition(" (vzmigrate --nodeps=")[0] for line in lines)
    assert ok(rig.a, "vzctl", "status", ct).endswith("running\n")


def test_what_may_be_ignored(rig: Rig, ct: int) -> None:
    rig.client("ip", "addr", "add", f"{ADDRESS}/32", "dev", "lan")
    try:
        with instead(rig.b, "/proc/meminfo", meminfo(MemAvailable=50 << 10, SwapFree=0)):
            done = rig.migrate(rig.a, "--online", "--check-only", ct)
            assert done.returncode == 7 and "MB of memory and swap free" in done.stderr, done.stderr
            done = rig.migrate(rig.a, "--online", "--check-only", "--nodeps=memory", ct)
            assert done.returncode == 12 and f"Error: address {ADDRESS} is in use by another" in done.stderr
            assert "Warning: the destination node has 50 MB" in done.stderr
            done = rig.migrate(rig.a, "--online", "--check-only", "--nodeps=memory,address", ct)
            assert done.returncode == 0 and done.stderr.count("Warning: ") == 2, done.stderr
        # offline it is the same for the address, and a start there would not be refused for its memory
        done = rig.migrate(rig.a, "--check-only", ct)
        assert done.returncode == 12 and done.stderr.count("\n") == 1
        # a node that never asks its neighbours does not begin here
        conf = rig.b.path("/etc/vz/vz.conf")
        old = conf.read_text()
        conf.write_text(old + "SKIP_ARPDETECT=yes\n")
        try:
            assert rig.migrate(rig.a, "--check-only", ct).returncode == 0
        finally:
            conf.write_text(old)
    finally:
        rig.client("ip", "addr", "del", f"{ADDRESS}/32", "dev", "lan")


def test_clocks_that_differ_are_a_warning(
    rig: Rig, ct: int, check: Callable[[], subprocess.CompletedProcess[str]]
) -> None:
    source = Path(vz.ops.migrate.serve.__file__).resolve()
    text = source.read_text()
    slow = text.replace('{"time": time.time()}', '{"time": time.time() - 100}')
    assert slow != text
    with instead(rig.b, str(programs() / source.relative_to(TREE)), slow):
        done = check()
        assert done.returncode == 0
        assert "Warning: the clock of the destination node is 100 s behind this node's" in done.stdout, done.stdout
        done = rig.migrate(rig.a, "--online", "--check-only", ct)
        assert done.returncode == 0 and done.stderr.startswith("Warning: the clock of the destination node")


def test_words_and_states_that_make_no_sense(rig: Rig, ct: int) -> None:
    for words, code, text in (
        (["--migrate", "a b"], 21, "Bad parameter for --migrate: a b"),
        (["--migrate="], 21, "Bad parameter for --migrate"),
        (["--migrate=-oProxyCommand=x"], 21, "Bad parameter for --migrate"),
        (["--migrate", "one", "two"], 20, "Invalid extra arguments: two"),
        (["--ssh=-p 22"], 20, "--ssh goes with --migrate HOST"),
        (["--migrate", "one", "--ssh"], 21, "--ssh needs a value"),
        (["--moon"], 20, "Unknown option --moon"),
    ):
        done = rig.a.run("vzctl", "check", str(ct), *words)
        assert (done.returncode, done.stdout) == (code, "") and text in done.stderr, (words, done.stderr)
    done = rig.a.run("vzctl", "check", str(ct), "--migrate", rig.b.address4, "--ssh=-F none -i /nonexistent")
    assert done.returncode == 16 and done.stdout.startswith(f"Can't connect to root@{rig.b.address4}"), done.stdout
    ok(rig.a, "vzctl", "stop", ct, "--fast")
    for words in (["--migrate"], ["--migrate", rig.b.address4]):
        done = rig.a.run("vzctl", "check", str(ct), *words)
        assert done.returncode == 31 and done.stdout == "", done.stdout
