"""vz.kernel.netlink, rtnetlink and nfnetlink against ip(8) and nft(8), in a network namespace of the test."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from netns import Netns, wait_until
from vz.kernel import nfnetlink as nf
from vz.kernel import rtnetlink as rt
from vz.kernel.netlink import AT_ONCE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SETS = """\
add table inet t
add set inet t pairs { type ifname . ipv4_addr; }
add set inet t pairs6 { type ifname . ipv6_addr; }
add set inet t counted { type ifname; counter; }
add table bridge t
add set bridge t macs { type ifname . ether_addr; }
"""


@pytest.fixture
def netns() -> Iterator[Netns]:
    made = Netns()
    yield made
    made.close()


@pytest.fixture
def inner() -> Iterator[Netns]:
    made = Netns()
    yield made
    made.close()


@pytest.fixture
def sock(netns: Netns) -> Iterator[rt.Route]:
    with netns.entered():
        made = rt.Route()
    with made:
        yield made


@pytest.fixture
def sets(netns: Netns) -> Iterator[nf.Netfilter]:
    with netns.entered():
        made = nf.Netfilter()
    for line in SETS.splitlines():
        netns.run("nft", line)
    with made:
        yield made


def veth(sock: rt.Route, inner: Netns, index: int = 0) -> None:
    holder = inner.process()
    try:
        outside = rt.Link("vz7", "00:18:51:00:00:07", index, rt.IFF_NOARP, 30330)
        inside = rt.Link("venet0", "00:18:51:00:00:08", index and index + 1000, rt.IFF_NOARP)
        sock.run([rt.link_add_veth(outside, inside, holder.pid)])
    finally:
        holder.kill()
        holder.wait()


def test_a_pair_is_what_ip_shows(netns: Netns, inner: Netns, sock: rt.Route) -> None:
    veth(sock, inner, 5000)
    sock.run([rt.link_set(5000, no_address=True), rt.link_up(5000, arp=False)])
    (link,) = netns.json("ip", "-d", "-j", "link", "show", "vz7")
    assert link["ifindex"] == 5000 and link["address"] == "00:18:51:00:00:07"
    assert link["linkinfo"]["info_kind"] == "veth"
    assert {"NOARP", "UP"} <= set(link["flags"])
    assert link["inet6_addr_gen_mode"] == "none" and link["group"] == "30330"
    (peer,) = inner.json("ip", "-d", "-j", "link", "show", "venet0")
    assert peer["ifindex"] == 6000 and peer["address"] == "00:18:51:00:00:08"
    assert "NOARP" in peer["flags"] and "UP" not in peer["flags"] and peer["group"] == "default"


def test_links_change_and_go(netns: Netns, inner: Netns, sock: rt.Route) -> None:
    veth(sock, inner, 5000)
    netns.run("ip", "link", "add", "br9", "type", "bridge")
    bridge = rt.link_get(sock, "br9")
    assert bridge is not None and rt.link_get(sock, "nope") is None
    sock.run([rt.link_set(5000, name="other", mac="02:00:00:00:00:09", group=7, master=bridge.index)])
    (link,) = netns.json("ip", "-j", "link", "show", "other")
    assert (link["address"], link["master"], link["group"]) == ("02:00:00:00:00:09", "br9", "7")
    found = rt.link_get(sock, "other")
    assert found is not None and (found.index, found.group, found.master) == (5000, 7, bridge.index)
    sock.run([rt.link_set(5000, master=0)])
    assert "master" not in netns.json("ip", "-j", "link", "show", "other")[0]
    sock.run([rt.link_delete("other")])
    assert "other" not in netns.run("ip", "link")


def test_a_device_moves_by_descriptor(netns: Netns, inner: Netns, sock: rt.Route) -> None:
    netns.run("ip", "link", "add", "gift", "type", "bridge")
    netns.run("ip", "link", "add", "a1", "type", "veth", "peer", "name", "b1")
    link = rt.link_get(sock, "a1")
    assert link is not None
    sock.run([rt.link_set(link.index, netns_fd=inner.fd, name="renamed")])
    assert "renamed@" in inner.run("ip", "link") and " a1@" not in netns.run("ip", "link")


def test_addresses_routes_and_proxies_are_what_ip_shows(netns: Netns, inner: Netns, sock: rt.Route) -> None:
    veth(sock, inner, 5000)
    sock.run([rt.link_up(5000, arp=False)])
    sock.run(
        [
            rt.address_add(5000, "192.0.2.7"),
            rt.address_add(5000, "192.0.2.7"),  # there already
            rt.address_add(5000, "2001:db8::7"),
            rt.route_add(5000, "198.51.100.1", source="192.0.2.7"),
            rt.route_add(5000, "2001:db8:1::1"),
            rt.default_route(5000, socket.AF_INET),
            rt.default_route(5000, socket.AF_INET6),
            rt.proxy_add(5000, "203.0.113.5"),
            rt.proxy_add(5000, "2001:db8::5"),
        ]
    )
    infos = netns.json("ip", "-j", "addr", "show", "vz7")[0]["addr_info"]
    shown = {(info["local"], info["prefixlen"]) for info in infos if info["scope"] == "global"}
    assert shown == {("192.0.2.7", 32), ("2001:db8::7", 128)}
    assert not any(info.get("tentative") for info in infos)
    (route,) = netns.json("ip", "-j", "route", "show", "198.51.100.1")
    assert (route["dev"], route["scope"], route["prefsrc"]) == ("vz7", "link", "192.0.2.7")
    assert netns.json("ip", "-j", "-6", "route", "show", "2001:db8:1::1")[0]["dev"] == "vz7"
    assert netns.json("ip", "-j", "route", "show", "default")[0]["dev"] == "vz7"
    assert netns.json("ip", "-j", "-6", "route", "show", "default")[0]["dev"] == "vz7"
    proxies = netns.run("ip", "neigh", "show", "proxy") + netns.run("ip", "-6", "neigh", "show", "proxy")
    assert "203.0.113.5 dev vz7" in proxies and "2001:db8::5 dev vz7" in proxies
    listed = rt.addresses(sock, socket.AF_INET) + rt.addresses(sock, socket.AF_INET6)
    assert {(5000, 0, "192.0.2.7", 32), (5000, 0, "2001:db8::7", 128)} <= set(listed)
    sock.run(
        [
            rt.address_delete(5000, "2001:db8::7"),
            rt.route_delete(5000, "2001:db8:1::1"),
            rt.default_route_delete(5000, socket.AF_INET6),
            rt.proxy_delete(5000, "203.0.113.5"),
        ]
    )
    assert "2001:db8::7" not in netns.run("ip", "addr")
    assert netns.run("ip", "-6", "route", "show", "default") == ""
    assert "203.0.113.5" not in netns.run("ip", "neigh", "show", "proxy")


def test_a_proxy_entry_outlives_the_carrier(netns: Netns, inner: Netns, sock: rt.Route) -> None:
    """Somebody pulls the cable for a moment."""
    veth(sock, inner, 5000)
    inner.run("ip", "link", "set", "venet0", "up")
    sock.run([rt.link_up(5000), rt.proxy_add(5000, "203.0.113.5"), rt.proxy_add(5000, "2001:db8::5")])
    inner.run("ip", "link", "set", "venet0", "down")
    assert wait_until(lambda: "NO-CARRIER" in netns.run("ip", "link", "show", "vz7"))
    inner.run("ip", "link", "set", "venet0", "up")
    assert wait_until(lambda: "LOWER_UP" in netns.run("ip", "link", "show", "vz7"))
    proxies = netns.run("ip", "neigh", "show", "proxy") + netns.run("ip", "-6", "neigh", "show", "proxy")
    assert "203.0.113.5 dev vz7" in proxies and "2001:db8::5 dev vz7" in proxies


def test_every_request_has_its_own_answer(netns: Netns, inner: Netns, sock: rt.Route) -> None:
    veth(sock, inner, 5000)
    sock.run([rt.link_up(5000, arp=False)])
    good = rt.route_add(5000, "192.0.2.1")
    answers = sock.attempt(
        [good, good, rt.proxy_delete(5000, "192.0.2.9"), rt.link_delete("nope"), rt.route_add(9, "192.0.2.2"), good]
    )
    codes = [None if error is None else error.errno for error in answers]
    assert codes == [None, errno.EEXIST, errno.ENOENT, errno.ENODEV, errno.ENODEV, errno.EEXIST]
    assert answers[1] is not None and answers[1].filename == "route 192.0.2.1"
    with pytest.raises(FileExistsError):
        sock.run([good])
    sock.run([rt.route_add(5000, "192.0.2.1", replace=True)])


def test_the_kernels_own_words(sock: rt.Route, inner: Netns) -> None:
    veth(sock, inner, 5000)
    error = sock.attempt([rt.link_set(5000, master=1)])[0]  # lo is no bridge
    assert error is not None and error.strerror and error.strerror[0].isupper()
    error = sock.attempt([rt.route_add(5000, "192.0.2.1")])[0]
    assert error is not None and error.strerror == "Device for nexthop is not up"


def test_more_than_one_datagram(netns: Netns, inner: Netns, sock: rt.Route) -> None:
    veth(sock, inner, 5000)
    sock.run([rt.link_up(5000, arp=False)])
    wanted = [f"198.51.100.{n}" for n in range(200)] + [f"2001:db8::{n:x}" for n in range(1, 600)]
    assert len(wanted) > 3 * AT_ONCE
    sock.run([rt.route_add(5000, address) for address in wanted])
    assert len(netns.run("ip", "route").splitlines()) == 200
    sock.run([rt.address_add(5000, address) for address in wanted])
    listed = {address for _, _, address, _ in rt.addresses(sock, socket.AF_INET6)}
    assert set(wanted[200:]) <= listed


def test_the_route_that_the_kernel_takes(netns: Netns, inner: Netns, sock: rt.Route) -> None:
    veth(sock, inner, 5000)
    netns.run("ip", "addr", "add", "192.0.2.1/24", "dev", "vz7")
    inner.run("ip", "link", "set", "venet0", "up")
    netns.run("ip", "link", "set", "vz7", "up")
    netns.run("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.9")
    kinds = {a: rt.route_get(sock, a) for a in ("192.0.2.1", "192.0.2.255", "192.0.2.7", "203.0.113.1")}
    assert [found.kind for found in kinds.values()] == [rt.RTN_LOCAL, rt.RTN_BROADCAST, rt.RTN_UNICAST, rt.RTN_UNICAST]
    assert [found.gateway for found in kinds.values()] == [False, False, False, True]
    assert kinds["192.0.2.7"].index == 5000
    with pytest.raises(OSError) as caught:
        rt.route_get(sock, "198.51.100.1")
    assert caught.value.errno == errno.ENETUNREACH


def elements(netns: Netns, family: str, name: str) -> list[object]:
    listed = netns.json("nft", "-j", "list", "set", family, "t", name)["nftables"]
    return next(item["set"] for item in listed if "set" in item).get("elem", [])


def element(name: str, *parts: bytes, family: str = "inet") -> nf.Element:
    return nf.Element(family, "t", name, *parts)


def test_elements_are_what_nft_shows(netns: Netns, sets: nf.Netfilter) -> None:
    four = element("pairs", nf.ifname("vz7"), bytes((192, 0, 2, 7)))
    six = element("pairs6", nf.ifname("vz7"), socket.inet_pton(socket.AF_INET6, "2001:db8::7"))
    mac = element("macs", nf.ifname("veth7.0"), bytes.fromhex("001851aabbcc"), family="bridge")
    counted = element("counted", nf.ifname("vz7"))
    for _ in range(2):  # put twice: no error, no second one
        nf.change(sets, [four, six, mac, counted])
    assert elements(netns, "inet", "pairs") == [{"concat": ["vz7", "192.0.2.7"]}]
    assert elements(netns, "inet", "pairs6") == [{"concat": ["vz7", "2001:db8::7"]}]
    assert elements(netns, "bridge", "macs") == [{"concat": ["veth7.0", "00:18:51:aa:bb:cc"]}]
    (shown,) = elements(netns, "inet", "counted")
    assert isinstance(shown, dict)
    assert shown["elem"]["val"] == "vz7" and shown["elem"]["counter"] == {"packets": 0, "bytes": 0}
    for _ in range(2):  # taken twice: no error
        nf.change(sets, [], [four, six, mac, counted])
    assert [elements(netns, "inet", name) for name in ("pairs", "pairs6", "counted")] == [[], [], []]


def test_what_nft_put_is_found_and_taken(netns: Netns, sets: nf.Netfilter) -> None:
    netns.run("nft", 'add element inet t pairs { "vz7" . 192.0.2.7, "vz8" . 192.0.2.8 }')
    nf.change(sets, [], [element("pairs", nf.ifname("vz7"), bytes((192, 0, 2, 7)))])
    assert elements(netns, "inet", "pairs") == [{"concat": ["vz8", "192.0.2.8"]}]


def test_a_transaction_is_all_or_nothing(netns: Netns, sets: nf.Netfilter) -> None:
    good, bad = element("counted", nf.ifname("vz7")), element("nosuch", nf.ifname("vz7"))
    with pytest.raises(FileNotFoundError):
        nf.change(sets, [good, bad])
    assert elements(netns, "inet", "counted") == []
    with pytest.raises(FileNotFoundError):
        nf.counted_bytes(sets, good)
    nf.change(sets, [good])
    assert nf.counted_bytes(sets, good) == 0


def test_a_missing_table_is_enoent(netns: Netns, sets: nf.Netfilter) -> None:
    netns.run("nft", "flush ruleset")
    with pytest.raises(FileNotFoundError):
        nf.change(sets, [element("counted", nf.ifname("vz7"))])


def test_a_counter_is_what_nft_shows(netns: Netns, sets: nf.Netfilter) -> None:
    netns.run("nft", "add chain inet t out { type filter hook output priority 0; }")
    netns.run("nft", "add rule inet t out oifname @counted")
    lo = element("counted", nf.ifname("lo"))
    nf.change(sets, [lo])
    netns.run("ping", "-c2", "-s1000", "-i0.2", "127.0.0.1")
    (shown,) = elements(netns, "inet", "counted")
    assert isinstance(shown, dict)
    assert nf.counted_bytes(sets, lo) == shown["elem"]["counter"]["bytes"] >= 4 * 1028
