"""Words that vzctl cannot take: which status, one line on stderr, before any lock, and nothing changed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from conftest import Vz
from testnode import Node

Done = subprocess.CompletedProcess[str]
HELD = 4242  # a CT whose lock somebody holds: an error that is seen before the lock is not 9


def one_line(done: Done, status: int) -> str:
    assert (done.returncode, done.stdout) == (status, ""), done
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].isprintable(), done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def held(vz: Vz) -> Iterator[Vz]:
    """A node where the lock of CT HELD is taken; its conf must not change."""
    node = vz.node
    assert node.holder is not None
    conf, lock = node.path(f"/etc/vz/conf/{HELD}.conf"), node.path(f"/vz/lock/{HELD}.lck")
    conf.write_text('HOSTNAME="a"\nIP_ADDR="192.0.2.9/24"\n')
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(f"{node.holder.pid}\n\n")
    yield vz
    assert conf.read_text() == 'HOSTNAME="a"\nIP_ADDR="192.0.2.9/24"\n'
    assert lock.read_text() == f"{node.holder.pid}\n\n"
    conf.unlink()
    lock.unlink()


def test_version_and_help(vz: Vz) -> None:
    done = vz("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "vzctl version 5.0\n", "")
    done = vz("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("vzctl version 5.0\nUsage: vzctl [options] <command> <ctid> [parameters]\n")
    for words in ([], ["--quiet"], ["--verbose", "--verbose", "--skiplock"]):
        without = vz(*words)
        assert (without.returncode, without.stdout, without.stderr) == (20, "", done.stdout)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["nonsense"], 20, "Bad command: nonsense"),
        (["nonsense", "101"], 20, "Bad command: nonsense"),
        (["-h"], 20, "Bad command: -h"),
        (["--nonsense", "start", "101"], 20, "Bad command: --nonsense"),
        (["\x1b[2J\n"], 20, "Bad command: \\x1b[2J\\x0a"),
        ([""], 20, "Bad command: "),
        (["start"], 21, "CTID is missing: vzctl COMMAND CTID|NAME [options]"),
        (["--quiet", "status"], 21, "CTID is missing: vzctl COMMAND CTID|NAME [options]"),
        (["start", "no-such-name"], 21, "Bad CT ID no-such-name"),
        (["--quiet", "start", "no-such-name"], 21, "Bad CT ID no-such-name"),
        (["start", "2147483645"], 21, "Bad CT ID 2147483645"),
        (["start", "0"], 21, "Bad CT ID 0"),
        (
            ["set", "0", "--cpuunits", "1000"],
            21,
            "Bad CT ID 0: the node's own limits are not available in this version",
        ),
        (["start", "--quiet"], 21, "Bad CT ID --quiet"),  # global flags stand before the command
    ],
)
def test_what_is_wrong_before_there_is_a_ct(vz: Vz, words: list[str], status: int, text: str) -> None:
    assert one_line(vz(*words), status) == text


@pytest.mark.parametrize(
    "verb", "pause reinstall register unregister unset setrate monitor execaction set-passwd".split()
)
def test_commands_of_other_lines_are_bad_commands(vz: Vz, verb: str) -> None:
    assert one_line(vz(verb, 101), 20) == f"Bad command: {verb}"


# verb, its words after the CTID, status: decided before the lock is taken
TABLE = [
    *((verb, ["--nonsense"], 20) for verb in "start stop restart mount umount destroy delete status".split()),
    *((verb, ["word"], 20) for verb in "start stop restart mount umount destroy delete status".split()),
    *((verb, ["--nonsense"], 21) for verb in ("set", "create")),
    *((verb, ["--hostname", "a", "word"], 20) for verb in ("set", "create")),
    *((verb, ["--hostname", "a b"], 21) for verb in ("set", "create")),
    *((verb, ["--hostname"], 21) for verb in ("set", "create")),
    *((verb, [], 20) for verb in ("exec", "exec2", "exec3", "runscript")),
    ("start", ["--fast"], 20),
    ("stop", ["--wait"], 20),
    ("start", ["--force=yes"], 20),
    ("enter", ["word"], 20),
    ("enter", ["--exec"], 20),
    ("enter", ["--exec", ""], 20),
    ("enter", ["--login"], 20),
    ("runscript", ["a", "b"], 20),
    ("console", ["1", "2"], 20),
    ("console", ["one"], 21),
    ("console", ["-1"], 21),
    ("create", ["--save"], 21),
    ("create", ["--config", "../x"], 21),
    ("create", ["--layout", "zfs"], 21),
    ("create", ["--diskspace", "0"], 21),
    ("create", ["--ipadd", "192.0.2.300"], 21),
    ("set", ["--config", "basic", "--save"], 21),
    ("set", ["--cpuunits", "7", "--save"], 21),
    ("set", ["--force"], 20),
    ("set", ["--setmode", "restart", "--features", "ppp:on"], 20),
    ("set", ["--setmode", "ignore", "--features", "ppp:on"], 20),
    ("set", ["--ostemplate", "x"], 20),
    ("set", ["--stop-timeout", "5"], 20),
    ("set", ["--name", "x"], 131),
    ("set", ["--cpumask", "auto", "--save"], 20),
    ("set", ["--nodemask", "0", "--save"], 20),
    ("set", ["--bridge", "br0", "--save"], 20),
    ("set", ["--ifname", "eth0", "--save"], 20),
    ("set", ["--cpuweight", "5"], 21),
    ("set", ["--netif_add", "eth0", "--netif_add", "eth0", "--save"], 21),
    ("set", ["--nameserver", "inherit", "--nameserver", "192.0.2.1", "--save"], 21),
    ("set", ["--pci_add", "0:0.0", "--save"], 21),
    ("set", ["--capability", "sys_time:on", "--save"], 21),
    ("set", ["--meminfo", "none", "--save"], 21),
    ("set", ["--userpasswd", "root", "--save"], 21),
]


@pytest.mark.parametrize(("verb", "words", "status"), TABLE, ids=lambda value: str(value))
def test_option_errors_come_before_the_lock(held: Vz, verb: str, words: list[str], status: int) -> None:
    one_line(held(verb, HELD, *words), status)


def test_options_twice_and_in_conflict(vz: Vz, node: Node, ctid: int) -> None:
    """Of two the last counts; --ipdel comes before --ipadd, all swallows the rest; yes and no are words."""
    path = node.path(f"/etc/vz/conf/{ctid}.conf")
    path.write_text('IP_ADDR="192.0.2.1/24 192.0.2.2/24"\n')
    try:
        vz.ok("set", ctid, "--onboot", "yes", "--onboot", "no", "--cpus", "1", "--cpus=2", "--save", "--save")
        vz.ok("set", ctid, "--ipadd", "192.0.2.3/24", "--ipdel", "192.0.2.1", "--ipdel", "all", "--save")
        assert path.read_text() == 'IP_ADDR="192.0.2.3/24"\nONBOOT="no"\nCPUS="2"\n'
        vz.ok("set", ctid, "--ipadd", "192.0.2.3", "--ipdel", "192.0.2.3", "--save")
        assert 'IP_ADDR="192.0.2.3"\n' in path.read_text()
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("verb", "why"),
    [
        ("chkpnt", "checkpointing"),
        ("restore", "checkpointing"),
        ("snapshot", "ploop"),
        ("snapshot-list", "ploop"),
        ("convert", "ploop"),
        ("compact", "ploop"),
    ],
)
def test_commands_of_later_versions_are_refused_with_one_line(vz: Vz, verb: str, why: str) -> None:
    from vz.cli.table import VERBS

    if verb in VERBS:
        pytest.skip("it is there now")
    assert why in one_line(vz(verb, 101), 20)


def test_no_word_of_a_user_ends_in_a_traceback(vz: Vz, node: Node) -> None:
    for words in (
        ["vzctl", "\udcff"],
        ["vzctl", "start", "\udcff\udcfe"],
        ["vzctl", "set", "4243", "--description", "\udcff"],
        ["vzlist", "-o", "\udcff"],
        ["vzlist", "\udcff"],
        ["vzpid", "\udcff", "9" * 30, "-1", ""],
        ["vzcfgvalidate", "\udcff"],
        ["vztmpl-dl", "\udcff"],
        ["vztmpl", "\udcff"],
    ):
        done = subprocess.run(node.argv(*words), capture_output=True, env=node.env, timeout=60)
        assert b"Traceback" not in done.stderr, (words, done)
        assert b"\xff" not in done.stderr
        assert done.returncode in (0, 1, 3, 20, 21), (words, done)
