"""vzmigrate --online: processes, memory and connections go along, and whatever fails leaves the CT where it was."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import BUSYBOX, SOAK, rest, template
from probes import build
from rig import GONE, RUNNING, Rig, inside, ok, processes, status
from testnode import Node

_ids = itertools.count(8001)
ADDRESS = "192.0.2.41"
LIMIT_S = 120.0
# a server that counts what it is sent, in memory only, and answers with the count
SERVER = """
setsid perl -e '
use IO::Socket::INET; $| = 1;
$s = IO::Socket::INET->new(LocalPort => 7777, Listen => 5, ReuseAddr => 1) or die;
$n = 0; $pad = join("", map { chr(int(rand(256))) } 1 .. 1e6); $sum = unpack("%32C*", $pad);
while ($c = $s->accept) {
  while (defined($l = <$c>)) { $n++; $ok = unpack("%32C*", $pad) == $sum ? "ok" : "bad"; print $c "$n $ok $l"; }
}' </dev/null >/dev/null 2>&1 &
"""
# talks to it every 10 ms over one connection, and prints the longest wait
CLIENT = """
import socket, sys, time
until = time.monotonic() + 20
while True:
    try:
        sock = socket.create_connection((sys.argv[1], 7777), 20)
        break
    except ConnectionRefusedError:
        if time.monotonic() > until:
            raise
        time.sleep(0.05)
sock.settimeout(60)
stream = sock.makefile("rwb", buffering=0)
longest, count = 0.0, 0
print("connected", flush=True)
import select
while not select.select([sys.stdin], [], [], 0.01)[0]:
    begun = time.monotonic()
    stream.write(b"line %d\\n" % count)
    answer = stream.readline()
    count += 1
    assert answer == b"%d ok line %d\\n" % (count, count - 1), (count, answer)
    longest = max(longest, time.monotonic() - begun)
print(count, round(longest, 2), flush=True)
"""


class Talk:
    """The client's connection to the server in the CT."""

    def __init__(self, rig: Rig) -> None:
        argv = rig.client_argv(sys.executable, "-c", CLIENT, ADDRESS)
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "connected\n":
            raise AssertionError(self.process.communicate()[1])

    def end(self) -> tuple[int, float]:
        """Return (how many lines went there and back, the longest wait in seconds)."""
        out, errors = self.process.communicate("\n", timeout=LIMIT_S)
        assert self.process.returncode == 0, errors
        count, longest = out.split()
        return int(count), float(longest)


@pytest.fixture
def talk(rig: Rig) -> Iterator[Callable[[], Talk]]:
    """Return what opens the client's connection."""
    made: list[Talk] = []

    def begin() -> Talk:
        made.append(Talk(rig))
        return made[-1]

    yield begin
    for one in made:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def new(rig: Rig) -> Iterator[Callable[..., int]]:
    made: list[int] = []

    def make(*options: object, template: str = BUSYBOX, layout: str = "overlay") -> int:
        ctid = next(_ids)
        made.append(ctid)
        ok(rig.a, "vzctl", "create", ctid, "--ostemplate", template, "--layout", layout, "--ipadd", ADDRESS)
        if options:
            ok(rig.a, "vzctl", "set", ctid, *options, "--save")
        ok(rig.a, "vzctl", "start", ctid, "--wait")
        return ctid

    yield make
    for ctid in made:
        for node in (rig.a, rig.b):
            for words in (("stop", ctid, "--fast"), ("umount", ctid), ("destroy", ctid)):
                node.run("vzctl", *(str(word) for word in words))
            node.run("sh", "-c", f"rm -f /etc/vz/conf/{ctid}.*")


