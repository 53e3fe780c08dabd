"""vzmigrate --online HOST CTID:NEWID: a running CT gets another id on its way, and its old one on the way back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from test_migrate_live import ADDRESS, SERVER, Talk

from conftest import BUSYBOX, SOAK, cgroup_dirs, rest, template
from rig import GONE, RUNNING, Rig, inside, ok, status
from testnode import Node

_ids = itertools.count(8601)
SECOND = "198.51.100.41"
# the same server as SERVER for a system that has no Perl
BUSYBOX_SERVER = """
cat > /root/answer <<'END'
#!/bin/sh
n=0
while read -r line; do n=$((n+1)); echo "$n ok $line"; done
END
chmod 755 /root/answer
setsid nc -ll -p 7777 -e /root/answer </dev/null >/dev/null 2>&1 &
"""


@pytest.fixture
def ids(rig: Rig) -> Iterator[tuple[int, int]]:
    """Two ids whose CTs are gone at the end."""
    pair = next(_ids), next(_ids)
    yield pair
    for node in (rig.a, rig.b):
        for ctid in pair:
            for words in (("stop", ctid, "--fast"), ("destroy", ctid)):
                node.run("vzctl", *(str(word) for word in words))


def look(node: Node, ctid: int) -> dict[str, str]:
    """Return what must be the same whatever the id is."""
    script = {
        "hostname": "hostname",
        "addresses": "ip -o addr show dev venet0 | awk '{print $4}'",
        "links": "ls /sys/class/net",
        "root": "cat /root/file; stat -c '%u %g' /root/file",
        "cgroup": "cat /proc/1/cgroup | grep ^0:",
    }
    return {name: inside(node, ctid, words) for name, words in script.items()}


def host_side(node: Node, ctid: int, other: int) -> None:
    """The node knows the CT by this id and nothing of it by the other."""
    devices = node.run("ip", "-br", "link").stdout
    assert f"vz{ctid}@" in devices and f"veth{ctid}.0@" in devices, devices
    assert f"vz{other}@" not in devices and f"veth{other}.0@" not in devices, devices
    mac = next(line.split()[2] for line in devices.splitlines() if line.startswith(f"vz{ctid}@"))
    assert inside(node, ctid, "cat /sys/class/net/venet0/address").strip() == mac
    tops = cgroup_dirs(node.cgroup_parent)
    assert any((top / str(ctid)).exists() for top in tops) and not any((top / str(other)).exists() for top in tops)
    rules = node.run("nft", "list", "ruleset").stdout
    assert f'"vz{ctid}"' in rules and f'"vz{other}"' not in rules
    assert node.run("tc", "qdisc", "show", "dev", f"vz{ctid}").stdout.startswith("qdisc tbf 7: root")


@pytest.mark.parametrize("system", ["busybox", "debian-12"] if SOAK else ["busybox"])
def test_there_under_another_id_and_back(rig: Rig, ids: tuple[int, int], system: str) -> None:
    ct, other = ids
    name = BUSYBOX if system == "busybox" else template(system)
    ok(rig.a, "vzctl", "create", ct, "--ostemplate", name, "--ipadd", ADDRESS)
    ok(rig.a, "vzctl", "set", ct, "--netif_add", "eth0", "--save")
    ok(rig.a, "vzctl", "start", ct, "--wait")
    inside(rig.a, ct, "echo x > /root/file; chown 7:8 /root/file")
    inside(rig.a, ct, BUSYBOX_SERVER if system == "busybox" else SERVER)
    ok(rig.a, "tc", "qdisc", "add", "dev", f"vz{ct}", "root", "handle", "7:", *TBF)
    before = look(rig.a, ct)
    host_side(rig.a, ct, other)
    talking = Talk(rig)
    try:
        done = rig.migrate(rig.a, "--online", f"{ct}:{other}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        assert done.stdout.splitlines()[-1].startswith(
            f"Container {ct} is running on {rig.b.address4} as {other}; it was"
        )
        assert status(rig.a, ct) == GONE and rest(rig.a, ct) == []
        assert status(rig.b, ct) == GONE and rest(rig.b, ct) == [] and status(rig.b, other) == RUNNING
        assert look(rig.b, other) == before
        host_side(rig.b, other, ct)
        # addresses come and go, by whatever index venet0 has
        ok(rig.b, "vzctl", "set", other, "--ipadd", SECOND)
        ok(rig.b, "ping", "-c1", "-W3", SECOND)
        ok(rig.b, "vzctl", "set", other, "--ipdel", SECOND)
        assert SECOND not in inside(rig.b, other, "ip addr")
        # and it is dumped and restored by that id
        for verb in ("check", "chkpnt", "restore"):
            ok(rig.b, "vzctl", verb, other)
        assert look(rig.b, other) == before
        host_side(rig.b, other, ct)
        done = rig.migrate(rig.b, "--online", f"{other}:{ct}")
        assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
        assert status(rig.b, other) == GONE and rest(rig.b, other) == [] and status(rig.a, ct) == RUNNING
        assert look(rig.a, ct) == before
        host_side(rig.a, ct, other)
        assert talking.end()[0] > 2
    finally:
        talking.process.kill()
        talking.process.communicate()
    if system != "busybox":
        assert inside(rig.a, ct, "systemctl is-system-running").strip() == "running"
    ok(rig.a, "vzctl", "restart", ct)
    assert f"vz{ct}@" in ok(rig.a, "ip", "-br", "link")


TBF = ("tbf", "rate", "500mbit", "burst", "100kb", "latency", "50ms")
