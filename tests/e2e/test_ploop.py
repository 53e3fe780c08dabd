"""The ploop layout: images on loop devices; create to destroy, sizes, snapshots, and what a killed command leaves."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BUSYBOX, Vz
from testnode import Node

GIB = 1 << 20  # in KiB


def image(node: Node, ctid: int) -> Path:
    return node.path(f"/vz/private/{ctid}/root.hdd/root.hdd")


def loops(node: Node, ctid: int) -> list[str]:
    """Return the loop devices whose file is in the CT's private area."""
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if f"/private/{ctid}/root.hdd/" in entry.read_text():
                found.append(entry.parts[3])
        except OSError:
            pass
    return found


def total_kib(vz: Vz, ctid: int) -> int:
    return int(vz.sh(ctid, "df -k / | tail -1").split()[1])


def fsck(path: Path) -> None:
    done = subprocess.run(["e2fsck", "-fn", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def made(vz: Vz, ctid: int) -> Iterator[int]:
    vz.ok("create", ctid, "--ostemplate", BUSYBOX, "--layout", "ploop", "--diskspace", "1G")
    yield ctid
    vz.remove(ctid)


def test_a_life_on_an_image(vz: Vz, node: Node, made: int) -> None:
    before = os.stat(image(node, made))
    assert before.st_size == 1 << 30 and before.st_blocks * 512 < 200 << 20
    fsck(image(node, made))
    vz.ok("start", made)
    assert len(loops(node, made)) == 1
    assert 900 << 10 < total_kib(vz, made) <= GIB
    assert vz.sh(made, "stat -c '%u %g' / /bin").split() == ["0", "0"] * 2
    assert " / ext4 rw," in vz.sh(made, "cat /proc/mounts")
    vz.sh(made, "echo kept > /root.txt; sync")
    vz.ok("stop", made, "--fast")
    assert loops(node, made) == []
    fsck(image(node, made))
    vz.ok("mount", made)
    assert node.path(f"/vz/private/{made}").stat().st_mode & 0o777 == 0o700
    vz.ok("umount", made)
    vz.ok("start", made)
    assert vz.sh(made, "cat /root.txt") == "kept\n"
    vz.ok("restart", made)
    assert vz.run("vzlist", "-H", "-o", "layout", made).stdout.strip() == "ploop"


def test_sizes(vz: Vz, node: Node, made: int) -> None:
    done = vz("set", made, "--diskspace", "2G")
    assert done.returncode == 20 and "--save" in done.stderr
    vz.ok("set", made, "--diskspace", "1536M:2G", "--save")
    assert os.stat(image(node, made)).st_size == 2 << 30
    vz.ok("set", made, "--diskspace", "300M", "--save", "--offline-resize")
    assert os.stat(image(node, made)).st_size == 300 << 20
    fsck(image(node, made))
    vz.ok("start", made)
    assert total_kib(vz, made) <= 300 << 10
    done = vz("set", made, "--diskspace", "200M", "--save")
    assert done.returncode == 154 and len(done.stderr.splitlines()) <= 2, done
    assert 'DISKSPACE="307200:307200"' in node.path(f"/etc/vz/conf/{made}.conf").read_text()
    assert vz("set", made, "--diskspace", "400M", "--save", "--offline-resize").returncode == 21
    done = vz("set", made, "--diskspace", "400M", "--save")
    if done.returncode == 154 and "ermission" in done.stderr:  # no CAP_SYS_RESOURCE: ext4 refuses
        assert total_kib(vz, made) <= 300 << 10
        vz.ok("stop", made, "--fast")
        fsck_is_smaller = os.stat(image(node, made)).st_size
        assert fsck_is_smaller >= 300 << 20
        vz.ok("set", made, "--diskspace", "401M", "--save")
        vz.ok("start", made)
    else:
        assert done.returncode == 0, done
    assert 330 << 10 < total_kib(vz, made) <= 401 << 10
    assert "No space left" in vz.sh(made, "dd if=/dev/zero of=/fill bs=1M count=500")


def test_compact(vz: Vz, node: Node, made: int) -> None:
    vz.ok("start", made)
    vz.sh(made, "dd if=/dev/urandom of=/big bs=1M count=100; sync")
    full = os.stat(image(node, made)).st_blocks
    vz.sh(made, "rm /big; sync")
    vz.ok("compact", made)
    assert os.stat(image(node, made)).st_blocks * 512 < full * 512 - (90 << 20)
    vz.ok("stop", made, "--fast")
    assert "Image takes" in vz.ok("compact", made)
    assert loops(node, made) == []
    fsck(image(node, made))


def test_refusals(vz: Vz, ctid: int) -> None:
    words = ("create", ctid, "--ostemplate", BUSYBOX, "--layout")
    for layout, status in (("ploop", 63), ("ploop:expanded", 99)):
        done = vz(*words, layout)
        assert done.returncode == status, done
    done = vz(*words, "ploop", "--diskspace", "4M")
    assert done.returncode == 151 and not vz.node.path(f"/vz/private/{ctid}").exists(), done
    done = vz(*words, "overlay", "--diskspace", "1G")
    assert done.returncode == 21, done


def test_an_image_in_use_is_mounted_by_nobody_else(vz: Vz, node: Node, made: int) -> None:
    """A root that somebody's mount namespace still holds is one image; two mounts would destroy it."""
    vz.ok("mount", made)
    vz.ok("umount", made)
    done = subprocess.run(
        ["losetup", "-f", "--show", "-r", str(image(node, made))], capture_output=True, text=True, check=True
    )
    device = done.stdout.strip()
    waiting = subprocess.Popen(
        [*node.command("vzctl"), "mount", str(made)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        assert vz.ok("status", made) == f"CTID {made} exist unmounted down\n"
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    assert waiting.wait(30) == 0
