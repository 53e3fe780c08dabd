"""Action scripts: their environment, their failures, and what is no script at all (cli.md's table of them)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Vz, template


@pytest.fixture
def conf(vz: Vz) -> Iterator[Path]:
    """The node's conf directory; scripts in it are removed at the end."""
    folder = vz.node.path("/etc/vz/conf")
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        if path.suffix in (".premount", ".mount", ".umount", ".postumount", ".create", ".start", ".stop"):
            path.unlink()


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_environment_is_exactly_the_documented_one(vz: Vz, conf: Path, new_ct: Callable[..., int]) -> None:
    ct = new_ct(start=False)
    script(conf / f"{ct}.premount", "exec cat /proc/self/environ > /vz/environ")
    script(conf / f"{ct}.mount", "exec ls /proc/self/fd > /vz/fds")
    vz.ok("mount", ct)
    variables = dict(word.split("=", 1) for word in vz.node.path("/vz/environ").read_text().split("\0") if word)
    assert set(variables) - {"PWD"} == {"VEID", "VE_CONFFILE", "HOME", "TERM", "PATH"}
    assert variables["VEID"] == str(ct) and variables["VE_CONFFILE"] == f"/etc/vz/conf/{ct}.conf"
    assert (variables["HOME"], variables["TERM"]) == ("/", "linux")
    assert set(vz.node.path("/vz/fds").read_text().split()) <= {"0", "1", "2", "3"}, "no descriptor of ours"


def test_configuration_can_be_sourced(vz: Vz, conf: Path, new_ct: Callable[..., int]) -> None:
    ct = new_ct(start=False)
    script(conf / f"{ct}.mount", '. /etc/vz/vz.conf; . "$VE_CONFFILE"; echo "$VE_ROOT $VE_PRIVATE" > /vz/sourced')
    vz.ok("mount", ct)
    assert vz.node.path("/vz/sourced").read_text() == f"/vz/root/{ct} /vz/private/{ct}\n"


def test_a_pipe_in_a_script_ends_by_sigpipe(vz: Vz, conf: Path, new_ct: Callable[..., int]) -> None:
    ct = new_ct(start=False)
    script(conf / f"{ct}.mount", "yes | head -1 > /dev/null")
    assert vz("mount", ct).stderr == ""


@pytest.mark.parametrize(("name", "after"), [("premount", "unmounted"), ("mount", "unmounted"), ("umount", "mounted")])
def test_a_failure_is_79_and_one_line(vz: Vz, conf: Path, new_ct: Callable[..., int], name: str, after: str) -> None:
    ct = new_ct(start=False)
    verb = "umount" if name == "umount" else "mount"
    if verb == "umount":
        vz.ok("mount", ct)
    script(conf / f"{ct}.{name}", "exit 4")
    done = vz(verb, ct)
    assert done.returncode == 79
    assert done.stderr == f"Action script /etc/vz/conf/{ct}.{name} failed with status 4\n"
    assert vz.ok("status", ct) == f"CTID {ct} exist {after} down\n"
    (conf / f"{ct}.{name}").unlink()


def test_postumount_is_reported_after_the_umount(vz: Vz, conf: Path, new_ct: Callable[..., int]) -> None:
    ct = new_ct(start=False)
    vz.ok("mount", ct)
    script(conf / f"{ct}.postumount", "exit 1")
    assert vz("umount", ct).returncode == 79
    assert "unmounted" in vz.ok("status", ct)


def test_start_and_stop_scripts_run_in_the_ct(vz: Vz, conf: Path, new_ct: Callable[..., int]) -> None:
    ct = new_ct(start=False)
    (conf / f"{ct}.start").write_text('echo "$VEID $VE_CONFFILE $HOME $TERM" > /started; test ! -e /etc/vz\n')
    vz.ok("start", ct)
    assert vz.sh(ct, "cat /started") == f"{ct} /etc/vz/conf/{ct}.conf / linux\n"
    (conf / f"{ct}.stop").write_text("exit 9\n")
    done = vz("stop", ct)
    assert done.returncode == 79 and f"{ct}.stop" in done.stderr
    assert "running" in vz.ok("status", ct), "a stop script that fails leaves the CT running"
    (conf / f"{ct}.stop").unlink()
    vz.ok("stop", ct, "--fast")
    (conf / f"{ct}.start").write_text("exit 1\n")
    assert vz("start", ct).returncode == 79
    assert vz.ok("status", ct) == f"CTID {ct} exist unmounted down\n"


def test_start_scripts_are_read_by_bash_where_there_is_one(vz: Vz, conf: Path, new_ct: Callable[..., int]) -> None:
    ct = new_ct(template=template("debian-12"), start=False)
    (conf / f"{ct}.start").write_text("words=(a b); [[ ${words[1]} == b ]]\n")
    vz.ok("start", ct)


def test_create_is_rolled_back(vz: Vz, conf: Path, ctid: int) -> None:
    script(conf / "vps.create", 'test "$VEID" -gt 0 && test -f "$VE_CONFFILE" && exit 2')
    done = vz("create", ctid, "--ostemplate", template("busybox"))
    assert done.returncode == 79 and "vps.create failed with status 2" in done.stderr
    assert vz.ok("status", ctid) == f"CTID {ctid} deleted unmounted down\n"
    assert not (conf / f"{ctid}.conf").exists()


@pytest.mark.parametrize("kind", ["not-executable", "directory", "no-interpreter", "dangling-link"])
def test_what_is_no_script(vz: Vz, conf: Path, new_ct: Callable[..., int], kind: str) -> None:
    ct = new_ct(start=False)
    path = conf / f"{ct}.mount"
    if kind == "not-executable":
        path.write_text("#!/bin/sh\n")
        path.chmod(0o644)
    elif kind == "directory":
        path.mkdir()
    elif kind == "no-interpreter":
        path.write_text("#!/no/such/shell\n")
        path.chmod(0o755)
    else:
        path.symlink_to("/nowhere")
    done = vz("mount", ct)
    assert done.returncode == 79 and len(done.stderr.splitlines()) == 1 and str(ct) in done.stderr
    assert "unmounted" in vz.ok("status", ct)
    if kind == "directory":
        os.rmdir(path)