@pytest.mark.timeout(1800 if SOAK else 300)
@pytest.mark.parametrize("layout", ["overlay", "simfs"])
@pytest.mark.parametrize("system", ["debian-12", "debian-13", "debian-12-sysvinit"])
def test_there_and_back_with_a_connection(
    rig: Rig, new: Callable[..., int], talk: Callable[[], Talk], system: str, layout: str
) -> None:
    if layout == "simfs" and system != "debian-12":
        pytest.skip("one system is enough for it")
    ct = new(template=template(system), layout=layout)
    systemd = "sysvinit" not in system
    inside(rig.a, ct, SERVER + "echo x > /root/file; ln /root/file /root/link; mkdir /run/own; echo y > /run/own/file")
    pids = inside(rig.a, ct, "pidof perl cron sshd")
    talking = talk()
    for number in range(40 if SOAK else 2):
        source, target = (rig.a, rig.b) if number % 2 == 0 else (rig.b, rig.a)
        inside(source, ct, f"echo {number} > /root/number; echo {number} > /root/one{number}")
        done = rig.migrate(source, "--online", ct)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[0] == f"Starting live migration of CT {ct} to {target.address4}"
        assert done.stdout.splitlines()[-1].startswith(f"Container {ct} is running on {target.address4}; it was frozen")
        assert status(source, ct) == GONE and rest(source, ct) == []
        assert status(target, ct) == RUNNING
        assert inside(target, ct, "cat /root/number /root/link /run/own/file").split() == [str(number), "x", "y"]
        assert inside(target, ct, "cat /root/one* | wc -l").strip() == str(number + 1)
        assert inside(target, ct, "pidof perl cron sshd") == pids
        if systemd:
            assert inside(target, ct, "systemctl is-system-running").strip() == "running"
    count, longest = talking.end()
    assert count > 2  # each of them checked; how many depends on the client's retransmission timer
    print(f"{system} {layout}: {count} lines, longest wait {longest} s")
    if systemd:
        assert inside(target, ct, "systemctl restart cron && systemctl is-active cron").strip() == "active"
    ok(target, "vzctl", "stop", ct)
    ok(target, "vzctl", "start", ct)


# sends a numbered datagram every 20 ms, and prints which had no answer
ASKER = """
import select, socket, sys, time
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], 7778))
sock.setblocking(False)
sent, answered = 0, []
print("ready", flush=True)
ends = None
while ends is None or time.monotonic() < ends:
    if ends is None:
        sent += 1
        sock.send(b"%d" % sent)
    if select.select([sys.stdin], [], [], 0.02)[0] and ends is None:
        ends = time.monotonic() + 2
    try:
        while True:
            answered.append(int(sock.recv(100).split()[1]))
    except BlockingIOError:
        pass
print(sent, len(answered) - len(set(answered)), *sorted(set(range(1, sent + 1)) - set(answered)))
"""


@pytest.mark.parametrize("address", [ADDRESS, "2001:db8::41"])
def test_nothing_that_comes_meanwhile_is_lost(rig: Rig, new: Callable[..., int], address: str) -> None:
    ct = new("--ipadd", "2001:db8::41")
    done = rig.a.run(
        "vzctl", "exec2", str(ct), "cat > /root/echo; chmod 755 /root/echo", stdin=build("udpecho").read_bytes()
    )
    assert done.returncode == 0
    inside(rig.a, ct, "setsid /root/echo 7778 </dev/null >/dev/null 2>&1 &")
    argv = rig.client_argv(sys.executable, "-c", ASKER, address)
    asker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None
    assert asker.stdout.readline() == "ready\n"
    time.sleep(0.2)
    for source in (rig.a, rig.b):
        done = rig.migrate(source, "--online", ct)
        assert done.returncode == 0, done.stdout + done.stderr
    sent, twice, *lost = (int(word) for word in asker.communicate("end")[0].split())
    assert sent > 50
    assert twice == 0
    assert len(lost) <= 4, (lost, "at most what came while a lock was being put or taken")


