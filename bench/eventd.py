#!/usr/bin/python3
"""What the node daemon costs: idle beside many idle CTs, and a start through it beside one without.

    bench/eventd.py [CTS] [--seconds S] [--starts ROUNDS]

CPU time is that of the daemon, its workers and of children they had over S seconds in which nothing happens, memory what
all of them hold, shared pages once (PSS).  The CTs have 64 MB of RAM and as much virtual swap.  Starts with and without the daemon, four of each in a round, are interleaved; the medians are printed.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time

TREE = os.path.normpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
sys.path.insert(0, f"{TREE}/tests")
sys.dont_write_bytecode = True
from testnode import Node  # noqa: E402

TEMPLATE = f"busybox-{os.uname().machine}"
TICKS = os.sysconf("SC_CLK_TCK")
ENV = {
    "PATH": "/vz/installed/usr/local/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}


def run(node: Node, *words: object) -> None:
    argv = node.argv(*map(str, words))
    subprocess.run(argv, env=ENV, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def daemon(node: Node) -> int:
    run(node, "vzeventd")
    return int(node.path("/run/vz/eventd.pid").read_text())


def end(node: Node, pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    while node.path("/run/vz/eventd").exists():
        time.sleep(0.01)


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return sum(int(word) for word in stat.read().rpartition(")")[2].split()[11:15]) / TICKS


def all_of(pid: int) -> list[int]:
    """Return the daemon's pid and its workers'."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as text:
        children = [int(word) for word in text.read().split()]
    found = [pid]
    for child in children:
        with open(f"/proc/{child}/comm", encoding="ascii") as text:
            if text.read().startswith("vz-"):
                found.append(child)
    return found


def held_mb(pid: int) -> float:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as text:
        return int(next(line for line in text if line.startswith("Pss:")).split()[1]) / 1024


def idle(node: Node, pid: int, what: str, seconds: float) -> None:
    time.sleep(6)
    pids = all_of(pid)
    spent, began = sum(map(cpu_s, pids)), time.monotonic()
    time.sleep(seconds)
    share = (sum(map(cpu_s, pids)) - spent) / (time.monotonic() - began)
    print(
        f"{what}: {100 * share:.2f} % of a core over {seconds:.0f} s, {sum(map(held_mb, pids)):.1f} MB in {len(pids)} processes",
        flush=True,
    )


def start_ms(node: Node, ctid: int) -> float:
    began = time.monotonic()
    run(node, "vzctl", "start", ctid)
    took = 1000 * (time.monotonic() - began)
    run(node, "vzctl", "stop", ctid, "--fast")
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cts", nargs="?", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()
    with Node() as node:
        subprocess.run(
            [f"{TREE}/tools/install", node.home / "vz/installed", "/usr/local"], check=True, stdout=subprocess.DEVNULL
        )
        run(node, "vzctl", "create", 100, "--ostemplate", TEMPLATE)
        with_daemon, without = [], []
        for _ in range(options.starts):
            without += [start_ms(node, 100) for _ in range(4)]
            pid = daemon(node)
            with_daemon += [start_ms(node, 100) for _ in range(4)]
            end(node, pid)
        print(
            f"start: {statistics.median(without):.1f} ms without the daemon, {statistics.median(with_daemon):.1f} ms by it (medians of {len(without)}; {min(without):.1f} and {min(with_daemon):.1f} at best)"
        )
        pid = daemon(node)
        idle(node, pid, "no CT", options.seconds)
        for ctid in range(101, 101 + options.cts):
            run(node, "vzctl", "create", ctid, "--ostemplate", TEMPLATE)
            run(node, "vzctl", "set", ctid, "--ram", "64M", "--swap", "64M", "--save")
            run(node, "vzctl", "start", ctid)
        idle(node, pid, f"{options.cts} idle CTs, its children", options.seconds)
        os.kill(pid, signal.SIGKILL)
        pid = daemon(node)
        idle(node, pid, f"{options.cts} idle CTs, after kill -9 and a new start", options.seconds)
        end(node, pid)


main()
