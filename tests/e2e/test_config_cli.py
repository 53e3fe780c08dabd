"""Configuration through the commands: OpenVZ 6 files there and back, and bad input, which is one line and a status."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conftest import Vz
from testnode import Node

CONF = Path(__file__).parents[1] / "compat" / "conf"
FILES = sorted(CONF.glob("*.conf"))


def put(node: Node, ctid: int, data: bytes) -> Path:
    """Write the conf of a CT that has no files; return its path."""
    path = node.path(f"/etc/vz/conf/{ctid}.conf")
    path.write_bytes(data)
    return path


def one_line(done: subprocess.CompletedProcess[str], status: int) -> str:
    assert done.returncode == status, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done
    assert lines[0].isprintable()
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize("source", FILES, ids=lambda path: path.name)
def test_an_old_conf_loads_lists_and_survives_a_set(vz: Vz, node: Node, ctid: int, source: Path) -> None:
    data = source.read_bytes()
    path = put(node, ctid, data)
    try:
        assert vz.ok("status", ctid) == f"CTID {ctid} deleted unmounted down\n"
        assert vz("set", ctid, "--cpuunits", 777, "--save").returncode == 0
        assert vz("set", ctid, "--cpuunits", 777, "--save").stdout == "No changes in CT configuration, not saving\n"
        after = path.read_bytes()
        kept = [line for line in data.split(b"\n") if line and not line.strip().startswith(b"CPUUNITS=")]
        assert [line for line in after.split(b"\n") if line in kept] == kept
        assert b'CPUUNITS="777"' in after.split(b"\n")
    finally:
        path.unlink()


def test_setting_what_is_set_touches_nothing(vz: Vz, node: Node, ctid: int) -> None:
    data = b"# mine\r\nHOSTNAME=web  \nHOSTNAME=x\n?\nCPUS = 3"
    path = put(node, ctid, data)
    try:
        done = vz("set", ctid, "--hostname", "web", "--save")
        assert (done.returncode, done.stdout) == (0, "No changes in CT configuration, not saving\n")
        assert path.read_bytes() == data
    finally:
        path.unlink()


BAD = [
    (21, ["--nonsense"]),
    (21, ["--hostname"]),
    (20, ["word"]),
    (20, ["--hostname", "a", "b"]),
    (21, ["--ipadd", "192.0.2.300"]),
    (21, ["--ipadd", "$(touch /PWNED)"]),
    (21, ["--hostname", "`touch /PWNED`"]),
    (21, ["--cpuunits", "7"]),
    (21, ["--cpulimit", "101%"]),
    (21, ["--ram", "1X"]),
    (21, ["--capability", "sys_time:on"]),
    (21, ["--devices", "b:7:0:rw"]),
    (21, ["--netif_add", "eth0,zz"]),
    (21, ["--diskspace", "2G:1G"]),
    (21, ["--meminfo", "none"]),
    (21, ["--pci_add", "0:0.0"]),
    (20, ["--force"]),
    (20, ["--setmode", "restart"]),
    (20, ["--ostemplate", "x"]),
    (20, ["--bridge", "br0"]),
    (20, ["--nodemask", "0"]),
    (131, ["--name", "x"]),
    (131, ["--name", "a/b", "--save"]),
    (131, ["--name", "..", "--save"]),
    (21, ["--description", "\x1b[2J"]),
    (109, ["--applyconfig", "nothing", "--save"]),
]


@pytest.mark.parametrize(("status", "argv"), BAD, ids=lambda value: str(value))
def test_bad_words_change_nothing(vz: Vz, node: Node, ctid: int, status: int, argv: list[str]) -> None:
    data = b'HOSTNAME="a"\n'
    path = put(node, ctid, data)
    try:
        one_line(vz("set", ctid, *argv), status)
        if "--save" not in argv:
            done = vz("set", ctid, *argv, "--save")
            assert done.returncode in (0, status)
            if done.returncode:
                one_line(done, status)
        assert not node.path("/PWNED").exists()
        assert not list(node.path("/vz/lock").iterdir())
    finally:
        path.unlink()


IDS = [
    "0",
    "-1",
    "1_01",
    "١٠١",
    "../x",
    "101\n",
    "\n",
    "1" * 40,
    "",
    "2147483645",
    "no-such-name",
    ".",
    "..",
    "\x1b[2J",
    "0x65",
]


@pytest.mark.parametrize("word", IDS, ids=ascii)
@pytest.mark.parametrize("verb", ["start", "status", "destroy", "exec", "create"])
def test_bad_ids_are_21(vz: Vz, verb: str, word: str) -> None:
    text = one_line(vz(verb, word), 21)
    assert text.startswith("Bad CT ID ")


def test_a_conf_that_cannot_be_used_is_85(vz: Vz, node: Node, ctid: int) -> None:
    for data in (b"\x7fELF\0\0", b"A=1\n" * (1 << 19)):
        path = put(node, ctid, data)
        try:
            for words in (["start"], ["set", "--cpus", "1", "--save"], ["mount"]):
                one_line(vz(words[0], ctid, *words[1:]), 85)
            assert path.read_bytes() == data
        finally:
            path.unlink()


def test_what_a_conf_would_run_is_never_run(vz: Vz, node: Node, ctid: int) -> None:
    path = put(
        node, ctid, b'VE_PRIVATE="/vz/$(touch /PWNED)/$VEID"\nHOSTNAME=`touch /PWNED`\nDESCRIPTION="$(touch /PWNED)"\n'
    )
    try:
        for verb in ("status", "start", "mount", "set"):
            vz(verb, ctid, *(["--cpus", "1", "--save"] if verb == "set" else []))
        vz.run("vzlist", "-a")
        assert not node.path("/PWNED").exists()
    finally:
        path.unlink()


def test_saved_values_are_the_same_to_a_shell(vz: Vz, node: Node, ctid: int) -> None:
    text = 'it\'s "quoted" $(touch /PWNED) `x` \\ ${HOME} ünï #1'
    path = put(node, ctid, b"")
    try:
        vz.ok("set", ctid, "--description", text, "--save")
        out = vz.run("sh", "-c", f'. /etc/vz/conf/{ctid}.conf; printf %s "$DESCRIPTION"').stdout
        assert out == text
        assert vz.run("vzlist", "-aHt", "-o", "description", ctid).returncode in (0, 1)
        assert not node.path("/PWNED").exists()
    finally:
        path.unlink()


def test_names(vz: Vz, node: Node, ctid: int) -> None:
    path = put(node, ctid, b"")
    other = put(node, ctid + 50000, b"")
    try:
        assert "Name web 1 assigned" in vz.ok("set", ctid, "--name", "web 1", "--save")
        assert vz.ok("status", "web 1") == f"CTID {ctid} deleted unmounted down\n"
        text = one_line(vz("set", ctid + 50000, "--name", "web 1", "--save"), 131)
        assert text == f"Conflict: name web 1 already used by container {ctid}"
        path.write_text('NAME="other"\n')
        one_line(vz("status", "web 1"), 21)
        path.write_text('NAME="web 1"\n')
        vz.ok("set", "web 1", "--name", "", "--save")
        one_line(vz("status", "web 1"), 21)
    finally:
        path.unlink()
        other.unlink()


def test_a_missing_vz_conf_is_10(vz: Vz, node: Node) -> None:
    path = node.path("/etc/vz/vz.conf")
    data = path.read_bytes()
    path.unlink()
    try:
        for argv in (["status", 101], ["start", 101], ["create", 101]):
            one_line(vz(*argv), 10)
    finally:
        path.write_bytes(data)


def test_vzcfgvalidate_as_a_command(vz: Vz) -> None:
    done = vz.run("vzcfgvalidate", "/etc/vz/conf/ve-basic.conf-sample")
    assert (done.returncode, done.stdout) == (0, "Validation completed: success\n")
    assert vz.run("vzcfgvalidate").returncode == 1
    assert vz.run("vzcfgvalidate", "/etc/vz").returncode == 1
