"""Rule 12 of the isolation rules, limits that always exist; and what two CTs share, and what never."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from conftest import Vz, template
from testnode import Node

PERL_FILL = (
    """perl -e '$n = 0; while (($f = syscall(%s)) >= 0) { $n++; last if $n > 99999 } printf "%%d %%d", $n, $!+0'"""
)
INOTIFY_INIT1, EMFILE = 294, 24


def limit(node: Node, ctid: int, controller: str, *names: str) -> str:
    """Return the text of the first of the cgroup files *names* of the CT that there is, on either cgroup version."""
    tops = (Path(f"/sys/fs/cgroup/{controller}/{node.cgroup_parent}/{ctid}"),)
    tops += (Path(f"/sys/fs/cgroup/{node.cgroup_parent}/{ctid}/ct"),)
    return next((top / name).read_text().strip() for top in tops for name in names if (top / name).exists())


def test_rule12_limits_exist_where_the_conf_says_nothing(vz: Vz, node: Node, ctid: int) -> None:
    node.path("/etc/vz/conf/ve-empty.conf-sample").write_text("")
    vz.ok("create", ctid, "--ostemplate", "busybox-" + os.uname().machine, "--config", "empty")
    try:
        conf = node.path(f"/etc/vz/conf/{ctid}.conf").read_text()
        assert not any(key in conf for key in ("NUMPROC", "PHYSPAGES", "PRIVVMPAGES", "CPUUNITS"))
        vz.ok("start", ctid)
        assert int(limit(node, ctid, "pids", "pids.max")) == 8192
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
        assert int(limit(node, ctid, "memory", "memory.max", "memory.limit_in_bytes")) < total
        assert 1 <= int(limit(node, ctid, "cpu", "cpu.weight", "cpu.shares")) <= 1024
        assert "max=1024" in vz("exec", ctid, "grep /dev/pts /proc/mounts").stdout
    finally:
        vz.remove(ctid)
        node.path("/etc/vz/conf/ve-empty.conf-sample").unlink()


def test_rule12_a_fork_bomb_stays_inside(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--numproc", "50")
    vz.sh(ctid, "(b() { b | b & }; b) >/dev/null 2>&1; sleep 1", timeout=30)
    held = int(vz.run("vzlist", "-H", "-o", "numproc", ctid).stdout)
    assert held <= 50
    assert vz("stop", ctid, "--fast", timeout=30).returncode == 0


def test_rule12_a_tmpfs_counts_as_memory(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--ram", "32M", "--swap", "0")
    script = "mount -t tmpfs -o size=1g big /mnt; head -c 200000000 /dev/zero > /mnt/f; wc -c < /mnt/f"
    done = vz("exec2", ctid, "-", stdin=script)
    # with its memory full of that file, wc or the shell may find no room to run in, and be killed as head was
    killed = "Killed" in done.stderr or "Got signal 9" in done.stderr
    assert int(done.stdout or 0) < 40 << 20 and (done.stdout or killed), (done.stdout, done.stderr)


def test_rule12_inotify_of_one_ct_is_not_all_of_the_nodes(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86_64 system call numbers")
    ctid = new_ct(template=template("debian-12"))
    node_limit = int(Path("/proc/sys/user/max_inotify_instances").read_text())
    made, why = map(
        int, vz("exec", ctid, "ulimit -n $(ulimit -Hn); " + PERL_FILL % f"{INOTIFY_INIT1}, 0").stdout.split()
    )
    assert why == EMFILE and 0 < made <= max(node_limit // 4, min(node_limit // 2, 128)), (made, why)
    other = new_ct(template=template("debian-12"))
    assert vz("exec", other, PERL_FILL.replace("99999", "1") % f"{INOTIFY_INIT1}, 0").stdout.startswith("2 ")


def test_rule12_terminals_end_at_numpty(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(template=template("debian-12"), start=False)
    conf = vz.node.path(f"/etc/vz/conf/{ctid}.conf")
    conf.write_text(conf.read_text() + 'NUMPTY="5"\n')
    vz.ok("start", ctid)
    script = 'perl -e \'for (1..20) { open($f[$_], "+<", "/dev/ptmx") or last; $n++ } print $n\''
    assert vz("exec", ctid, script).stdout == "5"


@pytest.mark.parametrize(
    "name",
    "kernel/shmmax kernel/shmall kernel/msgmni kernel/sem net/ipv4/tcp_rmem "
    "user/max_inotify_watches user/max_inotify_instances".split(),
)
def test_rule12_limits_in_proc_sys_are_read_only(vz: Vz, ct: int, name: str) -> None:
    if not os.path.exists(f"/proc/sys/{name}"):
        pytest.skip(f"needs /proc/sys/{name}")
    assert "Read-only" in vz.sh(ct, f"echo 1 > /proc/sys/{name}")


def test_rule03_locks_and_ipc_of_two_cts_never_meet(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    debian = template("debian-12")
    one, two = new_ct(template=debian), new_ct(template=debian)
    hold = 'perl -e \'use Fcntl qw(:flock); open(F, ">>", "/etc/issue"); $| = 1; print flock(F, LOCK_EX|LOCK_NB) ? "got" : "busy"; close(STDOUT); sleep 60\''
    wait = "i=0; until [ -s /root/held ] || [ $i = 200 ]; do sleep 0.05; i=$((i+1)); done; cat /root/held"
    assert vz("exec", one, f"{hold} > /root/held 2>&1 & {wait}").stdout == "got"
    assert vz("exec", one, hold.replace("sleep 60", "sleep 0")).stdout == "busy"
    assert vz("exec", two, hold.replace("sleep 60", "sleep 0")).stdout == "got"
    make = 'perl -e \'print defined(shmget(4711, 4096, 0666|01000)) ? "made" : "no"\''
    find = 'perl -e \'print defined(shmget(4711, 4096, 0)) ? "found" : "none"\''
    assert vz("exec", one, make).stdout == "made"
    assert vz("exec", one, find).stdout == "found"
    assert vz("exec", two, find).stdout == "none"


def test_a_page_of_libc_is_in_memory_once(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """Twenty CTs of one template, by the page frames that /proc/PID/pagemap has for the code of libc in their init."""
    debian = template("debian-12")
    seen = [code_frames(vz, node, new_ct(template=debian)) for _ in range(20)]
    shared = set(seen[0]).intersection(*seen)
    assert len(shared) > 10
    for index in shared:
        assert len({frames[index] for frames in seen}) == 1


def code_frames(vz: Vz, node: Node, ctid: int) -> dict[int, int]:
    """Return {page of libc's code: page frame number} of a CT's init, which is given time to use libc."""
    pid = node.path(f"/var/lib/vzctl/vepid/{ctid}").read_text().strip()
    found: dict[int, int] = {}
    for _ in range(200):
        lines = vz.run("cat", f"/proc/{pid}/maps").stdout.splitlines()
        ranges = [line.split()[0] for line in lines if "r-xp" in line and "libc.so.6" in line]
        if ranges:
            first, last = (int(word, 16) // 4096 for word in ranges[0].split("-"))
            with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
                pagemap.seek(first * 8)
                entries = memoryview(pagemap.read((last - first) * 8)).cast("Q")
            present = {index: entry & ((1 << 55) - 1) for index, entry in enumerate(entries) if entry >> 63}
            if present and not any(present.values()):
                pytest.skip("needs CAP_SYS_ADMIN in the first user namespace to read page frame numbers")
            if len(present) > len(found):
                found = present
            elif len(found) > 50:
                return found
        time.sleep(0.05)
    return found
