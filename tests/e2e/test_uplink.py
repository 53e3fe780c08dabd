"""The node's network and its CTs: a second host reaches them at once, keeps its own addresses, learns where they moved."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Vz, leftovers
from netns import Neighbour, Netns, Sniffer, wait_until
from testnode import ADDRESS4, ADDRESS6, Node

Conf = Callable[[str], None]
NewCt = Callable[..., int]


def pings(netns: Netns, address: str) -> bool:
    with netns.entered():
        return subprocess.run(["ping", "-c1", "-W1", address], capture_output=True).returncode == 0


def proxies(inside: Netns) -> str:
    return inside.run("ip", "neigh", "show", "proxy") + inside.run("ip", "-6", "neigh", "show", "proxy")


def test_a_second_host_and_the_ct_reach_each_other(vz: Vz, neighbour: Neighbour, new_ct: NewCt) -> None:
    ct = new_ct("--ipadd", "192.0.2.111", "--ipadd", "2001:db8::111")
    assert pings(neighbour, "192.0.2.111"), "the first packet, with nothing in the neighbour's tables"
    assert pings(neighbour, "2001:db8::111")
    for address in (neighbour.ADDRESS4, neighbour.ADDRESS6):
        six = "-6 " if ":" in address else ""
        assert vz("exec", ct, f"ping {six}-c1 -W1 {address}").returncode == 0, address
    vz.ok("stop", ct, "--fast")
    assert not pings(neighbour, "192.0.2.111")


def test_answers_for_cts_are_not_put_off(inside: Netns, new_ct: NewCt) -> None:
    """proxy_delay of the kernel is a random time up to 0.8 s."""
    for name in ("ipv4/neigh", "ipv6/neigh"):
        inside.write(f"net/{name}/up0/proxy_delay", "80")
    new_ct("--ipadd", "192.0.2.112", "--ipadd", "2001:db8::112")
    for name in ("ipv4/neigh/up0/proxy_delay", "ipv6/neigh/up0/proxy_delay"):
        assert inside.run("cat", f"/proc/sys/net/{name}") == "0\n"


def test_a_neighbour_learns_where_an_address_is_now(vz: Vz, neighbour: Neighbour, ct: int) -> None:
    """It was on another node until now: what the neighbour knows leads there."""
    for address in ("192.0.2.113", "2001:db8::113"):
        neighbour.run("ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:77", "dev", "eth0", "nud", "stale")
    vz.ok("set", ct, "--ipadd", "192.0.2.113", "--ipadd", "2001:db8::113", "--save")
    for address in ("192.0.2.113", "2001:db8::113"):
        assert wait_until(lambda a=address: "02:00:00:00:00:77" not in neighbour.run("ip", "neigh", "show", a))  # type: ignore[misc]
        assert pings(neighbour, address), address


@pytest.fixture
def taken(neighbour: Neighbour) -> list[str]:
    """Addresses that the neighbour has."""
    found = ["192.0.2.121", "2001:db8::121"]
    for address in found:
        length = 64 if ":" in address else 24
        neighbour.run("ip", "addr", "add", f"{address}/{length}", "dev", "eth0", *(["nodad"] if length == 64 else []))
    return found


def said(words: str, address: str, mac: str) -> bool:
    return f"WARNING: Address {address} is in use by another host: {mac} answered\n" in words


def test_an_address_that_a_neighbour_has_is_named(
    vz: Vz, neighbour: Neighbour, taken: list[str], new_ct: NewCt, ct: int
) -> None:
    other = new_ct("--ipadd", taken[0], "--ipadd", taken[1], "--ipadd", "192.0.2.122", start=False)
    done = vz("start", other)
    assert done.returncode == 0
    for address in taken:
        assert said(done.stderr, address, neighbour.mac), done.stderr
    assert "192.0.2.122" not in done.stderr
    vz.ok("stop", other, "--fast")
    for address in taken:
        done = vz("set", ct, "--ipadd", address)
        assert done.returncode == 0 and said(done.stderr, address, neighbour.mac)
        vz.ok("set", ct, "--ipdel", address)
        done = vz("set", ct, "--ipadd", address, "--skip_arpdetect")
        assert done.returncode == 0 and "another host" not in done.stderr
        vz.ok("set", ct, "--ipdel", address)


@pytest.mark.parametrize("number", [0, 1])
def test_error_on_arpfail_refuses_it(
    vz: Vz, node: Node, inside: Netns, taken: list[str], new_ct: NewCt, ct: int, vz_conf: Conf, number: int
) -> None:
    vz_conf("ERROR_ON_ARPFAIL=yes")
    other = new_ct("--ipadd", taken[number], "--ipadd", "192.0.2.123", start=False)
    done = vz("start", other)
    assert done.returncode == 78 and f"Address {taken[number]} is in use by another host" in done.stderr
    assert vz("status", other).stdout.endswith("unmounted down\n")
    left = leftovers(node, other)
    assert not [what for what in left if "nft" in what or "interface" in what], left
    assert "192.0.2.123" not in proxies(inside)
    assert not node.path("/run/vz/ip/192.0.2.123").is_symlink()
    done = vz("set", ct, "--ipadd", f"192.0.2.123 {taken[number]}", "--save")
    assert done.returncode == 78
    assert "venet0" not in vz.sh(ct, "ip link") and "192.0.2.123" not in proxies(inside)
    assert "IP_ADDR" not in node.path(f"/etc/vz/conf/{ct}.conf").read_text()
    vz_conf("ERROR_ON_ARPFAIL=yes\nSKIP_ARPDETECT=yes")
    vz.ok("start", other)


def test_neighbour_devs(vz: Vz, inside: Netns, bridge: Callable[[str], None], ct: int, vz_conf: Conf) -> None:
    bridge("eth8")
    inside.run("ip", "addr", "add", "198.51.100.254/24", "dev", "eth8")
    bridge("eth9")  # no address
    near, far = "192.0.2.131", "198.51.100.131"

    def add_both() -> str:
        vz.ok("set", ct, "--ipadd", near, "--ipadd", far)
        text = proxies(inside)
        vz.ok("set", ct, "--ipdel", "all")
        assert near not in proxies(inside) and far not in proxies(inside)
        return text

    def devices(text: str, address: str) -> list[str]:
        return sorted(line.split()[2] for line in text.splitlines() if line.split()[0] == address)

    text = add_both()
    assert devices(text, near) == devices(text, far) == ["eth8", "up0"], "all that have an address"
    vz_conf("NEIGHBOUR_DEVS=detect")
    text = add_both()
    assert (devices(text, near), devices(text, far)) == (["up0"], ["eth8"])
    vz_conf('NEIGHBOUR_DEVS="list:eth9 nope0"')
    text = add_both()
    assert devices(text, near) == devices(text, far) == ["eth9"]


def test_a_bridge_of_the_admin_may_have_a_name_like_ours(
    vz: Vz, inside: Netns, bridge: Callable[[str], None], new_ct: NewCt
) -> None:
    """vzbr0, vzbreth0, vzbr400 are the usual names: what comes in by them is not a CT's to be checked."""
    bridge("vzbr0")
    inside.run("ip", "addr", "add", "203.0.113.254/24", "dev", "vzbr0")
    other = Neighbour(inside, "vzbr0")
    sniffer = Sniffer(other, "eth0")
    try:
        other.run("ip", "addr", "add", "203.0.113.7/24", "dev", "eth0")
        ct = new_ct("--ipadd", "203.0.113.9")
        assert "203.0.113.9 dev vzbr0" in proxies(inside)
        assert sniffer.wait(lambda frame: frame[12:14] == b"\x08\x06" and frame[28:32] == bytes((203, 0, 113, 9)))
        assert pings(other, "203.0.113.254") and pings(inside, "203.0.113.7"), "the node itself"
        assert pings(other, "203.0.113.9")
        assert vz("exec", ct, "ping -c1 -W1 203.0.113.7").returncode == 0
    finally:
        sniffer.close()
        other.close()