@pytest.mark.parametrize("name", ["busybox", "debian-12"])
def test_other_host_ids_there(rig: Rig, new: Callable[..., int], name: str) -> None:
    ct = new(template=template(name))
    base = _base(rig.a, ct)
    held = rig.b.path(f"/var/lib/vzctl/ids/{base // 65536}")
    held.parent.mkdir(exist_ok=True)
    held.write_text(f"{base} 65536 6001\n")
    try:
        inside(rig.a, ct, "mkdir /run/own; chown 5:6 /run/own; echo x > /root/file; chown 7:8 /root/file")
        inside(rig.a, ct, "setsid sleep 1000 </dev/null >/dev/null 2>&1 &")
        done = rig.migrate(rig.a, "--online", ct)
        assert done.returncode == 0, done.stdout + done.stderr
        assert _base(rig.b, ct) != base
        out = inside(rig.b, ct, "stat -c '%u %g' /run/own /root/file; pidof sleep | wc -w; echo new > /root/new")
        assert out.split()[:5] == ["5", "6", "7", "8", "1"]
        # cgroups: what was the CT's is its again, and what the node's root had made for exec is not
        inside(rig.b, ct, "true")
        top = next(Path("/sys/fs/cgroup").glob(f"**/{rig.b.cgroup_parent}/{ct}/ct"))
        owners = {str(path): path.stat().st_uid for path in (top, *top.rglob("*")) if path.is_dir()}
        assert owners.pop(f"{top}/vz-exec") == 0
        assert set(owners.values()) == {_base(rig.b, ct)}, owners
        if name != "busybox":
            assert len(owners) > 5
            run = "systemd-run -q --wait -p MemoryMax=50M -p TasksMax=20 true && systemctl is-system-running"
            assert inside(rig.b, ct, run) == "running\n"
    finally:
        held.unlink()


def _base(node: Node, ctid: int) -> int:
    for line in node.path(f"/etc/vz/conf/{ctid}.conf").read_text().splitlines():
        if line.startswith("LOCAL_UID="):
            return int(line.split('"')[1])
    raise AssertionError("no LOCAL_UID")


def test_to_a_node_without_the_template(far_rig: Rig) -> None:
    rig, ct = far_rig, next(_ids)
    ok(rig.a, "vzctl", "create", ct, "--ostemplate", BUSYBOX)
    try:
        ok(rig.a, "vzctl", "start", ct)
        inside(rig.a, ct, "setsid sleep 1234 </dev/null >/dev/null 2>&1 &")
        done = rig.migrate(rig.a, "--online", ct)
        assert done.returncode == 0, done.stdout + done.stderr
        assert inside(rig.b, ct, "pidof sleep | wc -w").strip() == "1"
    finally:
        for node in (rig.a, rig.b):
            node.run("vzctl", "stop", str(ct), "--fast")
            node.run("vzctl", "destroy", str(ct))


class TestRefused:
    """The CT runs on, not even frozen."""

    def refused(self, rig: Rig, code: int, text: str, *words: object) -> None:
        done = rig.migrate(rig.a, "--online", *words)
        assert (done.returncode, text in done.stderr) == (code, True), done.stdout + done.stderr
        assert "Traceback" not in done.stderr

    def test_a_stopped_one(self, rig: Rig, new: Callable[..., int]) -> None:
        ct = new()
        ok(rig.a, "vzctl", "stop", ct)
        self.refused(rig, 2, "Can't perform live migration of a stopped container", ct)

    def test_what_cannot_be_dumped_is_named(self, rig: Rig, new: Callable[..., int]) -> None:
        ct = new()
        visitor = rig.a.popen("vzctl", "exec", str(ct), "sleep", "600")
        try:
            deadline = time.monotonic() + 20
            while inside(rig.a, ct, "pidof sleep | wc -w").strip() == "0" and time.monotonic() < deadline:
                time.sleep(0.05)
            self.refused(rig, 8, "was brought in by vzctl exec", ct)
            self.refused(rig, 8, "was brought in by vzctl exec", "--check-only", ct)
        finally:
            visitor.kill()
            visitor.wait()
        assert status(rig.a, ct) == RUNNING and status(rig.b, ct) == GONE

    def test_no_criu_there(self, rig: Rig, new: Callable[..., int]) -> None:
        ct = new()
        criu = ok(rig.a, "sh", "-c", "command -v vzctl").strip()
        criu = os.path.realpath(os.path.join(os.path.dirname(criu), "../.prefix/criu/sbin/criu"))
        if not os.path.exists(criu):
            pytest.skip("needs criu in the tree's own prefix")
        rig.b.run("mount", "--bind", "/dev/null", criu)
        try:
            self.refused(rig, 14, "criu is not installed on the destination node", ct)
        finally:
            rig.b.run("umount", criu)
        assert status(rig.a, ct) == RUNNING


