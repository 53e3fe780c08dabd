"""venet and veth: addresses that work at once, nothing that can be forged, counts that last."""

from __future__ import annotations

import pytest

from conftest import Vz
from testnode import ADDRESS4, ADDRESS6, Node


def ping(vz: Vz, ctid: int, address: str) -> bool:
    six = "-6 " if ":" in address else ""
    return vz("exec", ctid, f"ping {six}-c1 -W1 {address}").returncode == 0


def test_two_cts_and_the_node_reach_each_other(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    one = new_ct("--ipadd", "192.0.2.11/24", "--ipadd", "2001:db8::11", "--ipadd", "198.51.100.11")
    two = new_ct("--ipadd", "192.0.2.12", "--ipadd", "2001:db8::12")
    for address in ("192.0.2.12", "2001:db8::12", ADDRESS4, ADDRESS6):
        assert ping(vz, one, address), address
    assert ping(vz, two, "198.51.100.11")
    for address in ("192.0.2.11", "198.51.100.11", "2001:db8::11"):
        assert vz.run("ping", "-c1", "-W1", address).returncode == 0, address


def test_an_address_works_the_moment_start_returns(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--ipadd", "192.0.2.13", "--ipadd", "2001:db8::13", start=False)
    done = vz.run("sh", "-c", f"vzctl --quiet start {ctid} && ping -c1 -W1 192.0.2.13 && ping -6 -c1 -W1 2001:db8::13")
    assert done.returncode == 0, done.stdout + done.stderr


def test_live_add_and_delete(vz: Vz, node: Node, ct: int) -> None:
    done = vz("set", ct, "--ipadd", "192.0.2.14/24", "--ipadd", "2001:db8::14", "--save")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Adding IP address(es): 192.0.2.14 2001:db8::14\n")
    assert vz.run("ping", "-c1", "-W1", "192.0.2.14").returncode == 0
    assert vz.run("cat", f"/var/lib/vzctl/veip/{ct}").stdout.split() == ["192.0.2.14", "2001:db8::14"]
    done = vz("set", ct, "--ipdel", "192.0.2.14", "--save")
    assert done.stdout.startswith("Deleting IP address(es): 192.0.2.14\n")
    assert vz.run("ping", "-c1", "-W1", "192.0.2.14").returncode != 0
    assert vz.run("ping", "-c1", "-W1", "2001:db8::14").returncode == 0
    vz.ok("set", ct, "--ipdel", "all", "--save")
    assert 'IP_ADDR=""' in node.path(f"/etc/vz/conf/{ct}.conf").read_text()


def test_an_address_in_use_is_refused(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    one = new_ct("--ipadd", "192.0.2.15")
    two = new_ct("--ipadd", "192.0.2.15", start=False)
    done = vz("start", two)
    assert done.returncode == 78
    assert f"Address 192.0.2.15 is in use by container {one}" in done.stderr
    assert vz("status", two).stdout == f"CTID {two} exist unmounted down\n"
    assert vz.run("ping", "-c1", "-W1", "192.0.2.15").returncode == 0


@pytest.mark.parametrize("source", ["192.0.2.99", "192.0.2.17", "2001:db8::99"])
def test_a_forged_source_address_goes_nowhere(vz: Vz, new_ct, source: str) -> None:  # type: ignore[no-untyped-def]
    attacker = new_ct("--ipadd", "192.0.2.16", "--ipadd", "2001:db8::16")
    victim = new_ct("--ipadd", "192.0.2.17", "--ipadd", "2001:db8::17")
    target = "2001:db8::17" if ":" in source else "192.0.2.1"
    length = 128 if ":" in source else 32
    vz.sh(attacker, f"ip addr add {source}/{length} dev venet0")
    counter = "nstat -az Ip6InReceives" if ":" in source else "true"
    vz.run("sh", "-c", counter)
    done = vz("exec", attacker, f"ping {'-6 ' if ':' in source else ''}-c1 -W1 -I {source} {target}")
    assert done.returncode == 8
    assert ping(vz, attacker, target)
    assert victim


def test_byte_counts_outlive_a_restart(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--ipadd", "192.0.2.18")
    assert vz.run("ping", "-c3", "-s1000", "-i0.2", "192.0.2.18").returncode == 0
    vz.ok("stop", ctid, "--fast")
    received, sent, _ = map(int, node.path(f"/var/lib/vzctl/traffic/{ctid}").read_text().split())
    assert received >= 3000 and sent >= 3000
    vz.ok("start", ctid)
    vz.run("ping", "-c1", "192.0.2.18")
    vz.ok("stop", ctid, "--fast")
    assert int(node.path(f"/var/lib/vzctl/traffic/{ctid}").read_text().split()[0]) > received


def test_the_node_answers_for_its_cts(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    new_ct("--ipadd", "192.0.2.19", "--ipadd", "2001:db8::19")
    proxied = vz.run("ip", "neigh", "show", "proxy").stdout + vz.run("ip", "-6", "neigh", "show", "proxy").stdout
    assert "192.0.2.19 dev up0" in proxied and "2001:db8::19 dev up0" in proxied


def test_bridged_interfaces_are_held_to_their_mac(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    vz.run("ip", "link", "add", "br7", "type", "bridge")
    vz.run("ip", "link", "set", "br7", "up")
    try:
        one = new_ct("--netif_add", "eth0,00:18:51:AA:00:01,,,br7")
        two = new_ct("--netif_add", "eth0,00:18:51:AA:00:02,,,br7")
        for ctid, last in ((one, 1), (two, 2)):
            vz.sh(ctid, f"ip addr add 203.0.113.{last}/24 dev eth0; ip link set eth0 up")
        assert ping(vz, one, "203.0.113.2")
        vz.sh(one, "ip link set eth0 down; ip link set eth0 address 00:18:51:aa:00:09; ip link set eth0 up")
        assert not ping(vz, one, "203.0.113.2")
        vz.ok("set", one, "--ifname", "eth0", "--mac_filter", "off", "--save")
        done = vz("exec", one, "ip link show eth0")
        assert "eth0" in done.stdout
        vz.ok("set", one, "--netif_del", "eth0", "--save")
        assert "eth0" not in vz("exec", one, "ip link").stdout
    finally:
        vz.run("ip", "link", "del", "br7")


def test_a_host_device_moves_in_and_comes_back(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    vz.run("ip", "link", "add", "gift0", "type", "veth", "peer", "name", "gift1")
    try:
        ctid = new_ct("--netdev_add", "gift0")
        assert "gift0" in vz("exec", ctid, "ip link").stdout
        assert "gift0" not in vz.run("ip", "link").stdout
        vz.ok("stop", ctid, "--fast")
        assert "gift0" in vz.run("ip", "link").stdout
        done = vz("set", ctid, "--netdev_add", "lo", "--save")
        assert done.returncode == 21
    finally:
        vz.run("ip", "link", "del", "gift0")


def test_a_ct_has_its_own_firewall_and_routes(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--ipadd", "192.0.2.20")
    vz.sh(ctid, "ip route add 203.0.113.0/24 dev venet0")
    assert "203.0.113.0/24" in vz("exec", ctid, "ip route").stdout
    assert "203.0.113.0/24" not in vz.run("ip", "route").stdout
