"""Many commands at once.  Killed commands: test_strikes.py."""

from __future__ import annotations

from conftest import BUSYBOX, Vz
from testnode import Node


def test_twenty_starts_at_once(vz: Vz, node: Node) -> None:
    import subprocess

    ids = list(range(6001, 6021))
    try:
        for ctid in ids:
            vz.ok("create", ctid, "--ostemplate", BUSYBOX)
            vz.ok("set", ctid, "--ipadd", f"198.51.100.{ctid - 6000}", "--save")
        running = [node.popen("vzctl", "start", str(c), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for c in ids]
        for process in running:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output.decode()
        listed = vz.run("vzlist", "-H", "-o", "ctid").stdout.split()
        assert set(map(str, ids)) <= set(listed)
        assert vz.run("ping", "-c1", "-W1", "198.51.100.20").returncode == 0
    finally:
        for ctid in ids:
            vz.remove(ctid)
