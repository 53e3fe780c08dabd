"""Host devices lent to a CT come back, however the CT or the command ends; with kinds that would die with the CT."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator

import pytest

from conftest import BUSYBOX, SOAK, Vz, leftovers
from netns import Netns, wait_until
from testnode import Node

NewCt = Callable[..., int]
KILLS = 60 if SOAK else 12


@pytest.fixture
def gifts(inside: Netns) -> Iterator[list[str]]:
    """Two devices that the kernel would delete together with the namespace they are in."""
    made = []
    for name in ("gift0", "gift1"):
        inside.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
        made.append(name)
    yield made
    for name in made:
        inside.run("ip", "link", "del", f"{name}p")


def on_node(inside: Netns) -> list[str]:
    return sorted(link["ifname"] for link in inside.json("ip", "-j", "link") if link["ifname"] in ("gift0", "gift1"))


def kill_init(node: Node, ct: int) -> None:
    pid = node.path(f"/var/lib/vzctl/vepid/{ct}").read_text().strip()
    subprocess.run(["kill", "-9", pid], check=True)
    assert wait_until(lambda: node.run("vzctl", "status", str(ct)).stdout.split()[4] == "down")


def test_lent_at_start_and_returned_at_stop(vz: Vz, inside: Netns, gifts: list[str], new_ct: NewCt) -> None:
    ct = new_ct("--netdev_add", "gift0", "--netdev_add", "gift1")
    assert on_node(inside) == [] and {"gift0", "gift1"} <= set(vz.sh(ct, "ls /sys/class/net").split())
    vz.ok("stop", ct)
    assert on_node(inside) == gifts
    vz.ok("start", ct)
    assert on_node(inside) == []
    vz.ok("restart", ct, "--fast")
    assert "gift0" in vz.sh(ct, "ip link")
    vz.ok("stop", ct, "--fast")
    assert on_node(inside) == gifts


def test_lent_and_returned_while_it_runs(vz: Vz, node: Node, inside: Netns, gifts: list[str], ct: int) -> None:
    vz.ok("set", ct, "--netdev_add", "gift0", "--netdev_add", "gift1", "--save")
    assert on_node(inside) == [] and "gift1" in vz.sh(ct, "ip link")
    vz.ok("set", ct, "--netdev_del", "gift0", "--save")
    assert on_node(inside) == ["gift0"] and "gift0" not in vz.sh(ct, "ip link")
    assert 'NETDEV="gift1"' in node.path(f"/etc/vz/conf/{ct}.conf").read_text()
    vz.ok("set", ct, "--netdev_del", "gift1", "--save")
    assert on_node(inside) == gifts
    mounts = node.run("cat", "/proc/self/mountinfo").stdout
    assert f"/run/vz/{ct}/netns" not in mounts, "nothing holds the namespace any more"


def test_a_device_that_is_not_there(vz: Vz, node: Node, new_ct: NewCt, ct: int) -> None:
    other = new_ct("--netdev_add", "gift7", start=False)
    done = vz("start", other)
    assert done.returncode == 104 and "Network device gift7 is not on this node\n" in done.stderr
    assert vz("status", other).stdout.endswith("unmounted down\n")
    done = vz("set", ct, "--netdev_add", "gift7", "--save")
    assert done.returncode == 104 and "NETDEV" not in node.path(f"/etc/vz/conf/{ct}.conf").read_text()
    for name in ("lo", "venet0", "tun0", "tap1"):
        assert vz("set", ct, "--netdev_add", name).returncode == 21


def test_a_start_that_fails_returns_them(vz: Vz, inside: Netns, gifts: list[str], new_ct: NewCt) -> None:
    ct = new_ct("--netdev_add", "gift0", "--netdev_add", "nope0", start=False)
    assert vz("start", ct).returncode == 104
    assert on_node(inside) == gifts
    broken = new_ct("--netdev_add", "gift0", start=False)
    vz.ok("mount", broken)
    vz.run("sh", "-c", f"rm /vz/root/{broken}/sbin/init || ls -l /vz/root/{broken}/sbin/init")
    vz.ok("umount", broken)
    done = vz("start", broken)
    assert done.returncode == 47, done.stderr
    assert on_node(inside) == gifts


def test_under_its_old_name_whatever_the_ct_called_it(vz: Vz, inside: Netns, gifts: list[str], new_ct: NewCt) -> None:
    ct = new_ct("--netdev_add", "gift0", "--netdev_add", "gift1")
    vz.sh(ct, "ip link set gift0 name mine0; ip link set mine0 up; ip link set gift1 name gift0")
    assert "mine0" in vz.sh(ct, "ip link")
    vz.ok("set", ct, "--netdev_del", "gift1")
    assert on_node(inside) == ["gift1"]
    vz.ok("stop", ct, "--fast")
    assert on_node(inside) == gifts
    peers = {link["ifname"]: link["link"] for link in inside.json("ip", "-j", "link") if "link" in link}
    assert (peers["gift0"], peers["gift1"]) == ("gift0p", "gift1p"), "each is what it was"


def test_a_name_that_is_taken_meanwhile(vz: Vz, inside: Netns, gifts: list[str], new_ct: NewCt) -> None:
    ct = new_ct("--netdev_add", "gift0")
    before = {link["ifname"] for link in inside.json("ip", "-j", "link")}
    inside.run("ip", "link", "add", "gift0", "type", "bridge")
    try:
        done = vz("stop", ct, "--fast")
        assert done.returncode == 0 and "WARNING: the node has another device gift0 now" in done.stderr
        new = {link["ifname"] for link in inside.json("ip", "-j", "link")} - before - {"gift0"}
        assert len(new) == 1, "it is back, if not by its name"
    finally:
        inside.run("ip", "link", "del", "gift0")
    for name in new:
        inside.run("ip", "link", "set", name, "name", "gift0")


@pytest.mark.parametrize("command", ["stop", "start", "destroy", "set"])
def test_returned_after_init_was_killed(
    vz: Vz, node: Node, inside: Netns, gifts: list[str], new_ct: NewCt, command: str
) -> None:
    ct = new_ct("--netdev_add", "gift0", "--ipadd", "192.0.2.191")
    kill_init(node, ct)
    if command == "set":
        vz.ok("set", ct, "--onboot", "no", "--save")
    elif command == "start":
        vz.ok("start", ct)
        assert "gift0" in vz.sh(ct, "ip link"), "returned, and lent again"
        vz.ok("stop", ct, "--fast")
    else:
        vz.ok(command, ct)
    assert on_node(inside) == gifts
    assert f"/run/vz/{ct}/netns" not in node.run("cat", "/proc/self/mountinfo").stdout
    if command == "destroy":
        assert wait_until(lambda: leftovers(node, ct) == []), leftovers(node, ct)


def test_returned_after_sigkill_of_any_command(vz: Vz, node: Node, inside: Netns, gifts: list[str]) -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    for number in range(KILLS):
        ct = 9000 + number
        about = f"seed {seed}, round {number}"
        vz.ok("create", ct, "--ostemplate", BUSYBOX)
        operation = ("start", "stop", "set_add", "set_del")[number % 4]
        if operation != "set_add":
            vz.ok("set", ct, "--netdev_add", "gift0", "--netdev_add", "gift1", "--save")
        if operation != "start":
            vz.ok("start", ct)
        words = {
            "start": ("start", ct),
            "stop": ("stop", ct, "--fast"),
            "set_add": ("set", ct, "--netdev_add", "gift0", "--netdev_add", "gift1", "--save"),
            "set_del": ("set", ct, "--netdev_del", "gift0", "--netdev_del", "gift1", "--save"),
        }[operation]
        process = node.popen("vzctl", *map(str, words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.005, 0.12))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        vz("stop", ct, "--fast")
        vz("umount", ct)
        assert on_node(inside) == gifts, about
        assert vz("destroy", ct).returncode == 0, about
        assert wait_until(lambda ct=ct: leftovers(node, ct) == []), (about, leftovers(node, ct))  # type: ignore[misc]
