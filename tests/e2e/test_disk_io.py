"""iolimit, iopslimit and ioprio: live, from birth, on the disk of the CT's files, on both cgroup versions.

Times are asserted as least ones only: a limit makes things slow, and a busy machine slower still.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Vz, template
from testnode import Node

LOST = "WARNING: Settings were not saved to config and will be lost after CT restart (use --save flag)\n"
KEYS = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device", "blkio.throttle.read_iops_device")
WRITE = "dd if=/dev/zero of=/root/f bs=1M count=8 oflag=direct conv=fsync 2>&1"


def disk(node: Node) -> str:
    """Return MAJOR:MINOR of the whole disk below the node's /vz, or skip where there is none."""
    number = os.stat(node.home).st_dev
    folder = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not folder.is_dir():
        pytest.skip("needs a scratch directory on a disk")
    if (folder / "partition").exists():
        folder = folder.resolve().parent
    return (folder / "dev").read_text().strip()


def in_force(node: Node, ctid: int) -> tuple[str, str, str] | None:
    """Return (read bytes, written bytes, read operations) a second of the CT; "0" or "max" for no limit."""
    own = Path(f"/sys/fs/cgroup/{node.cgroup_parent}/{ctid}/ct/io.max")
    if own.exists():
        fields = dict(word.split("=") for word in own.read_text().split() if "=" in word)
        return tuple(fields.get(key, "max").replace("max", "0") for key in ("rbps", "wbps", "riops"))  # type: ignore[return-value]
    folder = Path(f"/sys/fs/cgroup/blkio/{node.cgroup_parent}/{ctid}")
    if not folder.is_dir():
        return None
    return tuple((folder / key).read_text().split()[1:2][0] if (folder / key).read_text() else "0" for key in KEYS)  # type: ignore[return-value]


def has_controller() -> bool:
    return (
        Path("/sys/fs/cgroup/blkio").is_dir() or "io" in Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    )


pytestmark = pytest.mark.skipif(not has_controller(), reason="needs the io or blkio controller")


def test_live_with_the_words_of_vzctl(vz: Vz, node: Node, ct: int) -> None:
    disk(node)
    assert in_force(node, ct) in (None, ("0", "0", "0"))
    done = vz("set", ct, "--iolimit", "5", "--iopslimit", "50")
    said = "Setting iolimit: 5242880 bytes/sec\nSetting iopslimit: 50 iops\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said + LOST, "")
    assert in_force(node, ct) == ("5242880", "5242880", "50")
    assert vz.run("vzlist", "-Ho", "iolimit,iopslimit", ct).stdout.split() == ["5242880", "50"]
    done = vz("set", ct, "--iolimit", "unlimited", "--iopslimit", "0")
    assert done.stdout == "Setting iolimit: 0 (unlimited)\nSetting iopslimit: 0 (unlimited)\n" + LOST
    assert in_force(node, ct) == ("0", "0", "0")


def test_every_process_is_in_it(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    """Those that ran before, those that exec starts, and those inside a container restarted with the limit."""
    ctid = new_ct()
    vz.sh(ctid, "sleep 300 & sleep 300 &")
    vz.ok("set", ctid, "--iolimit", "5", "--save")
    for _ in range(2):
        vz.sh(ctid, "sleep 200 &")
        own = Path(f"/sys/fs/cgroup/blkio/{node.cgroup_parent}/{ctid}/cgroup.procs")
        if own.exists():  # version 2 has all of the CT's processes below its own group in any case
            pids = Path(f"/sys/fs/cgroup/pids/{node.cgroup_parent}/{ctid}/cgroup.procs")
            assert own.read_text() == pids.read_text() != ""
        assert in_force(node, ctid) == ("5242880", "5242880", "0")
        vz.ok("restart", ctid, "--fast", timeout=60)
    vz.ok("stop", ctid, "--fast")
    assert in_force(node, ctid) is None


def test_a_limit_slows_down(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    disk(node)
    ctid = new_ct(template=template("debian-12"))
    quick = elapsed(vz, ctid)
    vz.ok("set", ctid, "--iolimit", "4M")
    slow = elapsed(vz, ctid)
    assert slow > 1.2, (quick, slow)  # 8 MiB at 4 MiB/s, less a first burst
    vz.ok("set", ctid, "--iolimit", "0", "--iopslimit", "8")
    script = "dd if=/dev/zero of=/root/g bs=4k count=24 oflag=direct 2>&1"
    began = time.monotonic()
    assert "24+0 records out" in vz("exec", ctid, script).stdout
    assert time.monotonic() - began > 1.5  # 24 at 8 a second
    neighbour = new_ct(template=template("debian-12"))
    assert elapsed(vz, neighbour) < slow + quick


def elapsed(vz: Vz, ctid: int) -> float:
    began = time.monotonic()
    assert "8+0 records out" in vz("exec", ctid, WRITE).stdout
    return time.monotonic() - began


def test_ioprio_says_when_it_is_in_vain(vz: Vz, node: Node, ct: int) -> None:
    path = Path(f"/sys/dev/block/{disk(node)}/queue/scheduler")
    scheduler = path.read_text() if path.exists() else "none"
    done = vz("set", ct, "--ioprio", "7", "--save")
    assert done.returncode == 0 and done.stdout.startswith("Set up ioprio: 7\n")
    if "[bfq]" in scheduler:
        assert done.stderr == ""
    else:
        assert done.stderr.startswith("WARNING: ioprio: no effect: ") and len(done.stderr.splitlines()) == 1
    assert 'IOPRIO="7"' in node.path(f"/etc/vz/conf/{ct}.conf").read_text()
    assert vz("set", ct, "--ioprio", "8").returncode == 21


def test_bad_values(vz: Vz, ct: int) -> None:
    for words in (["--iolimit", "2G"], ["--iolimit", "x"], ["--iopslimit", "unlimited"], ["--iopslimit", "-1"]):
        done = vz("set", ct, *words)
        assert (done.returncode, done.stderr) == (21, f"Bad parameter for {words[0]}: {words[1]}\n")
