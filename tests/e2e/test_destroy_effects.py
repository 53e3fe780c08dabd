"""destroy: what goes, what stays as *.destroyed, and what is success without anything to do."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from conftest import BUSYBOX, Vz, leftovers
from testnode import Node

SUFFIXES = ("mount", "umount", "premount", "postumount", "start", "stop")


@pytest.fixture
def stopped(vz: Vz, ctid: int) -> Iterator[int]:
    vz.ok("create", ctid, "--ostemplate", BUSYBOX)
    yield ctid
    vz.remove(ctid)
    vz.run("sh", "-c", f"rm -rf /etc/vz/conf/{ctid}.* /vz/dump/Dump.{ctid}")


@pytest.mark.parametrize("verb", ["destroy", "delete"])
@pytest.mark.parametrize("dump", ["file", "directory"])
def test_everything_of_it(vz: Vz, node: Node, stopped: int, verb: str, dump: str) -> None:
    conf = node.path("/etc/vz/conf")
    vz.ok("set", stopped, "--name", "gone", "--save")
    before = (conf / f"{stopped}.conf").read_bytes()
    for suffix in SUFFIXES:
        (conf / f"{stopped}.{suffix}").write_text(suffix)
    path = node.path(f"/vz/dump/Dump.{stopped}")
    (path / "x").mkdir(parents=True) if dump == "directory" else path.write_text("old")
    for folder in ("veip", "vepid", "vzreboot"):
        node.path(f"/var/lib/vzctl/{folder}").mkdir(exist_ok=True)
        node.path(f"/var/lib/vzctl/{folder}/{stopped}").write_text("")
    node.path(f"/vz/root/{stopped}").mkdir(parents=True, exist_ok=True)
    done = vz(verb, "gone")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"Destroying container private area: /vz/private/{stopped}\nContainer private area was destroyed\n"
    )
    assert (conf / f"{stopped}.conf.destroyed").read_bytes() == before
    assert {path.name: path.read_text() for path in conf.glob(f"{stopped}.*") if ".conf" not in path.name} == {
        f"{stopped}.{suffix}.destroyed": suffix for suffix in SUFFIXES
    }
    assert not path.exists()
    assert not os.path.lexists(node.path("/etc/vz/names/gone"))
    assert not node.path(f"/var/lib/vzctl/vzreboot/{stopped}").exists()
    for _ in range(100):
        left = leftovers(node, stopped)
        if not left and not list(node.path("/vz/vztmp").glob("vzctl-rm-me.*")):
            break
        vz.run("sleep", "0.05")
    assert left == []
    assert list(node.path("/vz/vztmp").glob("vzctl-rm-me.*")) == []
    assert vz(verb, stopped).returncode == 14


def test_without_a_private_area_it_is_success(vz: Vz, node: Node, stopped: int) -> None:
    vz.run("rm", "-rf", f"/vz/private/{stopped}")
    done = vz("destroy", stopped)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "Container private area was destroyed"
    assert node.path(f"/etc/vz/conf/{stopped}.conf.destroyed").exists()


def test_of_a_link_only_the_link_goes(vz: Vz, node: Node, stopped: int) -> None:
    vz.run("sh", "-c", f"mkdir -p /vz/elsewhere && mv /vz/private/{stopped} /vz/elsewhere/area")
    node.path(f"/vz/private/{stopped}").symlink_to("/vz/elsewhere/area")
    vz.ok("mount", stopped)
    vz.ok("umount", stopped)
    try:
        vz.ok("destroy", stopped)
        assert not os.path.lexists(node.path(f"/vz/private/{stopped}"))
        assert node.path("/vz/elsewhere/area/up").is_dir()
    finally:
        vz.run("rm", "-rf", "/vz/elsewhere")


def test_a_running_or_mounted_one_stays(vz: Vz, node: Node, stopped: int) -> None:
    vz.ok("mount", stopped)
    done = vz("destroy", stopped)
    assert (done.returncode, done.stdout) == (41, "") and done.stderr.count("\n") == 1
    vz.ok("start", stopped)
    done = vz("destroy", stopped)
    assert (done.returncode, done.stdout, done.stderr) == (32, "Container is currently running. Stop it first.\n", "")
    assert vz("exec", stopped, "true").returncode == 0
