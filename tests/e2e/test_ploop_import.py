"""A disk of OpenVZ's becomes a CT's image and runs; a CT's image becomes such a disk."""

from __future__ import annotations

import os

from conftest import BUSYBOX, Vz
from testnode import Node

THEIRS = "/usr/sbin/ploop"


def test_a_container_goes_out_as_a_stack_of_deltas_and_comes_back(vz: Vz, node: Node, ctid: int) -> None:
    """Created here, exported as version 1, snapshots made and one gone back to, imported again, started."""
    image, out = f"/vz/private/{ctid}/root.hdd/root.hdd", "/vz/out/DiskDescriptor.xml"
    vz.ok("create", ctid, "--ostemplate", BUSYBOX, "--layout", "ploop", "--diskspace", "200M")
    try:
        vz.ok("start", ctid)
        vz.sh(ctid, "echo first > /root.txt; chown 7:8 /root.txt; sync")
        busy = vz.run("ploop", "convert", "-f", "expanded", "-o", "/vz/x", image)
        assert (busy.returncode, "in use as /dev/loop" in busy.stderr) == (37, True)
        vz.ok("stop", ctid, "--fast")

        def ploop(*words: str) -> str:
            done = vz.run("ploop", *words)
            assert done.returncode == 0, done.stdout + done.stderr
            return str(done.stdout)

        node.path("/vz/out").mkdir()
        ploop("convert", "-f", "expanded", "-v", "1", "-p", "-o", "/vz/out/root.hdd", image)
        first = "{00000000-0000-4000-8000-000000000001}"
        ploop("snapshot", "-u", first, out)
        ploop("resize", "-s", "300M", out)
        ploop("check", out)
        if os.path.exists(THEIRS) and os.path.isdir("/var/lock"):
            done = vz.run(THEIRS, "check", out)
            assert done.returncode == 0, done.stderr
        for snapshot, least in (("{5fbaabe3-6958-40ff-92a7-860e329aab41}", 250000), (first, 150000)):
            node.path(image).unlink()
            ploop("convert", "-f", "raw", "-p", "-u", snapshot, "-o", image, out)
            vz.ok("start", ctid)
            assert vz.sh(ctid, "cat /root.txt; stat -c '%u %g' /root.txt").split() == ["first", "7", "8"]
            assert least < int(vz.sh(ctid, "df -k / | tail -1").split()[1]) < least + 60000
            vz.ok("stop", ctid, "--fast")
    finally:
        vz.remove(ctid)