@pytest.mark.parametrize("address", [ADDRESS4, ADDRESS6, "192.0.2.255"])
def test_an_address_of_the_node_is_not_available(vz: Vz, node: Node, new_ct: NewCt, ct: int, address: str) -> None:
    other = new_ct("--ipadd", address, start=False)
    done = vz("start", other)
    assert done.returncode == 89 and f"Address {address} is not available: " in done.stderr
    assert vz("status", other).stdout.endswith("unmounted down\n")
    assert vz("set", ct, "--ipadd", address, "--save").returncode == 89
    assert "venet0" not in vz.sh(ct, "ip link")
    assert vz.run("ping", "-c1", "-W1", ADDRESS4).returncode == 0, "the node's own is still its own"


def test_force_route(vz: Vz, inside: Netns, new_ct: NewCt, vz_conf: Conf) -> None:
    inside.run("ip", "route", "add", "198.51.100.141", "dev", "up0")
    inside.run("ip", "-6", "route", "add", "2001:db8:1::141", "dev", "up0")
    try:
        for address in ("198.51.100.141", "2001:db8:1::141"):
            ct = new_ct("--ipadd", address, start=False)
            done = vz("start", ct)
            assert done.returncode == 34 and "FORCE_ROUTE=yes" in done.stderr
            assert vz("status", ct).stdout.endswith("unmounted down\n")
            assert "dev up0" in inside.run("ip", "route", "get", address), "what was there is still there"
            vz_conf("FORCE_ROUTE=yes")
            vz.ok("start", ct)
            assert f"dev vz{ct}" in inside.run("ip", "route", "get", address)
            assert vz.run("ping", "-c1", "-W1", address).returncode == 0
            vz_conf("")
    finally:
        for family in ("-4", "-6"):
            for address in ("198.51.100.141", "2001:db8:1::141"):
                vz.run("ip", family, "route", "del", address, "dev", "up0")


