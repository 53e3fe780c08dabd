"""The ploop layout: images on loop devices; create to destroy, sizes, snapshots, and what a killed command leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import BUSYBOX, SOAK, Vz
from testnode import TREE, Node

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


def can_grow() -> bool:
    """Tell whether we have CAP_SYS_RESOURCE, without which ext4 grows nothing that is mounted."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


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
    if can_grow():
        assert done.returncode == 0, done
    else:
        assert done.returncode == 154 and "ermission" in done.stderr, done
        assert total_kib(vz, made) <= 300 << 10
        vz.ok("stop", made, "--fast")
        fsck(image(node, made))
        vz.ok("set", made, "--diskspace", "401M", "--save")
        vz.ok("start", made)
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


def test_an_image_in_use_is_mounted_by_nobody_else(vz: Vz, node: Node, made: int) -> None:
    """A root that somebody's mount namespace still holds is one image; two mounts would destroy it."""
    vz.ok("mount", made)
    vz.ok("umount", made)
    done = subprocess.run(
        ["losetup", "-f", "--show", "-r", str(image(node, made))], capture_output=True, text=True, check=True
    )
    device = done.stdout.strip()
    waiting = node.popen("vzctl", "mount", str(made), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        assert vz.ok("status", made) == f"CTID {made} exist unmounted down\n"
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    assert waiting.wait(30) == 0


FIRST = "{6e1b4d9e-0f7d-4b4f-9a5e-6a0f1d2c3b4a}"
SECOND = "{00000000-0000-4000-8000-000000000002}"


def test_snapshots_there_and_back(vz: Vz, node: Node, made: int) -> None:
    listing = "vzctl", "snapshot-list", made, "-H", "-o", "uuid,parent_uuid,current"
    assert vz("snapshot-list", made).stdout == f"{'PARENT_UUID':<38} C {'UUID':<38} {'DATE':<19} NAME\n"
    vz.ok("start", made)
    vz.sh(made, "echo one > /state")
    done = vz.ok("snapshot", made, "--id", FIRST[1:-1].upper(), "--name", "a <b>", "--skip-suspend")
    assert done == f"Creating snapshot {FIRST}\nSnapshot {FIRST} has been successfully created\n"
    vz.sh(made, "echo two > /state")
    vz.ok("snapshot", made, "--id", SECOND, "--skip-suspend", "--skip-config")
    vz.sh(made, "echo three > /state")
    lines = vz.run(*listing).stdout.splitlines()
    assert lines == [f"{FIRST} {'':38} ", f"{SECOND} {FIRST} *"]
    row = vz.run("vzctl", "snapshot-list", made, "-H", "--id", FIRST, "-o", "name,date").stdout
    assert re.fullmatch(r"a <b> {27} \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", row)
    node.path("/mnt/snap").mkdir(parents=True, exist_ok=True)
    vz.ok("snapshot-mount", made, "--id", FIRST, "--target", "/mnt/snap")
    assert node.path("/mnt/snap/state").read_text() == "one\n"
    assert vz("snapshot-delete", made, "--id", FIRST).returncode == 158
    assert vz.run("vzctl", "snapshot-list", made, "-H", "-o", "target", "--id", FIRST).stdout == "/mnt/snap\n"
    vz.ok("snapshot-umount", made, "--id", FIRST)
    assert vz("snapshot-umount", made, "--id", FIRST).returncode == 161
    assert len(loops(node, made)) == 1
    vz.ok("snapshot-switch", made, "--id", FIRST)
    assert vz.ok("status", made) == f"CTID {made} exist unmounted down\n"
    fsck(image(node, made))
    vz.ok("start", made)
    assert vz.sh(made, "cat /state") == "one\n"
    assert vz.run(*listing).stdout.splitlines() == [f"{FIRST} {'':38} *", f"{SECOND} {FIRST} "]
    vz.ok("snapshot-delete", made, "--id", FIRST)
    assert vz.sh(made, "cat /state") == "one\n"
    vz.ok("snapshot-switch", made, "--id", SECOND)
    vz.ok("start", made)
    assert vz.sh(made, "cat /state") == "two\n"
    assert sorted(os.listdir(image(node, made).parent)) == ["root.hdd", f"root.hdd.{SECOND}"]


def test_a_snapshot_with_memory(vz: Vz, node: Node, made: int) -> None:
    vz.ok("start", made)
    vz.sh(
        made,
        "(i=0; while :; do i=$((i+1)); echo $i > /count.new; mv /count.new /count; sleep 0.05; done) >/dev/null 2>&1 </dev/null &",
    )
    done = vz("snapshot", made, "--id", FIRST)
    if "criu is not installed" in done.stderr:
        assert done.returncode == 156
        pytest.skip("needs criu")
    assert done.returncode == 0, done
    assert vz.ok("status", made) == f"CTID {made} exist mounted running\n"
    vz.sh(made, "sleep 1; echo later > /later")
    count = int(vz.sh(made, "cat /count"))
    vz.ok("snapshot-switch", made, "--id", FIRST, "--must-resume")
    assert vz.ok("status", made) == f"CTID {made} exist mounted running\n"
    assert int(vz.sh(made, "cat /count")) < count
    assert "No such file" in vz.sh(made, "sleep 0.2; cat /later")
    first = int(vz.sh(made, "cat /count"))
    assert int(vz.sh(made, "sleep 0.5; cat /count")) > first, "it goes on where it was"
    vz.ok("snapshot-switch", made, "--id", FIRST, "--skip-resume")
    assert vz.ok("status", made) == f"CTID {made} exist unmounted down\n"


def test_snapshot_refusals(vz: Vz, made: int, new_ct: Callable[..., int]) -> None:
    other = new_ct(start=False)
    for verb, words, status in (
        ("snapshot", [], 156),
        ("snapshot-list", [], 167),
        ("snapshot-switch", ["--id", FIRST], 159),
        ("snapshot-delete", ["--id", FIRST], 158),
        ("snapshot-mount", ["--id", FIRST, "--target", "/mnt"], 160),
        ("snapshot-umount", ["--id", FIRST], 161),
    ):
        done = vz(verb, other, *words)
        assert done.stderr == "Snapshot feature is only available for ploop-based CTs\n", done
        assert done.returncode == status
        if words:
            assert vz(verb, made, *words).returncode == status
            assert vz(verb, made).returncode == 20
    assert vz("snapshot", made, "--id", "x").returncode == 21
    assert vz("snapshot-list", made, "-o", "x").returncode == 21
    assert vz("snapshot-switch", made, "--id", FIRST, "--skip-resume", "--must-resume").returncode == 20


def test_a_lost_list_costs_no_snapshot(vz: Vz, node: Node, made: int) -> None:
    vz.ok("snapshot", made, "--id", FIRST)
    listed = node.path(f"/vz/private/{made}/Snapshots.xml")
    aside = listed.rename(f"{listed}.aside")
    done = vz("snapshot", made)
    assert done.returncode == 156 and "Snapshots.xml is missing" in done.stderr, done
    assert vz("snapshot-list", made).returncode == 167
    aside.rename(listed)
    vz.ok("snapshot-switch", made, "--id", FIRST)


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3])
def test_a_power_cut(vz: Vz, node: Node, made: int, tmp_path: Path, delay: float) -> None:
    """The image at a random moment of a writing CT, elsewhere: what fsync had acknowledged before is there."""
    vz.ok("start", made)
    vz.sh(made, "(i=0; while :; do i=$((i+1)); echo $i > /f$i; sync; echo $i > /last; sync; done) >/dev/null 2>&1 &")
    time.sleep(1 + delay)
    last = int(vz.sh(made, "cat /last") or 0)
    copy = tmp_path / "image"
    subprocess.run(["cp", "--sparse=always", str(image(node, made)), str(copy)], check=True)
    vz.ok("stop", made, "--fast")
    done = subprocess.run(["e2fsck", "-p", str(copy)], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout
    fsck(copy)
    found = subprocess.run(["debugfs", "-R", f"cat /f{last - 1}", str(copy)], capture_output=True, text=True)
    assert found.stdout == f"{last - 1}\n"


def sound(vz: Vz, node: Node, ctid: int) -> None:
    """After a killed command and the next ones: stopped, nothing attached, every image whole, no draft left."""
    vz("stop", ctid, "--fast")
    vz("umount", ctid)
    assert vz.ok("status", ctid) == f"CTID {ctid} exist unmounted down\n"
    assert loops(node, ctid) == []
    fsck(image(node, ctid))
    for uuid in vz.run("vzctl", "snapshot-list", ctid, "-H", "-o", "uuid").stdout.split():
        fsck(image(node, ctid).with_name(f"root.hdd.{uuid}"))


def strike(node: Node, at: int, how: str, *words: object) -> int:
    """Run vzctl with *words* and strike at its call number *at*; return how many calls there were."""
    report = f"{node.home}/killat.json"
    killat = ("/usr/bin/python3", str(TREE / "tests/killat.py"), report, str(at), how, "vzctl", *map(str, words))
    node.run(*killat)
    return int(json.loads(Path(report).read_text())["count"])


COMMANDS = {
    "mount": ("mount", "CTID"),
    "start": ("start", "CTID"),
    "set": ("set", "CTID", "--diskspace", "700M", "--save"),
    "snapshot": ("snapshot", "CTID", "--id", SECOND, "--skip-suspend"),
    "snapshot-switch": ("snapshot-switch", "CTID", "--id", FIRST, "--skip-resume"),
    "snapshot-delete": ("snapshot-delete", "CTID", "--id", SECOND),
    "compact": ("compact", "CTID"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_a_system_call(vz: Vz, node: Node, made: int, name: str) -> None:
    """Struck at calls all over it: the old or the new state, sound images, no loop device, and it works afterwards."""
    words = tuple(made if word == "CTID" else word for word in COMMANDS[name])
    vz.ok("snapshot", made, "--id", FIRST)

    def prepare() -> None:
        if name == "set":
            vz.ok("set", made, "--diskspace", "1G", "--save")
        elif name == "snapshot-delete":
            vz("snapshot", made, "--id", SECOND)
        elif name == "snapshot":
            vz("snapshot-delete", made, "--id", SECOND)

    prepare()
    count = strike(node, 0, "main", *words)
    assert count > 3
    sound(vz, node, made)
    tries = range(1, count + 1) if SOAK else sorted({1 + (count - 1) * part // 4 for part in range(5)})
    for at in tries:
        for how in ("main", "all"):
            prepare()
            strike(node, at, how, *words)
            sound(vz, node, made)
    vz.ok("snapshot", made)
    vz.ok("snapshot-switch", made, "--id", FIRST)
    vz.ok("start", made)
    assert [name for name in os.listdir(image(node, made).parent) if name.endswith((".tmp", ".new"))] == []


def test_a_ct_goes_on_when_its_snapshot_is_killed(vz: Vz, node: Node, made: int) -> None:
    """The dump holds the CT while its image is copied; whoever comes next lets it go on."""
    vz.ok("start", made)
    vz.sh(
        made,
        "(i=0; while :; do i=$((i+1)); echo $i > /count.new; mv /count.new /count; sleep 0.05; done) >/dev/null 2>&1 </dev/null &",
    )
    began = time.monotonic()
    done = vz("snapshot", made, "--id", FIRST)
    if "criu is not installed" in done.stderr:
        pytest.skip("needs criu")
    assert done.returncode == 0, done
    took = time.monotonic() - began
    for part in range(1, 12, 1 if SOAK else 2):
        child = node.popen(
            "vzctl", "snapshot", str(made), "--id", SECOND, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(took * part / 12)
        child.send_signal(signal.SIGKILL)
        child.wait()
        vz("snapshot-delete", made, "--id", SECOND)
        before = int(vz.sh(made, "cat /count"))
        assert int(vz.sh(made, "sleep 0.5; cat /count")) > before, part
    vz.ok("snapshot-switch", made, "--id", FIRST, "--must-resume")
    sound(vz, node, made)


def test_killed_in_the_midst(vz: Vz, node: Node, made: int) -> None:
    """kill -9 by the clock, a few times in a row."""
    vz.ok("snapshot", made, "--id", FIRST)
    for words in COMMANDS.values():
        for delay in (0.03, 0.08, 0.15):
            argv = [str(made) if word == "CTID" else word for word in words]
            child = node.popen("vzctl", *argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
            child.wait()
        sound(vz, node, made)
    vz.ok("snapshot", made)
    vz.ok("start", made)
    left = [name for name in os.listdir(image(node, made).parent) if name.endswith((".tmp", ".new"))]
    assert left == []


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_snapshots_share_blocks_where_the_file_system_can(vz: Vz, node: Node, ctid: int, kind: str) -> None:
    """XFS and btrfs: a snapshot takes no space of its own, and says what it said before."""
    node.path("/vz/area").mkdir(exist_ok=True)
    disk = node.path("/vz/disk.img")
    with disk.open("wb") as file:
        file.truncate(1 << 30)
    mkfs = shutil.which(f"mkfs.{kind}")
    if mkfs is None:
        disk.unlink()
        pytest.skip(f"needs mkfs.{kind}")
    subprocess.run([mkfs, "-q", str(disk)], check=True)
    done = vz.run("mount", "-o", "loop", "/vz/disk.img", "/vz/area")
    if done.returncode:
        disk.unlink()
        pytest.skip(f"needs {kind}: {done.stderr.strip()}")
    try:
        words = ("--layout", "ploop", "--diskspace", "1G", "--private", f"/vz/area/{ctid}")
        vz.ok("create", ctid, "--ostemplate", BUSYBOX, *words)
        vz.ok("start", ctid)
        vz.sh(ctid, "dd if=/dev/urandom of=/big bs=1M count=64; md5sum /big > /sum; sync")
        used = os.statvfs(node.path("/vz/area"))
        for _ in range(3):
            vz.ok("snapshot", ctid, "--skip-suspend")
        now = os.statvfs(node.path("/vz/area"))
        assert (used.f_bfree - now.f_bfree) * used.f_frsize < 32 << 20
        vz.sh(ctid, "dd if=/dev/zero of=/big bs=1M count=64 conv=notrunc; sync")
        uuid = vz.run("vzctl", "snapshot-list", ctid, "-H", "-o", "uuid").stdout.split()[1]
        vz.ok("snapshot-switch", ctid, "--id", uuid)
        vz.ok("start", ctid)
        assert vz.sh(ctid, "md5sum -c /sum") == "/big: OK\n"
    finally:
        vz.remove(ctid)
        for _ in range(50):  # what destroy deletes in the background
            if vz.run("umount", "/vz/area").returncode == 0:
                break
            time.sleep(0.1)
        disk.unlink()


def test_a_full_node_is_warned_of(vz: Vz, node: Node, made: int) -> None:
    conf = node.path("/etc/vz/vz.conf")
    old = conf.read_text()
    conf.write_text(f"{old}DISK_RESERVE=900T\n")
    try:
        done = vz("start", made)
        assert done.returncode == 0 and "DISK_RESERVE" in done.stderr, done
    finally:
        conf.write_text(old)


def test_mount_options(vz: Vz, made: int) -> None:
    vz.ok("set", made, "--mount_opts", "noatime,barrier=1,discard", "--save")
    vz.ok("start", made)
    line = next(line for line in vz.sh(made, "cat /proc/mounts").splitlines() if " / ext4 " in line)
    assert "noatime" in line and "discard" in line and "errors=remount-ro" in line
    vz.ok("stop", made, "--fast")
    vz.ok("set", made, "--mount_opts", "nonsense", "--save")
    done = vz("start", made)
    assert done.returncode == 50 and len(done.stderr.splitlines()) == 2 and "nonsense" in done.stderr, done