def test_a_restore_that_fails_leaves_it_running_here(
    rig: Rig, new: Callable[..., int], talk: Callable[[], Talk]
) -> None:
    ct = new(template=template("debian-12"))
    inside(rig.a, ct, SERVER)
    talking = talk()
    script = rig.a.path(f"/etc/vz/conf/{ct}.mount")
    script.write_text("#!/bin/sh\n[ $(hostname) = node ]\n")
    script.chmod(0o755)
    done = rig.migrate(rig.a, "--online", ct)
    assert done.returncode == 7, done.stdout + done.stderr
    assert "Failed to restore the container on the destination node" in done.stderr
    assert status(rig.a, ct) == RUNNING and status(rig.b, ct) == GONE
    assert rest(rig.b, ct) == []
    assert [name for name in os.listdir(rig.a.path("/vz/dump")) if str(ct) in name] == []
    time.sleep(0.3)
    assert talking.end()[0] > 1
    assert inside(rig.a, ct, "systemctl is-system-running").strip() == "running"


CASES = [
    ("vzmigrate", "a", "freezing", "a"),
    ("criu", "a", "freezing", "a"),
    ("helper", "a", "freezing", "a"),
    ("vzmigrate", "b", "mine", "b"),
    ("helper", "b", "mine", None),
    ("criu", "b", "mine", "a"),
    ("ssh", "b", "mine", None),
    ("vzmigrate", "a", "leaving", "b"),
    ("everything", "a", "freezing", "a"),
    ("everything", "b", "mine", None),
]


@pytest.mark.parametrize(("who", "node", "stage", "where"), CASES, ids=lambda value: str(value))
def test_killed(rig: Rig, new: Callable[..., int], who: str, node: str, stage: str, where: str | None) -> None:
    ct = new()
    script = rig.a.path(f"/etc/vz/conf/{ct}.mount")
    script.write_text("#!/bin/sh\n[ $(hostname) = node ] || sleep 0.3\n")
    script.chmod(0o755)
    inside(rig.a, ct, "setsid sleep 4321 </dev/null >/dev/null 2>&1 &")
    migration = rig.a.popen(
        *rig.migrate_argv(rig.a, "--online", ct), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    journal = (rig.a if node == "a" else rig.b).path(f"/var/lib/vzctl/journal/{ct}")
    killed = 0
    while migration.poll() is None:
        try:
            seen = f"stage={stage}\n" in journal.read_text()
        except OSError:
            seen = False
        if seen:
            killed = _kill(rig, who, ct, migration.pid)
            if killed:
                break
        time.sleep(0.001)
    assert killed or stage == "leaving", "it went by unseen"
    migration.wait(timeout=LIMIT_S)
    deadline = time.monotonic() + LIMIT_S
    while any(processes(one, "bin/vzmigrate") for one in (rig.a, rig.b)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for one in (rig.b, rig.a):
        assert one.run("vzctl", "umount", str(ct)).returncode in (14, 32, 40)
    states = {one.hostname: status(one, ct) for one in (rig.a, rig.b)}
    assert sorted(states.values()) == [GONE, RUNNING], states
    there = rig.a if states["node"] == RUNNING else rig.b
    assert rest(rig.other(there), ct) == []
    assert inside(there, ct, "pidof sleep | wc -w").strip() == "1"
    rig.client("ping", "-c", "1", "-W", "3", ADDRESS)
    if where and killed:
        assert there is (rig.a if where == "a" else rig.b)


def _kill(rig: Rig, who: str, ct: int, main: int) -> int:
    pids: list[int] = []
    if who in ("vzmigrate", "everything"):
        pids.append(main)
    if who == "everything":  # and the guard
        pids += [pid for pid in processes(rig.a, "bin/vzmigrate", str(ct)) if pid != main]
    if who in ("helper", "everything"):
        pids += processes(rig.b, "python3", "bin/vzmigrate --serve")
    if who in ("criu", "everything"):
        pids += [pid for one in (rig.a, rig.b) for pid in processes(one, "criu/sbin/criu ", str(ct))]
    if who in ("ssh", "everything"):
        pids += [pid for pid in processes(rig.a, "ssh ", "--serve") if "python3" not in _line(pid)]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return len(pids)


def _line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""
