#!/usr/bin/python3
"""How long a client waits while its CT moves: vzmigrate --online in each way, beside criu's dump, copy and restore.

    bench/migration.py [ROUNDS] [MB ...]

Two test nodes of this host and a client between them, as in the tests.  The CT is Debian 12 with systemd and a program
that rewrites MB megabytes all the time (0: none).  "gap" is the longest time between two answers that the client got over
one TCP connection, asking every 5 ms; "frozen" is what vzmigrate says.  "criu" is the floor: the time of criu's own dump
into a file, of a copy of the images to the other node by rsync and ssh with their defaults, and of criu's restore from
it, by criu's logs; "local" the same with a copy on the same disk, which moves nothing to anybody.  Seconds, medians;
ways and floors take turns.  It needs the template that "make templates" builds.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

TREE = os.path.normpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
sys.path[:0] = [f"{TREE}/tests", f"{TREE}/src"]
sys.dont_write_bytecode = True
from rig import Rig, inside, ok  # noqa: E402
from testnode import Node  # noqa: E402

TEMPLATE = f"debian-12-{os.uname().machine}"
CT, ADDRESS, PORT = 8601, "192.0.2.45", 7000
WAYS = {"all at once": ["--no-lazy"], "afterwards": ["--lazy"]}
SETTINGS = {"vm/unprivileged_userfaultfd": "1", "fs/pipe-max-size": "67108864"}
PERL = r"""
setsid perl -MIO::Socket::INET -e '
my $s = IO::Socket::INET->new(LocalPort => 7000, Listen => 9, ReuseAddr => 1) or die;
while (my $c = $s->accept) { while (sysread($c, my $b, 1)) { syswrite($c, $b) } }' </dev/null >/dev/null 2>&1 &
setsid perl -MTime::HiRes=sleep -e '
my @pad = map { pack("N", $_) x 262144 } 1 .. $ARGV[0];
open(O, ">", "/run/ready"); close(O);
for (my $n = 0; @pad; $n++) {
  substr($pad[$n % @pad], 4096 * (int($n / @pad) % 256), 4) = pack("N", $n);
  sleep 0.0005 unless $n % 4;
}' MEGABYTES </dev/null >/dev/null 2>&1 &
"""
CLIENT = f"""
import select, socket, time
sock = socket.create_connection(("{ADDRESS}", {PORT}))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
sock.settimeout(120)
print("ready", flush=True)
longest, last = 0.0, time.monotonic()
while not select.select([0], [], [], 0.005)[0]:
    sock.send(b"x")
    assert sock.recv(1) == b"x"
    now = time.monotonic()
    longest, last = max(longest, now - last), now
print(longest, flush=True)
"""


def begin(rig: Rig, megabytes: int) -> None:
    ok(rig.a, "vzctl", "create", CT, "--ostemplate", TEMPLATE, "--ipadd", ADDRESS)
    ok(rig.a, "vzctl", "start", CT, "--wait")
    inside(rig.a, CT, PERL.replace("MEGABYTES", str(megabytes)))
    for _ in range(1200):
        if inside(rig.a, CT, "test -e /run/ready && echo yes || true"):
            return
        time.sleep(0.1)
    raise RuntimeError("the memory is not filled")


def end(rig: Rig) -> None:
    for node in (rig.a, rig.b):
        for words in (("stop", CT, "--fast"), ("umount", CT), ("destroy", CT)):
            node.run("vzctl", *(str(word) for word in words))


def move(rig: Rig, source: Node, words: list[str]) -> tuple[float, float]:
    """Move the CT; return (gap, frozen) in seconds."""
    client = subprocess.Popen(
        rig.client_argv(sys.executable, "-c", CLIENT), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None and client.stdout.readline() == "ready\n"
    done = rig.migrate(source, "--online", "-t", *words, CT, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{done.stdout}{done.stderr}")
    time.sleep(0.5)
    out, _ = client.communicate("end")
    frozen = re.findall(r"it was frozen for ([0-9.]+) s", done.stdout)
    return float(out), float(frozen[-1])


def last_stamp(log: Path) -> float:
    return float(re.findall(r"^\(([0-9.]+)\)", log.read_text(errors="replace"), re.M)[-1])


def floor(rig: Rig, node: Node) -> tuple[float, float]:
    """Return the seconds of criu's dump, a copy of the images, to the other node and here, and criu's restore."""
    other = rig.other(node)
    dump = node.path(f"/vz/dump/Dump.{CT}")
    ok(node, "vzctl", "chkpnt", CT)
    seconds = last_stamp(dump / "dump.log")
    began = time.perf_counter()
    copy = shutil.copytree(dump / "images", node.path("/vz/dump/copy"), symlinks=True)
    local = time.perf_counter() - began
    shutil.rmtree(copy)
    ssh = f"ssh -o BatchMode=yes {rig.ssh_options(node)}"
    began = time.perf_counter()
    ok(
        node,
        "rsync",
        "-a",
        "--whole-file",
        "-e",
        ssh,
        f"/vz/dump/Dump.{CT}/images/",
        f"root@{other.address4}:/vz/dump/copy/",
    )
    sent = time.perf_counter() - began
    shutil.rmtree(other.path("/vz/dump/copy"))
    ok(node, "vzctl", "restore", CT, "--undump", "--dumpfile", f"/vz/dump/Dump.{CT}")
    seconds += last_stamp(dump / "restore.log")
    ok(node, "vzctl", "restore", CT, "--resume")
    return seconds + sent, seconds + local


def table(rig: Rig, rounds: int, megabytes: int) -> None:
    begin(rig, megabytes)
    try:
        gaps: dict[str, list[float]] = {way: [] for way in WAYS}
        frozen: dict[str, list[float]] = {way: [] for way in WAYS}
        floors: list[tuple[float, float]] = []
        node = rig.a
        for _ in range(rounds):
            floors.append(floor(rig, node))
            for way, words in WAYS.items():
                gap, still = move(rig, node, words)
                node = rig.other(node)
                gaps[way].append(gap)
                frozen[way].append(still)
        bare, local = (statistics.median(times) for times in zip(*floors, strict=True))
        for way in WAYS:
            gap = statistics.median(gaps[way])
            print(
                f"{megabytes:6} MB  {way:12} gap {gap:6.2f}  ({min(gaps[way]):.2f} to {max(gaps[way]):.2f})"
                f"  frozen {statistics.median(frozen[way]):6.2f}  criu {bare:6.2f}  allowed {1.3 * bare + 0.3:6.2f}"
                f"  local {local:6.2f}  allowed {1.3 * local + 0.3:6.2f}",
                flush=True,
            )
    finally:
        end(rig)


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]]
    rounds, sizes = (numbers or [3])[0], numbers[1:] or [0, 64, 512, 2048]
    before = {}
    for name, value in SETTINGS.items():
        path = Path("/proc/sys", name)
        before[path] = path.read_text()
        path.write_text(value)
    try:
        with Rig() as rig:
            for megabytes in sizes:
                table(rig, rounds, megabytes)
    finally:
        for path, text in before.items():
            path.write_text(text)


if __name__ == "__main__":
    main()