def test_ve_route_src_dev(vz: Vz, inside: Netns, bridge: Callable[[str], None], new_ct: NewCt, vz_conf: Conf) -> None:
    bridge("eth8")
    inside.run("ip", "addr", "add", "203.0.113.254/24", "dev", "eth8")
    vz_conf('VE_ROUTE_SRC_DEV="eth8"')
    new_ct("--ipadd", "192.0.2.142", "--ipadd", "2001:db8::142")
    assert "src 203.0.113.254" in inside.run("ip", "route", "show", "192.0.2.142")
    assert vz.run("ping", "-c1", "-W1", "192.0.2.142").returncode == 0
    assert vz.run("ping", "-c1", "-W1", "2001:db8::142").returncode == 0
    other = new_ct("--ipadd", "192.0.2.143", start=False)
    vz_conf('VE_ROUTE_SRC_DEV="eth99"')
    done = vz("start", other)
    assert done.returncode == 34 and "VE_ROUTE_SRC_DEV: device eth99 has no IPv4 address" in done.stderr


def test_without_ipv6(vz: Vz, inside: Netns, new_ct: NewCt, vz_conf: Conf) -> None:
    ct = new_ct("--ipadd", "192.0.2.144", "--ipadd", "2001:db8::144", start=False)
    vz_conf("IPV6=no")
    done = vz("start", ct)
    assert done.returncode == 0 and "2001:db8::144" in done.stderr, "it is said that it is left out"
    assert "2001:db8::144" not in vz.sh(ct, "ip addr") + proxies(inside)
    assert vz.run("ping", "-c1", "-W1", "192.0.2.144").returncode == 0
    done = vz("set", ct, "--ipadd", "2001:db8::145", "--save")
    assert done.returncode == 0 and "2001:db8::145 is left out" in done.stderr
    assert "2001:db8::145" not in vz.sh(ct, "ip addr")


