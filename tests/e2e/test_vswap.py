"""VSwap: above its RAM a CT grows at the pace of a disk, below and for page cache at full speed; the sum is the end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

import testnode
from conftest import Vz, template
from daemonrig import Daemon, until
from testnode import Node
from vz.kernel import cgroup

STEP_MB = 8
RAM_MB, SWAP_MB = 128, 160
# takes memory by STEPS of 8 MB, and says how long each took, and last how long it was kept waiting once it had it all: what
# comes quicker than the pacer looks is paid for later; after FIRST of them it waits for /root/go; a child tells the longest
# time for which nothing of the CT ran
HOG = r"""
perl -MTime::HiRes=time,sleep -e '
$| = 1; my @held; my ($steps, $first) = @ARGV;
if (!fork) { open(my $o, ">", "/root/gap"); select($o); $| = 1; my ($most, $last) = (0, time);
  while (getppid() != 1) { sleep 0.005; my $now = time; if ($now - $last > $most) { $most = $now - $last; print "$most\n" } $last = $now }
  exit }
for (1 .. $steps) {
  if ($_ == $first + 1) { print "waiting\n"; sleep 0.02 until -e "/root/go" }
  my $begun = time; vec($held[$_], (8 << 20) - 1, 8) = 1; printf "%.4f\n", time - $begun;
}
my $begun = time; sleep 0.002 for 1 .. 100; my $waited = time - $begun - 0.25; printf "%.4f\n", $waited > 0 ? $waited : 0;
print "end\n"; sleep 600' STEPS FIRST </dev/null >/root/took 2>&1 &
"""


def paced(node: Node, daemon: Daemon, rate_mb: int) -> None:
    conf = node.path("/etc/vz/vz.conf")
    conf.write_text(conf.read_text() + f'VSWAP_RATE="{rate_mb}"\n')
    daemon.start()


@pytest.fixture(autouse=True)
def vz_conf(node: Node) -> Iterator[None]:
    conf = node.path("/etc/vz/vz.conf")
    before = conf.read_text()
    yield
    conf.write_text(before)


@pytest.fixture
def vswap_ct(new_ct: Callable[..., int], vz: Vz) -> int:
    """A Debian CT with 128 MB and 160 MB of swap, that has come to rest."""
    ctid = new_ct("--ram", f"{RAM_MB}M", "--swap", f"{SWAP_MB}M", template=template("debian-12"), start=False)
    vz.ok("start", ctid, "--wait")
    return ctid


def hog(vz: Vz, ctid: int, steps: int, first: int | None = None) -> None:
    vz.sh(ctid, HOG.replace("STEPS", str(steps)).replace("FIRST", str(steps if first is None else first)))


def took(vz: Vz, ctid: int, until_line: str = "end", timeout_s: float = 90) -> list[float]:
    """Return the seconds of each step, once the hog has come to *until_line*."""
    deadline = time.monotonic() + timeout_s
    while until_line not in (lines := vz.sh(ctid, "cat /root/took").split()):
        assert time.monotonic() < deadline, lines
        time.sleep(0.1)
    return [float(line) for line in lines if line[0].isdigit()]


def longest_gap(vz: Vz, ctid: int) -> float:
    return float(vz.sh(ctid, "cat /root/gap").split()[-1])


def written_sectors() -> int:
    """Return what all disks of this machine have written into swap: nothing, where nothing swaps (pswpout)."""
    with open("/proc/vmstat") as file:
        return int(dict(line.split() for line in file)["pswpout"])


def worker(node: Node) -> list[int]:
    """Return the pids of the pacer."""
    assert node.holder is not None
    found = []
    for pid in testnode.processes(node.holder.pid):
        try:
            with open(f"/proc/{pid}/comm") as file:
                if file.read().strip() == "vz-pacer":
                    found.append(pid)
        except OSError:
            continue
    return found


def frozen(node: Node, ctid: int) -> bool:
    """Tell whether the CT stands still for what it has grown."""
    with open(f"{cgroup.hierarchies().unified}/{node.cgroup_parent}/{ctid}/ct/cgroup.freeze") as file:
        return file.read().strip() == "1"


@pytest.mark.parametrize("rate", [80, 20])
def test_above_ram_it_grows_at_the_rate(vz: Vz, node: Node, idle_daemon: Daemon, vswap_ct: int, rate: int) -> None:
    paced(node, idle_daemon, rate)
    swapped = written_sectors()
    steps = (RAM_MB + 96) // STEP_MB
    hog(vz, vswap_ct, steps)
    times = took(vz, vswap_ct)
    print(" ".join(f"{seconds:.3f}" for seconds in times), "gap", longest_gap(vz, vswap_ct))
    last = times[-9:]  # 64 MB, all above RAM whatever the system needs, and what was owed at the end
    assert len(times) == steps + 1
    assert sum(last) > 0.7 * 64 / rate, times
    # below RAM nothing is paid; above it single steps may run ahead and pay later
    assert sum(times[:4]) < sum(last) / 3
    assert written_sectors() == swapped
    if "VZ_TEST_VM" not in os.environ:
        assert sum(last) < 1.5 * 64 / rate, times
        assert rate == 20 or longest_gap(vz, vswap_ct) < 0.5
    held = int(vz.run("vzlist", "-Ho", "swappages", vswap_ct).stdout)
    assert 64 << 8 < held <= SWAP_MB << 8, held


def test_the_end_is_ram_and_swap_together(vz: Vz, node: Node, idle_daemon: Daemon, vswap_ct: int) -> None:
    paced(node, idle_daemon, 400)
    hog(vz, vswap_ct, (RAM_MB + SWAP_MB) // STEP_MB + 2)
    deadline = time.monotonic() + 60
    while vz.sh(vswap_ct, "pgrep perl").strip():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    times = [line for line in vz.sh(vswap_ct, "cat /root/took").split() if line[0].isdigit()]
    assert len(times) * STEP_MB > RAM_MB + SWAP_MB // 2, times
    assert "running" in vz.ok("status", vswap_ct)
    assert not frozen(node, vswap_ct)


def test_page_cache_is_not_paid_for(vz: Vz, node: Node, idle_daemon: Daemon, vswap_ct: int) -> None:
    paced(node, idle_daemon, 10)
    began = time.monotonic()
    vz.sh(
        vswap_ct,
        "for n in 1 2 3; do dd if=/dev/zero of=/root/$n bs=1M count=100 2>/dev/null; cat /root/$n > /dev/null; done",
    )
    spent = time.monotonic() - began
    print(spent)
    vz.sh(vswap_ct, "rm /root/[123]")
    assert spent < (300 - RAM_MB) / 10


def test_files_that_cannot_be_given_back_are_paid_for(vz: Vz, node: Node, idle_daemon: Daemon, vswap_ct: int) -> None:
    """ramfs: memory that is no cache, though the kernel calls it files."""
    rate = 40
    paced(node, idle_daemon, rate)
    vz.sh(vswap_ct, "mkdir -p /run/ram; mount -t ramfs none /run/ram")
    began = time.monotonic()
    vz.sh(vswap_ct, f"dd if=/dev/zero of=/run/ram/x bs=1M count={RAM_MB + 64} 2>/dev/null; sleep 0.3")
    spent = time.monotonic() - began
    print(spent)
    assert spent > 0.7 * 64 / rate
    held = int(vz.run("vzlist", "-Ho", "swappages", vswap_ct).stdout)
    assert held > 64 << 8
    vz.sh(vswap_ct, "umount /run/ram")


@pytest.mark.parametrize("who", ["pacer", "daemon"])
def test_killed_it_leaves_nobody_frozen(vz: Vz, node: Node, idle_daemon: Daemon, vswap_ct: int, who: str) -> None:
    paced(node, idle_daemon, 10)
    first = (RAM_MB + 64) // STEP_MB
    hog(vz, vswap_ct, first + 4, first)
    until(lambda: frozen(node, vswap_ct), lambda: "the CT to stand still")
    pids = worker(node)
    assert len(pids) == 1
    if who == "daemon":  # the pacer hears of it, and lets go
        idle_daemon.kill()
        until(lambda: not worker(node), lambda: "the pacer to end")
        took(vz, vswap_ct, "waiting")
        assert not frozen(node, vswap_ct)
        return
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: worker(node) not in ([], pids), lambda: "another pacer")
    took(vz, vswap_ct, "waiting")
    vz.sh(vswap_ct, "touch /root/go")
    until(lambda: frozen(node, vswap_ct), lambda: "the CT to be slowed again")


def test_a_dead_pacer_s_ct_is_let_go_by_the_next_daemon(vz: Vz, node: Node, idle_daemon: Daemon, vswap_ct: int) -> None:
    """Both are killed at the same moment, the pacer first."""
    paced(node, idle_daemon, 10)
    hog(vz, vswap_ct, (RAM_MB + 96) // STEP_MB)
    until(lambda: frozen(node, vswap_ct), lambda: "the CT to stand still")
    os.kill(idle_daemon.pid, signal.SIGSTOP)
    os.kill(worker(node)[0], signal.SIGKILL)
    idle_daemon.kill()
    assert frozen(node, vswap_ct)
    conf = node.path("/etc/vz/vz.conf")
    conf.write_text(conf.read_text() + 'VSWAP_RATE="400"\n')
    idle_daemon.start()
    took(vz, vswap_ct)


def test_the_rate_holds_after_a_restore(vz: Vz, node: Node, idle_daemon: Daemon, vswap_ct: int) -> None:
    rate, first = 20, (RAM_MB + 24) // STEP_MB
    paced(node, idle_daemon, rate)
    hog(vz, vswap_ct, first + 8, first)
    took(vz, vswap_ct, "waiting")
    vz.ok("chkpnt", vswap_ct)
    vz.ok("restore", vswap_ct)
    vz.sh(vswap_ct, "touch /root/go")
    times = took(vz, vswap_ct)[first:]
    print(times)
    assert len(times) == 9
    assert sum(times) > 0.7 * 64 / rate, times
    if "VZ_TEST_VM" not in os.environ:
        assert sum(times) < 1.5 * 64 / rate, times


def test_ram_is_changed_while_it_runs(vz: Vz, node: Node, idle_daemon: Daemon, vswap_ct: int) -> None:
    """More RAM: full speed at once; less than it holds with its swap: refused, and nothing is changed."""
    paced(node, idle_daemon, 8)
    first = (RAM_MB + 24) // STEP_MB
    hog(vz, vswap_ct, first + 8, first)
    took(vz, vswap_ct, "waiting", 120)
    done = vz("set", vswap_ct, "--ram", "32M", "--swap", "32M")
    assert done.returncode != 0 and "it uses more than that" in done.stderr, done
    vz.ok("set", vswap_ct, "--ram", "400M")
    vz.sh(vswap_ct, "touch /root/go")
    times = took(vz, vswap_ct)[first:]
    assert sum(times) < 64 / 8 / 2, times
