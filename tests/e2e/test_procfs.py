"""A CT's own /proc, by the server that vzeventd begins: its size, live, and what a killed server leaves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Vz, template
from daemonrig import Daemon, until
from testnode import Node

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")


def server_of(node: Node) -> int:
    """Return the pid of the server, the child of the holder; 0 while there is none."""
    holder = int(node.path("/run/vz/proc.lock").read_text())
    return int(Path(f"/proc/{holder}/task/{holder}/children").read_text() or 0)


@pytest.fixture
def daemon(node: Node) -> Iterator[Daemon]:
    conf = node.path("/etc/vz/vz.conf")
    before = conf.read_text()
    conf.write_text(before + 'PROC_SERVER="yes"\n')
    made = Daemon(node).start()
    yield made
    conf.write_text(before)
    made.stop()
    made.told.unlink(missing_ok=True)
    until(lambda: "vzproc" not in node.run("cat", "/proc/mounts").stdout, lambda: "the holder ends")


def kib(vz: Vz, ctid: int, key: str) -> int:
    text = vz.ok("exec", ctid, "cat /proc/meminfo")
    return int(next(line for line in text.splitlines() if line.startswith(key + ":")).split()[1])


def test_a_ct_sees_its_own_size(vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--ram", "64M", "--swap", "32M", "--cpulimit", "100")
    assert (kib(vz, ctid, "MemTotal"), kib(vz, ctid, "SwapTotal")) == (64 << 10, 32 << 10)
    assert "/dev/vswap" in vz.ok("exec", ctid, "cat /proc/swaps")
    assert vz.ok("exec", ctid, "grep -c ^processor /proc/cpuinfo").strip() == "1"
    assert vz.ok("exec", ctid, "grep -c ^cpu[0-9] /proc/stat").strip() == "1"
    assert vz.ok("exec", ctid, "cat /sys/devices/system/cpu/online").strip() == "0"
    assert float(vz.ok("exec", ctid, "cat /proc/uptime").split()[0]) < 60
    assert len(vz.ok("exec", ctid, "cat /proc/loadavg /proc/vmstat /proc/diskstats").split()) > 9
    vz.ok("set", ctid, "--ram", "128M", "--save")
    time.sleep(0.15)
    assert kib(vz, ctid, "MemTotal") == 128 << 10
    for hostile in ("echo 1 > /proc/meminfo", "chmod 777 /proc/stat", "cat /proc/meminfo/../../102/meminfo"):
        assert vz("exec", ctid, hostile).returncode != 0


def test_a_server_killed_or_stopped_under_reads_is_replaced(
    vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]
) -> None:
    ctid = new_ct()
    reader = node.popen(
        "vzctl", "exec", str(ctid), "for i in 1 2 3 4 5 6 7 8 9; do cat /proc/stat; done | grep -c ^btime"
    )
    for _ in range(5):
        before = server_of(node)
        os.kill(before, signal.SIGKILL)
        until(lambda before=before: server_of(node) not in (0, before), lambda: "another server")  # type: ignore[misc]
    assert reader.wait(30) == 0
    daemon.kill()  # the server stays
    assert kib(vz, ctid, "MemTotal") > 0
    stopped = server_of(node)
    os.kill(stopped, signal.SIGSTOP)
    assert kib(vz, ctid, "MemTotal") > 0
    assert server_of(node) != stopped
    vz.ok("stop", ctid, "--fast")
    daemon.start()


def test_a_dump_with_the_files_open_and_a_restore(
    vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]
) -> None:
    ctid = new_ct("--ram", "64M", "--swap", "0")
    vz.ok("exec", ctid, "setsid sleep 1000 </proc/meminfo >/dev/null 2>&1 &")
    vz.ok("chkpnt", ctid)
    os.kill(server_of(node), signal.SIGKILL)
    vz.ok("restore", ctid)
    assert kib(vz, ctid, "MemTotal") == 64 << 10
    vz.ok("exec", ctid, "kill $(pidof sleep)")  # an open file would be of another size there: criu refuses
    vz.ok("chkpnt", ctid)
    daemon.stop()
    until(lambda: "vzproc" not in node.run("cat", "/proc/mounts").stdout, lambda: "the holder ends")
    vz.ok("restore", ctid)  # without a server: the kernel's own files
    assert kib(vz, ctid, "MemTotal") > 64 << 10
    vz.ok("stop", ctid, "--fast")
    daemon.start()
    vz.ok("start", ctid)
    assert vz.ok("exec", ctid, "cat /sys/devices/system/cpu/online").strip()


def test_a_debian_system_sees_its_size(vz: Vz, node: Node, daemon: Daemon, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--ram", "512M", "--swap", "128M", "--cpus", "1", template=template("debian-12"), start=False)
    vz.ok("start", ctid, "--wait")
    rows = [line.split() for line in vz.ok("exec", ctid, "free -m").splitlines()]
    assert [(row[0], row[1]) for row in rows[1:]] == [("Mem:", "512"), ("Swap:", "128")]
    assert vz.ok("exec", ctid, "nproc").strip() == "1"
    assert "up 0 min" in vz.ok("exec", ctid, "uptime")
    top = vz.ok("exec", ctid, "top -b -n1 | head -5")
    assert "512.0 total" in top and "128.0 total" in top
    begun = float(vz.ok("exec", ctid, "cat /proc/uptime").split()[0])
    vz.ok("chkpnt", ctid)  # services of systemd have mount namespaces with the files in them
    vz.ok("restore", ctid)
    assert kib(vz, ctid, "MemTotal") == 512 << 10
    assert float(vz.ok("exec", ctid, "cat /proc/uptime").split()[0]) > begun