def test_a_node_that_does_not_forward_ipv6_is_told(vz: Vz, inside: Netns, new_ct: NewCt) -> None:
    ct = new_ct("--ipadd", "192.0.2.146", "--ipadd", "2001:db8::146", start=False)
    inside.write("net/ipv6/conf/all/forwarding", "0")
    try:
        done = vz("start", ct)
        assert done.returncode == 0 and "net.ipv6.conf.all.forwarding=0" in done.stderr
    finally:
        inside.write("net/ipv6/conf/all/forwarding", "1")
    vz.ok("set", ct, "--ipdel", "2001:db8::146", "--save")
    done = vz("restart", ct, "--fast")
    assert "forwarding" not in done.stderr


def test_a_flushed_ruleset_is_made_again_for_all(
    vz: Vz, inside: Netns, bridge: Callable[[str], None], new_ct: NewCt
) -> None:
    """``nft flush ruleset`` is the first line of many an nftables.conf, and a reload runs it."""
    bridge("br7")
    one = new_ct("--ipadd", "192.0.2.151", "--ipadd", "2001:db8::151", "--netif_add", "eth0,00:18:51:AA:01:01,,,br7")
    vz.sh(one, "ip addr add 192.0.2.152/32 dev venet0; ip -6 addr add 2001:db8::152/128 dev venet0 nodad")
    forged = f"ping -6 -c1 -W1 -I 2001:db8::152 {ADDRESS6}"
    inside.run("nft", "flush", "ruleset")
    vz.ok("set", new_ct(), "--ipadd", "192.0.2.153", "--netif_add", "eth0,00:18:51:AA:01:02,,,br7")
    assert vz("exec", one, forged).returncode != 0
    assert vz("exec", one, f"ping -6 -c1 -W1 -I 2001:db8::151 {ADDRESS6}").returncode == 0
    listed = inside.run("nft", "list", "ruleset")
    assert f'"vz{one}" . 192.0.2.151' in listed and f'"veth{one}.0" . 00:18:51:aa:01:01' in listed
    for number in (one,):
        vz.ok("stop", number, "--fast")


