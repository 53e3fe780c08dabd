"""Beancounters run into: what is refused to a program, with which errno, and what its neighbour notices: nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_beancounters import counters

from conftest import Vz, template
from testnode import Node

UNSAVED = "WARNING: Settings were not saved to config and will be lost after CT restart (use --save flag)\n"
SET = "UB limits were set successfully\n"
EAGAIN, ENOMEM, EMFILE, ENOSPC = 11, 12, 24, 28
x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs x86_64 system call numbers")

# option: (value, program, what it prints where the limit holds)
INTO = {
    "--numfile": (
        "100",
        "perl -e 'for (1..300) { open($f[$_], \"<\", \"/dev/null\") or last; $n = $_ } print $n > 80 && $n < 100, \" \", $!+0'",
        f"1 {EMFILE}",
    ),
    "--lockedpages": ("16", "perl -e 'print syscall(151, 1), \" \", $!+0'", f"-1 {ENOMEM}"),
    "--numsiginfo": (
        "20",
        "perl -MPOSIX -e '$s = POSIX::SigSet->new(42); sigprocmask(SIG_BLOCK, $s); "
        '$i = pack("iiiiiiq", 42, 0, -1, 0, $$, 0, 0) . "\\0" x 96; '
        "for (1..50) { last if syscall(129, $$, 42, $i) < 0; $n = $_ } print $n > 14 && $n < 21, \" \", $!+0'",
        f"1 {EAGAIN}",
    ),
    "--numpty": ("5", "perl -e 'for (1..20) { open($f[$_], \"+<\", \"/dev/ptmx\") or last; $n = $_ } print $n, \" \", $!+0'", f"5 {ENOSPC}"),
    "--privvmpages": ("20000", "perl -e '$x = \"x\" x (100 << 20); print 1' 2>&1 | grep -c 'Out of memory'", "1\n"),
    "--shmpages": (
        "64",
        "perl -e 'print defined(shmget(0, 1 << 20, 0600|01000)) ? 1 : 0, \" \", $!+0, \" \"; "
        "open(F, \">\", \"/dev/shm/big\"); $| = 1; select(F); $| = 1; print F \"x\" x (1 << 20); "
        "print STDOUT $!+0; close F; unlink \"/dev/shm/big\"'",
        f"0 {ENOSPC} {ENOSPC}",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(vz: Vz) -> Iterator[tuple[int, int]]:
    made = (9011, 9012)
    for ctid in made:
        vz.ok("create", ctid, "--ostemplate", template("debian-12"))
        vz.ok("start", ctid, "--wait")
    yield made
    for ctid in made:
        vz.remove(ctid)


@x86_64
@pytest.mark.parametrize("option", INTO)
def test_a_program_runs_into_the_limit_set_live(vz: Vz, pair: tuple[int, int], option: str) -> None:
    value, program, refused = INTO[option]
    ctid, neighbour = pair
    name = option.removeprefix("--")
    assert vz("exec", ctid, program).stdout != refused, "it holds less than the limit before"
    before = counters(vz, ctid)[name]
    assert vz.ok("set", ctid, option, value) == SET + UNSAVED
    assert vz("exec", ctid, program).stdout == refused
    row = counters(vz, ctid)[name]
    assert (row["barrier"], row["limit"], row["failcnt"]) == (int(value), int(value), 0)
    assert vz("exec", neighbour, program).stdout != refused
    assert counters(vz, neighbour)[name]["limit"] == before["limit"]


@x86_64
def test_the_limits_of_the_conf_hold_from_birth(vz: Vz, new_ct: Callable[..., int]) -> None:
    options = [word for option, (value, _, _) in INTO.items() for word in (option, value)]
    ctid = new_ct("--ram", "512M", "--swap", "0", *options, template=template("debian-12"))
    for option, (_, program, refused) in INTO.items():
        assert vz("exec", ctid, program).stdout == refused, option
    limits = vz("exec", ctid, "cat /proc/1/limits").stdout
    words = {line[:25].strip(): line[25:].split() for line in limits.splitlines()}
    assert words["Max open files"][1] == "100" and words["Max locked memory"][:2] == ["65536", "65536"]
    assert words["Max pending signals"][1] == "20" and words["Max data size"][1] == str(20000 * 4096)


SOCKETS = (
    "perl -MSocket -e 'for (1..60) { socket($t[$_], PF_INET, SOCK_STREAM, 0) or last; $n = $_ } $e = $!+0; $! = 0; "
    'for (1..60) { socket($u[$_], PF_INET, SOCK_DGRAM, 0) or last; $m = $_ } print $n, " ", $e, " ", $m, " ", $!+0\''
)


def test_sockets(vz: Vz, new_ct: Callable[..., int]) -> None:
    """The sockets that the CT has already count; refusals are counted; a CT born with the limits has them, too."""
    ctid, neighbour = (new_ct(template=template("debian-12")) for _ in range(2))
    done = vz("set", ctid, "--numtcpsock", "20", "--numothersock", "30")
    if done.stderr:
        assert done.stderr == "WARNING: this kernel cannot enforce, only count: numtcpsock, numothersock\n"
        pytest.skip("needs BPF programs for sockets")
    ENOBUFS = 105
    tcp, why, other, why_other = map(int, vz("exec", ctid, SOCKETS).stdout.split())
    assert (why, why_other) == (ENOBUFS, ENOBUFS)
    assert 10 < tcp <= 20 and 20 < other <= 30
    row = counters(vz, ctid)
    assert row["numtcpsock"]["failcnt"] == row["numothersock"]["failcnt"] == 1
    assert row["numtcpsock"]["maxheld"] == 20 >= row["numtcpsock"]["held"] == 20 - tcp
    assert vz("exec", neighbour, SOCKETS).stdout.split()[::2] == ["60", "60"]
    vz.ok("set", ctid, "--numtcpsock", "unlimited", "--numothersock", "unlimited")
    assert vz("exec", ctid, SOCKETS).stdout.split()[::2] == ["60", "60"]
    options = ("--ram", "256M", "--swap", "0", "--numtcpsock", "9", "--numothersock", "9")
    born = new_ct(*options, template=template("debian-12"))
    tcp, why, _, _ = map(int, vz("exec", born, SOCKETS).stdout.split())
    assert 0 <= tcp <= 9 and why == ENOBUFS


def test_what_is_open_already_counts(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct(template=template("debian-12"))
    hold = "perl -MSocket -e 'for (1..6) { socket($t[$_], PF_INET, SOCK_STREAM, 0) } $|=1; print 1; sleep 60'"
    process = vz.node.popen("vzctl", "exec2", str(ctid), hold, stdout=-1, stdin=-3)
    assert process.stdout is not None and process.stdout.read(1) == b"1"
    before = counters(vz, ctid)["numtcpsock"]["held"]
    if vz("set", ctid, "--numtcpsock", "10").stderr:
        pytest.skip("needs BPF programs for sockets")
    assert counters(vz, ctid)["numtcpsock"]["held"] >= max(6, before)
    assert int(vz("exec", ctid, SOCKETS).stdout.split()[0]) <= 4
    vz("exec", ctid, "pkill perl")
    process.wait(30)
    process.stdout.close()


def test_processes_that_run_already_are_held_too(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct()
    vz.sh(ctid, "sleep 300 & sleep 300 &")
    vz.ok("set", ctid, "--numfile", "64")
    inside = vz("exec", ctid, "cat /proc/[0-9]*/limits").stdout
    assert {line.split()[4] for line in inside.splitlines() if line.startswith("Max open files")} == {"64"}


def test_root_inside_cannot_raise_them(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--ram", "256M", "--swap", "0", "--numfile", "64", "--shmpages", "64")
    script = "ulimit -Hn 65 && echo raised; echo 1000 > /proc/sys/kernel/shmall; cat /proc/sys/kernel/shmall"
    done = vz("exec2", ctid, script)
    assert done.stdout == "64\n" and "Read-only" in done.stderr


def cgroup_text(node: Node, ctid: int, controller: str, name: str) -> str:
    tops = (
        f"/sys/fs/cgroup/{controller}/{node.cgroup_parent}/{ctid}",
        f"/sys/fs/cgroup/{node.cgroup_parent}/{ctid}/ct",
    )
    return next((text for top in tops if (text := read(f"{top}/{name}"))), "")


def read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def test_tcp_memory(vz: Vz, node: Node, ct: int) -> None:
    vz.ok("set", ct, "--tcpsndbuf", "200000:300000", "--tcprcvbuf", "300000:400000")
    assert vz("exec", ct, "cat /proc/sys/net/ipv4/tcp_wmem").stdout.split()[2] == "300000"
    assert vz("exec", ct, "cat /proc/sys/net/ipv4/tcp_rmem").stdout.split()[2] == "400000"
    whole = cgroup_text(node, ct, "memory", "memory.kmem.tcp.limit_in_bytes")
    assert whole in ("", str(700000 // 4096 * 4096))
    vz.ok("set", ct, "--tcpsndbuf", "unlimited")
    assert int(vz("exec", ct, "cat /proc/sys/net/ipv4/tcp_wmem").stdout.split()[2]) >= 300000
    whole = cgroup_text(node, ct, "memory", "memory.kmem.tcp.limit_in_bytes")
    assert whole == "" or int(whole) > 1 << 60


def test_what_is_counted_only_is_said_and_marked(vz: Vz, node: Node, ct: int) -> None:
    done = vz("set", ct, "--kmemsize", "10M:11M", "--numflock", "188:206", "--numfile", "500", "--save")
    assert (done.returncode, done.stdout.splitlines()[0] + "\n") == (0, SET)
    assert done.stderr == "WARNING: this kernel cannot enforce, only count: kmemsize, numflock\n"
    rows = vz.run("vzubc", ct).stdout.splitlines()
    marks = {line.split("|")[0].strip(): line[-2:] for line in rows if "|" in line}
    assert (marks["kmemsize"], marks["numflock"], marks["numfile"]) == (" *", " *", " ~")
    assert marks["numproc"] not in (" *", " ~")
    text = node.path(f"/etc/vz/conf/{ct}.conf").read_text()
    assert 'KMEMSIZE="10485760:11534336"\nNUMFLOCK="188:206"\nNUMFILE="500"\n' in text
    assert vz("set", ct, "--kmemsize", "unlimited").stderr == ""


def test_reset_ub_changes_nothing_where_nothing_has_changed(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--ram", "256M", "--swap", "64M", "--numfile", "500")
    before = vz("exec", ctid, "cat /proc/1/limits").stdout, counters(vz, ctid)["lockedpages"]
    done = vz("set", ctid, "--reset_ub")
    assert (done.returncode, done.stdout, done.stderr) == (0, SET, "")
    assert (vz("exec", ctid, "cat /proc/1/limits").stdout, counters(vz, ctid)["lockedpages"]) == before


def test_ram_leaves_what_was_set_live(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--ram", "256M", "--swap", "64M")
    vz.ok("set", ctid, "--privvmpages", "30000")
    vz.ok("set", ctid, "--ram", "128M", "--swap", "0")
    assert counters(vz, ctid)["privvmpages"]["limit"] == 30000
    assert str(30000 * 4096) in vz("exec", ctid, "grep 'data size' /proc/1/limits").stdout.split()


def test_reset_ub(vz: Vz, ct: int) -> None:
    vz.ok("set", ct, "--numfile", "500", "--numproc", "100", "--numpty", "9", "--save")
    vz.ok("set", ct, "--numfile", "400", "--numproc", "50", "--numpty", "7")
    assert [counters(vz, ct)[name]["limit"] for name in ("numproc", "numpty")] == [50, 7]
    assert "max=7" in vz("exec", ct, "grep /dev/pts /proc/mounts").stdout
    done = vz("set", ct, "--reset_ub")
    if done.returncode == 1:  # a host that may not raise hard limits
        assert "CAP_SYS_RESOURCE" in done.stderr
        return
    assert (done.returncode, done.stdout) == (0, SET)
    assert [counters(vz, ct)[name]["limit"] for name in ("numproc", "numpty", "numfile")] == [100, 9, 500]
    assert "max=9" in vz("exec", ct, "grep /dev/pts /proc/mounts").stdout


def test_reset_ub_of_a_stopped_ct_is_31(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct(start=False)
    done = vz("set", ctid, "--reset_ub")
    assert (done.returncode, done.stdout) == (31, "")
    assert len(done.stderr.splitlines()) == 1


def test_incomplete_sets_are_28(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    ctid = new_ct(start=False)
    done = vz("set", ctid, "--ram", "128M", "--save")
    assert (done.returncode, done.stderr) == (28, "Error: required UB parameter swap not set\n")
    conf = node.path(f"/etc/vz/conf/{ctid}.conf")
    plain = conf.read_text()
    for keys, missing in (('PHYSPAGES="0:65536"', "swap"), ('KMEMSIZE="1M"\nNUMPROC="9"', "lockedpages")):
        conf.write_text(f"{plain}{keys}\n")
        done = vz("start", ctid)
        assert done.returncode == 28
        assert f"Error: required UB parameter {missing} not set" in done.stderr
        assert "unmounted down" in vz("status", ctid).stdout
    vz.ok("set", ctid, "--ram", "128M", "--swap", "64M", "--save")
    vz.ok("start", ctid)


def ubc_rows(vz: Vz, ctid: int) -> dict[str, dict[str, int]]:
    """Return the beancounters of vzlist -j; disk space, where it is limited, is an object of another kind there."""
    return {name: row for name, row in counters(vz, ctid).items() if isinstance(row, dict) and "barrier" in row}


def test_vswap_fills_what_is_not_set(vz: Vz, new_ct: Callable[..., int]) -> None:
    ctid = new_ct("--ram", "64M", "--swap", "64M", "--vm_overcommit", "1.5")
    rows = {name: (row["barrier"], row["limit"]) for name, row in ubc_rows(vz, ctid).items()}
    unlimited = 9223372036854775807
    assert rows["physpages"] == (0, 16384) and rows["swappages"] == (0, 16384)
    assert rows["lockedpages"] == (16384, 16384)
    assert rows["oomguarpages"] == (16384, unlimited) and rows["vmguarpages"] == (32768, unlimited)
    assert rows["privvmpages"] == (49152, 49152) and rows["kmemsize"] == (unlimited, unlimited)
    vz.ok("set", ctid, "--ram", "32M", "--swap", "0")
    rows = {name: (row["barrier"], row["limit"]) for name, row in ubc_rows(vz, ctid).items()}
    assert rows["oomguarpages"] == (8192, unlimited) and rows["privvmpages"] == (12288, 12288)


def test_a_basic_configuration_runs(vz: Vz, new_ct: Callable[..., int]) -> None:
    """All beancounters of OpenVZ's sample: systemd comes up within them."""
    ctid = new_ct("--applyconfig", "basic", template=template("debian-12"), start=False)
    vz.ok("start", ctid, "--wait")
    row = counters(vz, ctid)
    assert row["numfile"]["limit"] == 9312 and 0 < row["numfile"]["held"] < 9312
    assert row["numpty"]["limit"] == 16 and row["kmemsize"]["limit"] == 14790164
    assert "max=16" in vz("exec", ctid, "grep /dev/pts /proc/mounts").stdout
    fails = {name: part["failcnt"] for name, part in row.items() if isinstance(part, dict) and part.get("failcnt")}
    assert fails == {}
