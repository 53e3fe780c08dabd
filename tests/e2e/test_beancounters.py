"""Beancounters of running CTs: what is held is counted, maxima and failures stay, on both cgroup versions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from conftest import Vz, template
from testnode import Node


def counters(vz: Vz, ctid: int) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = json.loads(vz.run("vzlist", "-j", ctid).stdout)[0]
    return found


def held(vz: Vz, ctid: int, name: str) -> int:
    return counters(vz, ctid)[name]["held"]


def until(check: Callable[[], bool]) -> bool:
    for _ in range(100):
        if check():
            return True
        time.sleep(0.1)
    return False


# counter: (a program of Debian 12 that holds so many and says so, how many at least)
HOLDERS = {
    "numfile": ("perl -e 'for (1..200) { open($f[$_], \"<\", \"/dev/null\") } print 1; $|=1; print 1; sleep 60'", 200),
    "numflock": (
        "perl -e 'use Fcntl qw(:flock); for (1..7) { open($f[$_], \">\", \"/tmp/l$_\"); flock($f[$_], LOCK_EX) } "
        "$|=1; print 1; sleep 60'",
        7,
    ),
    "numpty": ("perl -e 'for (1..4) { open($f[$_], \"+<\", \"/dev/ptmx\") } $|=1; print 1; sleep 60'", 4),
    "numsiginfo": (
        "perl -MPOSIX -e '$s = POSIX::SigSet->new; $s->addset($_) for 40..50; sigprocmask(SIG_BLOCK, $s); "
        "for (1..9) { kill(42, $$) } $|=1; print 1; sleep 60'",
        9,
    ),
    "numtcpsock": (
        "perl -MSocket -e 'for (1..6) { socket($f[$_], PF_INET, SOCK_STREAM, 0); listen($f[$_], 1) } "
        "$|=1; print 1; sleep 60'",
        6,
    ),
    "numothersock": (
        # many: a system that has just booted still closes some of its own
        "perl -MSocket -e 'for (1..100) { socket($f[$_], PF_UNIX, SOCK_DGRAM, 0) } $|=1; print 1; sleep 60'",
        100,
    ),
    "privvmpages": ("perl -e '$x = \"x\" x (40 << 20); $|=1; print 1; sleep 60'", (40 << 20) // 4096),
    "shmpages": ("perl -e 'open(F, \">\", \"/dev/shm/f\"); print F \"x\" x (8 << 20); close F; $|=1; print 1; sleep 60'", 2048),
    "othersockbuf": (
        "perl -MSocket -e 'socketpair($a, $b, AF_UNIX, SOCK_STREAM, 0); syswrite($a, \"x\" x 30000); $|=1; print 1; sleep 60'",
        30000,
    ),
    "dgramrcvbuf": (
        "perl -MSocket -e 'socket($a, PF_INET, SOCK_DGRAM, 0); bind($a, sockaddr_in(9, inet_aton(\"127.0.0.1\"))); "
        "socket($b, PF_INET, SOCK_DGRAM, 0); send($b, \"x\" x 20000, 0, sockaddr_in(9, inet_aton(\"127.0.0.1\"))); "
        "$|=1; print 1; sleep 60'",
        20000,
    ),
    "tcprcvbuf": (
        "perl -MSocket -e 'socket($l, PF_INET, SOCK_STREAM, 0); bind($l, sockaddr_in(99, inet_aton(\"127.0.0.1\"))); "
        "listen($l, 5); socket($c, PF_INET, SOCK_STREAM, 0); connect($c, sockaddr_in(99, inet_aton(\"127.0.0.1\"))); "
        "accept($a, $l); syswrite($c, \"x\" x 30000); $|=1; print 1; sleep 60'",
        30000,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def debian(vz: Vz) -> object:
    ctid = 9001
    vz.ok("create", ctid, "--ostemplate", template("debian-12"))
    vz.ok("start", ctid, "--wait")
    yield ctid
    vz.remove(ctid)


@pytest.mark.parametrize("name", HOLDERS)
def test_what_is_held_is_counted_and_its_maximum_stays(vz: Vz, debian: int, name: str) -> None:
    program, most = HOLDERS[name]
    if name in ("othersockbuf", "dgramrcvbuf", "tcprcvbuf", "numtcpsock") and not has_diag(vz):
        pytest.skip("needs INET_DIAG and UNIX_DIAG")
    before = held(vz, debian, name)
    process = vz.node.popen("vzctl", "exec2", str(debian), program, stdout=-1, stdin=-3)
    assert process.stdout is not None
    try:
        assert process.stdout.read(1) == b"1"
        assert until(lambda: held(vz, debian, name) >= before + most * 9 // 10), (
            name,
            before,
            counters(vz, debian)[name],
        )
    finally:
        vz("exec", debian, "pkill perl; rm -f /dev/shm/f")
        process.wait(30)
        process.stdout.close()
    assert until(lambda: held(vz, debian, name) < before + most * 9 // 10)
    assert counters(vz, debian)[name]["maxheld"] >= before + most * 9 // 10


def has_diag(vz: Vz) -> bool:
    return "sock_diag" in vz.run("sh", "-c", "grep -o sock_diag /proc/kallsyms | head -1").stdout


def test_maxima_begin_anew_with_the_ct(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct()
    vz.ok("exec", ctid, "sleep 3 9>/tmp/x & sleep 1")
    assert counters(vz, ctid)["numproc"]["maxheld"] >= 3
    assert vz.node.path(f"/run/vz/{ctid}/ub").exists()
    vz.ok("stop", ctid, "--fast")
    assert not vz.node.path(f"/run/vz/{ctid}/ub").exists()
    vz.ok("start", ctid)
    assert counters(vz, ctid)["numproc"]["maxheld"] < 3


def test_a_refused_fork_counts(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid, other = new_ct("--numproc", "30"), new_ct()
    vz.sh(ctid, "i=0; while [ $i -lt 60 ]; do sleep 2 & i=$((i+1)); done")
    row = counters(vz, ctid)["numproc"]
    assert row["failcnt"] > 0 and row["maxheld"] == row["limit"] == 30
    assert counters(vz, other)["numproc"]["failcnt"] == 0


def test_a_ct_cannot_hold_up_who_counts(vz: Vz, new_ct: Callable[..., int]) -> None:
    """/dev/pts replaced by a link and by another file system: nothing of the node is listed."""
    ctid = new_ct()
    vz.sh(ctid, "umount /dev/pts; rmdir /dev/pts; ln -s /etc /dev/pts")
    assert held(vz, ctid, "numpty") == 0
    vz.sh(ctid, "rm /dev/pts; mkdir /dev/pts; mount -t proc proc /dev/pts")
    assert held(vz, ctid, "numpty") == 0


def test_the_text_of_proc(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--numproc", "77")
    text = vz.run("vzubc", "--proc").stdout
    lines = text.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith(f"{ctid}:".rjust(10) + "  kmemsize"))
    assert lines[0] == "Version: 2.5" and lines[2].startswith("        0:  kmemsize")
    assert lines[at + 5].split()[0] == "numproc" and lines[at + 5].split()[3:5] == ["77", "77"]
    assert vz.run("vzubc", "--write").returncode == 0
    written = node.path("/run/vz/proc/user_beancounters")
    assert written.stat().st_mode & 0o777 == 0o400 and f"{ctid}:  kmemsize" in written.read_text()
    own = node.path(f"/run/vz/proc/bc/{ctid}/resources").read_text().splitlines()
    assert len(own) == 21 and all(len(line.split()) == 6 for line in own)
    vz.ok("stop", ctid, "--fast")
    assert vz.run("vzubc", "--write").returncode == 0
    assert not node.path(f"/run/vz/proc/bc/{ctid}").exists()


def test_the_commands_about_the_node(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--ram", "64M", "--swap", "64M", "--cpuunits", "700")
    assert f"CT {ctid}" in vz.run("vzubc", ctid).stdout
    row = next(line.split() for line in vz.run("vzmemcheck", "-vA").stdout.splitlines() if line.startswith(f"{ctid} "))
    assert row[8] == "128.00"
    assert f"{ctid}\t\t70" in vz.run("vzcpucheck", "-v").stdout
    done = vz.run("vzcalc", "-v", ctid)
    assert done.returncode == 0 and "n/a" in done.stdout.splitlines()[2]
    vz.ok("stop", ctid, "--fast")
    assert vz.run("vzcalc", ctid).stdout.splitlines()[1].split()[1] == "n/a"
    assert vz.run("vzubc", ctid).returncode == 1
    for words, status in (
        (["vzcalc"], 1),
        (["vzcalc", "999999"], 1),
        (["vzcpucheck", "-x"], 2),
        (["vzmemcheck", "-x"], 1),
    ):
        assert vz.run(*words).returncode == status, words


def test_vzsplit_writes_a_sample(vz: Vz, node: Node, ctid: int) -> None:
    done = vz.run("vzsplit", "-f", "shared", stdin="7\n")
    assert (done.returncode, done.stdout) == (
        0,
        "Enter the number of containers: Config /etc/vz/conf/ve-shared.conf-sample was created\n",
    )
    assert vz.run("vzsplit", "-n", "7", "-f", "shared").returncode == 1
    vz.ok("create", ctid, "--ostemplate", template("busybox"), "--config", "shared")
    try:
        assert vz.run("vzlist", "-H", "-o", "vswap", ctid).stdout.strip() == "yes"
    finally:
        vz.remove(ctid)
        node.path("/etc/vz/conf/ve-shared.conf-sample").unlink()