def test_two_starts_at_once_with_one_address(vz: Vz, node: Node, new_ct: NewCt) -> None:
    both = [new_ct("--ipadd", "192.0.2.161", start=False) for _ in range(2)]
    for _ in range(3):
        running = [node.popen("vzctl", "start", str(ct), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for ct in both]
        ended = [(process.communicate(timeout=60), process.returncode) for process in running]
        assert sorted(code for _, code in ended) == [0, 78], ended
        assert vz.run("ping", "-c1", "-W1", "192.0.2.161").returncode == 0
        for ct in both:
            vz("stop", ct, "--fast")


def test_an_address_of_a_dead_ct_can_be_taken_over(vz: Vz, node: Node, inside: Netns, new_ct: NewCt) -> None:
    """Its init was killed and nobody has cleared up yet; clearing up later must not disturb the new owner."""
    dead = new_ct("--ipadd", "192.0.2.162", "--ipadd", "2001:db8::162")
    kill_init(node, dead)
    heir = new_ct("--ipadd", "192.0.2.162", "--ipadd", "2001:db8::162")
    vz("stop", dead)
    for address in ("192.0.2.162", "2001:db8::162"):
        assert f"{address} dev up0" in proxies(inside)
        assert vz.run("ping", "-c1", "-W1", address).returncode == 0
    done = vz("start", dead)
    assert done.returncode == 78 and f"in use by container {heir}" in done.stderr


def kill_init(node: Node, ct: int) -> None:
    """kill -9 of the CT's init, from the node."""
    pid = int(node.path(f"/var/lib/vzctl/vepid/{ct}").read_text())
    subprocess.run(["kill", "-9", str(pid)], check=True)
    # the host's process 1 reaps it, in its own time
    assert wait_until(lambda: state(pid) in ("Z", ""))


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def picture(vz: Vz, inside: Netns, ct: int) -> dict[str, list[str]]:
    """Everything of the CT's network that can be seen, in a form that is the same for the same network."""
    rules = inside.run("nft", "list", "table", "inet", "vz")
    return {
        "addresses": sorted(vz.sh(ct, "ip -o addr | awk '{print $2, $4}'").splitlines()),
        "routes inside": sorted(vz.sh(ct, "ip route; ip -6 route").splitlines()),
        "links inside": sorted(vz.sh(ct, "ip -o link | cut -d' ' -f2,3").splitlines()),
        "routes": sorted(line for line in inside.run("ip", "route", "show", "dev", f"vz{ct}").splitlines()),
        "routes6": sorted(line for line in inside.run("ip", "-6", "route", "show", "dev", f"vz{ct}").splitlines()),
        "proxies": sorted(line for line in proxies(inside).splitlines() if "192.0.2.17" in line or ":17" in line),
        "filter": sorted(word for word in rules.replace(",", "\n").split("\n") if f'"vz{ct}" .' in word),
    }


def test_changes_to_a_running_ct_are_what_a_start_makes(vz: Vz, inside: Netns, new_ct: NewCt) -> None:
    ct = new_ct("--ipadd", "192.0.2.171", "--ipadd", "2001:db8::171", "--ipadd", "192.0.2.172")
    vz.ok("set", ct, "--ipadd", "192.0.2.173", "--ipadd", "2001:db8::173", "--ipdel", "192.0.2.171", "--save")
    live = picture(vz, inside, ct)
    assert len(live["addresses"]) >= 6 and len(live["filter"]) == 4
    vz.ok("restart", ct, "--fast")
    assert picture(vz, inside, ct) == live
    vz.ok("set", ct, "--ipdel", "2001:db8::171", "--ipdel", "2001:db8::173", "--save")
    live = picture(vz, inside, ct)
    assert live["routes6"] == [] and not any("default" in line and "::" in line for line in live["routes inside"])
    vz.ok("restart", ct, "--fast")
    assert picture(vz, inside, ct) == live


def test_with_the_last_address_venet0_goes_and_comes_back(vz: Vz, node: Node, inside: Netns, new_ct: NewCt) -> None:
    ct = new_ct("--ipadd", "192.0.2.174")
    counts = node.path(f"/var/lib/vzctl/traffic/{ct}")
    assert vz.run("ping", "-c2", "-i0.2", "-s1000", "192.0.2.174").returncode == 0
    vz.ok("set", ct, "--ipdel", "all", "--save")
    assert "venet0" not in vz.sh(ct, "ip link") and f"vz{ct}" not in inside.run("ip", "link")
    first = int(counts.read_text().split()[0])
    assert first >= 2 * 1028
    vz.ok("set", ct, "--ipadd", "192.0.2.175", "--save")
    assert vz.run("ping", "-c2", "-i0.2", "-s1000", "192.0.2.175").returncode == 0
    vz.ok("stop", ct, "--fast")
    received, sent, _ = map(int, counts.read_text().split())
    assert received >= first + 2 * 1028 and sent >= 4 * 1028


def test_counts_are_not_added_twice_by_a_killed_stop(vz: Vz, node: Node, new_ct: NewCt) -> None:
    ct = new_ct("--ipadd", "192.0.2.176")
    vz.run("ping", "-c1", "-s1000", "192.0.2.176")
    counts = node.path(f"/var/lib/vzctl/traffic/{ct}")
    # stop gets as far as the sums, and no further: what it would have done next is left for the next command
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "src")!r})
from vz.net import traffic
traffic.fold({ct})
"""
    vz.run("/usr/bin/python3", "-I", "-S", "-B", "-c", script)
    once = counts.read_text()
    kill_init(node, ct)
    vz("stop", ct)
    assert counts.read_text() == once
    vz.ok("start", ct)
    vz.run("ping", "-c1", "-s1000", "192.0.2.176")
    vz.ok("stop", ct, "--fast")
    assert 2 * 1028 <= int(counts.read_text().split()[0]) < 3 * 1028, "the node's own multicasts are in it, too"
