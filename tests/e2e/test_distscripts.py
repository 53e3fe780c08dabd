"""Distribution files and the admin's scripts that they name, on the test node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Vz, template

VARIABLES = "IP=$IP_ADDR ALL=$IPDELALL V6=$IPV6 H=$HOSTNM NS=$NAMESERVER SD=$SEARCHDOMAIN U=$USERPW"
SHOW = f'echo "$0 $VE_STATE {VARIABLES}" >> /seen\n'


@pytest.fixture
def dists(vz: Vz) -> Iterator[Path]:
    """The node's dists directory, with busybox's file put back at the end."""
    folder = vz.node.path("/etc/vz/dists")
    saved = (folder / "busybox.conf").read_text()
    yield folder
    (folder / "busybox.conf").write_text(saved)
    for path in (folder / "scripts").iterdir():
        if path.name != "README":
            path.unlink()


def all_actions(dists: Path) -> None:
    actions = ("ADD_IP", "DEL_IP", "SET_HOSTNAME", "SET_DNS", "SET_USERPASS")
    (dists / "busybox.conf").write_text("".join(f"{action}={action}.sh\n" for action in actions))
    (dists / "scripts/functions").write_text("note() { echo from functions >> /seen; }")
    for action in actions:
        (dists / f"scripts/{action}.sh").write_text(f"echo {action} >> /seen; {SHOW}")
    (dists / "scripts/SET_DNS.sh").write_text(f"echo SET_DNS >> /seen; note; {SHOW}")


def test_scripts_get_the_documented_environment(vz: Vz, dists: Path, new_ct: Callable[..., int]) -> None:
    all_actions(dists)
    ct = new_ct("--ipadd", "192.0.2.71", "--ipadd", "2001:db8::71", "--hostname", "it.example.com", start=False)
    vz.ok("start", ct)
    seen = vz.sh(ct, "cat /seen")
    assert "ADD_IP\n" in seen and " starting IP=192.0.2.71 2001:db8::71 ALL= V6=yes H= " in seen
    assert "SET_HOSTNAME\n" in seen and " starting IP=192.0.2.71 ALL= V6= H=it.example.com " in seen
    assert "it.example.com" not in vz.sh(ct, "cat /etc/hosts /etc/hostname"), "the built-in part keeps out of it"
    assert vz.sh(ct, "hostname").strip() == "it.example.com", "but the kernel's name is ours"
    vz.sh(ct, "> /seen")
    vz.ok("set", ct, "--nameserver", "192.0.2.53", "--searchdomain", "example.org", "--ipdel", "all", "--save")
    seen = vz.sh(ct, "cat /seen")
    assert "from functions\n" in seen and "NS=192.0.2.53 SD=example.org" in seen
    assert "DEL_IP\n" in seen and " running IP=192.0.2.71 2001:db8::71 ALL=yes" in seen and "ADD_IP" not in seen
    vz.sh(ct, "> /seen")
    vz.ok("set", ct, "--nameserver", "inherit", "--searchdomain", "inherit")
    assert "SET_DNS\n" in vz.sh(ct, "cat /seen") and "inherit" not in vz.sh(ct, "cat /seen")
    vz.ok("set", ct, "--userpasswd", "root:it's $(id)")
    assert "U=root:it's $(id)\n" in vz.sh(ct, "cat /seen")


def test_a_missing_script_is_108_and_no_file_107(vz: Vz, dists: Path, new_ct: Callable[..., int]) -> None:
    ct = new_ct(start=False)
    (dists / "busybox.conf").write_text("ADD_IP=absent.sh\n")
    done = vz("start", ct)
    assert done.returncode == 108 and "absent.sh is not there" in done.stderr
    assert vz.ok("status", ct).strip() == f"CTID {ct} exist unmounted down"
    (dists / "busybox.conf").write_text("FAMILY=plan9\n")
    done = vz("start", ct)
    assert done.returncode == 107 and len(done.stderr.strip().splitlines()) == 2
    assert vz.ok("status", ct).strip() == f"CTID {ct} exist unmounted down"


def test_a_script_that_fails(vz: Vz, dists: Path, new_ct: Callable[..., int]) -> None:
    ct = new_ct()
    (dists / "busybox.conf").write_text("SET_HOSTNAME=fail.sh\nSET_USERPASS=fail.sh\n")
    (dists / "scripts/fail.sh").write_text("echo out; exit 5\n")
    before = vz.node.path(f"/etc/vz/conf/{ct}.conf").read_text()
    done = vz("set", ct, "--hostname", "new", "--save")
    assert done.returncode == 70 and "fail.sh failed with status 5" in done.stderr and "out\n" in done.stdout
    assert vz.node.path(f"/etc/vz/conf/{ct}.conf").read_text() == before
    assert vz("set", ct, "--userpasswd", "root:x").returncode == 74


def test_post_create_makes_files_of_the_ct(vz: Vz, dists: Path, new_ct: Callable[..., int]) -> None:
    (dists / "busybox.conf").write_text("POST_CREATE=post.sh\n")
    script = "set -e\necho made > $VE_ROOT/etc/made\n! echo x > /etc/vz/made 2>/dev/null\n"
    (dists / "scripts/post.sh").write_text(script)
    ct = new_ct()
    assert vz.sh(ct, "cat /etc/made; stat -c %u /etc/made") == "made\n0\n"
    assert not vz.node.path("/etc/vz/made").exists(), "the script is root of the CT's files only"


def test_post_create_that_fails_leaves_nothing(vz: Vz, dists: Path, ctid: int) -> None:
    (dists / "busybox.conf").write_text("POST_CREATE=post.sh\n")
    (dists / "scripts/post.sh").write_text("exit 3\n")
    done = vz("create", ctid, "--ostemplate", template("busybox"))
    assert done.returncode == 48 and "post.sh failed with status 3" in done.stderr
    assert vz.ok("status", ctid).strip() == f"CTID {ctid} deleted unmounted down"


def test_an_unknown_template_is_a_warning(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct(start=False)
    vz.ok("set", ct, "--ostemplate", "plan9-4", "--save")
    done = vz("start", ct)
    assert done.returncode == 0 and "no distribution file for plan9-4" in done.stderr
