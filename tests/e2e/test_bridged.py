"""veth: on a bridge, with the MAC of its configuration and no other, in frames and in what it claims by ARP and ND."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from conftest import Vz
from netns import Netns, Sniffer, wait_until
from testnode import Node
from vz.net.neighbours import ARP_REPLY, Arp, icmpv6_packet

NewCt = Callable[..., int]
Bridge = Callable[[str], None]
OWN, FOREIGN = bytes.fromhex("001851bb0001"), bytes.fromhex("001851bb0002")
LINK_LOCAL = socket.inet_pton(socket.AF_INET6, "fe80::218:51ff:febb:1")
ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")
TARGET = socket.inet_pton(socket.AF_INET6, "2001:db8:5::2")
TO_ALL = b"\x33\x33\0\0\0\1"


@pytest.fixture
def br7(bridge: Bridge) -> str:
    bridge("br7")
    return "br7"


def netns_of(node: Node, ct: int) -> Netns:
    return Netns(f"/proc/{node.path(f'/var/lib/vzctl/vepid/{ct}').read_text().strip()}/ns/net")


class Pair:
    """An attacker with packet sockets, and what arrives at another CT on the same bridge."""

    def __init__(self, node: Node, attacker: int, victim: int) -> None:
        self.attacker, self.victim = netns_of(node, attacker), netns_of(node, victim)
        for netns in (self.attacker, self.victim):
            netns.run("ip", "link", "set", "eth0", "up")
        with self.attacker.entered():
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.sock.bind(("eth0", 0))
        self.seen = Sniffer(self.victim, "eth0")
        self.number = 0
        # the bridge learns of a carrier a moment after the interface is up, and drops frames until then
        assert wait_until(lambda: self.mark() and self.seen.wait(lambda found: b"mark" in found, 0.2))

    def mark(self) -> bytes:
        """Send a harmless frame; return what it is known by."""
        self.number += 1
        mark = b"mark" + self.number.to_bytes(4, "big")
        self.sock.send((b"\xff" * 6 + OWN + b"\x88\xb5" + mark).ljust(60, b"\0"))
        return mark

    def arrives(self, frame: bytes) -> bool:
        """Tell whether *frame* arrives; a harmless one that is sent after it says when to stop waiting."""
        self.sock.send(frame)
        mark = self.mark()
        arrived = self.seen.wait(lambda found: found[: len(frame)] == frame or mark in found)
        assert arrived is not None, "not even the harmless one"
        if mark in arrived:
            return False
        assert self.seen.wait(lambda found: mark in found)
        return True

    def close(self) -> None:
        self.sock.close()
        self.seen.close()
        self.attacker.close()
        self.victim.close()


@pytest.fixture
def pair(node: Node, br7: str, new_ct: NewCt) -> Iterator[Pair]:
    attacker = new_ct("--netif_add", f"eth0,{OWN.hex(':')},,,{br7}")
    made = Pair(node, attacker, new_ct("--netif_add", f"eth0,{FOREIGN.hex(':')},,,{br7}"))
    assert made.arrives(arp(OWN, OWN)), "or nothing here shows anything"
    yield made
    made.close()


def arp(source: bytes, claimed: bytes, operation: int = ARP_REPLY) -> bytes:
    return Arp(operation, claimed, bytes((203, 0, 113, 7)), b"\xff" * 6, bytes((203, 0, 113, 8))).frame(source)


def nd(kind: int, fixed: bytes, options: bytes, source: bytes = OWN) -> bytes:
    packet = icmpv6_packet(kind, fixed + options, LINK_LOCAL, ALL_NODES)
    return TO_ALL + source + b"\x86\xdd" + packet


SOLICIT, ADVERT, ROUTER_SOLICIT, ROUTER_ADVERT, REDIRECT = 135, 136, 133, 134, 137
ND_FIXED = bytes(4) + TARGET
SOURCE_OWN, SOURCE_FOREIGN, TARGET_OWN, TARGET_FOREIGN = (
    b"\1\1" + OWN,
    b"\1\1" + FOREIGN,
    b"\2\1" + OWN,
    b"\2\1" + FOREIGN,
)
NONCE = b"\x0e\1nonce!"
HONEST = {
    "arp reply": arp(OWN, OWN),
    "arp request": arp(OWN, OWN, 1),
    "advertisement": nd(ADVERT, ND_FIXED, TARGET_OWN),
    "advertisement without an option": nd(ADVERT, ND_FIXED, b""),
    "solicitation": nd(SOLICIT, ND_FIXED, SOURCE_OWN),
    "solicitation to find a duplicate": nd(SOLICIT, ND_FIXED, NONCE),
    "solicitation to find a duplicate, of old": nd(SOLICIT, ND_FIXED, b""),
    "router solicitation": nd(ROUTER_SOLICIT, bytes(4), SOURCE_OWN),
    "router solicitation without an option": nd(ROUTER_SOLICIT, bytes(4), b""),
    "echo request": nd(128, b"\0\1\0\1", b"payload"),
}
FORGED = {
    "arp reply for a neighbour": arp(OWN, FOREIGN),
    "arp request of a neighbour": arp(OWN, FOREIGN, 1),
    "a neighbour's frame": arp(FOREIGN, FOREIGN),
    "any frame of a neighbour": b"\xff" * 6 + FOREIGN + b"\x88\xb5" + bytes(50),
    "a neighbour's echo request": nd(128, b"\0\1\0\1", b"payload", FOREIGN),
    "advertisement for a neighbour": nd(ADVERT, ND_FIXED, TARGET_FOREIGN),
    "forged option behind a true one": nd(ADVERT, ND_FIXED, TARGET_OWN + TARGET_FOREIGN),
    "forged option behind a nonce": nd(ADVERT, ND_FIXED, NONCE + TARGET_FOREIGN),
    "advertisement with a nonce only": nd(ADVERT, ND_FIXED, NONCE),
    "two options of length 1 in one of 2": nd(ADVERT, ND_FIXED, b"\2\2" + OWN + TARGET_FOREIGN),
    "solicitation of a neighbour": nd(SOLICIT, ND_FIXED, SOURCE_FOREIGN),
    "solicitation of a neighbour behind a nonce": nd(SOLICIT, ND_FIXED, NONCE + SOURCE_FOREIGN),
    "router solicitation of a neighbour": nd(ROUTER_SOLICIT, bytes(4), SOURCE_FOREIGN),
    "router advertisement": nd(ROUTER_ADVERT, b"\x40\0\x07\x08" + bytes(8), SOURCE_OWN),
    "redirect": nd(REDIRECT, bytes(4) + TARGET + TARGET, TARGET_OWN),
}


def test_what_is_its_own_passes(pair: Pair) -> None:
    assert [name for name, frame in HONEST.items() if not pair.arrives(frame)] == []


def test_what_claims_another_mac_does_not(pair: Pair) -> None:
    assert [name for name, frame in FORGED.items() if pair.arrives(frame)] == []


def test_extension_headers_hide_nothing(pair: Pair) -> None:
    packet = icmpv6_packet(ADVERT, ND_FIXED + TARGET_FOREIGN, LINK_LOCAL, ALL_NODES)
    options = b"\x3a\0\1\4\0\0\0\0"  # destination options, padded
    hidden = packet[:4] + (len(packet) - 40 + 8).to_bytes(2, "big") + b"\x3c" + packet[7:40] + options + packet[40:]
    assert not pair.arrives(TO_ALL + OWN + b"\x86\xdd" + hidden)


def test_the_filter_ends_and_begins_with_mac_filter(vz: Vz, node: Node, br7: str, new_ct: NewCt) -> None:
    attacker = new_ct("--netif_add", f"eth0,{OWN.hex(':')},,,{br7}")
    victim = new_ct("--netif_add", f"eth0,{FOREIGN.hex(':')},,,{br7}")
    both = Pair(node, attacker, victim)
    try:
        vz.sh(attacker, "ip addr add 203.0.113.1/24 dev eth0")
        vz.ok("set", attacker, "--ifname", "eth0", "--mac_filter", "off", "--save")
        assert [name for name, frame in FORGED.items() if not both.arrives(frame)] == []
        assert "203.0.113.1" in vz.sh(attacker, "ip addr show eth0"), "the interface is the same one"
        vz.ok("restart", attacker, "--fast")
        again = Pair(node, attacker, victim)
        assert again.arrives(FORGED["advertisement for a neighbour"]), "off is off after a restart"
        vz.ok("set", attacker, "--ifname", "eth0", "--mac_filter", "on", "--save")
        assert not again.arrives(FORGED["advertisement for a neighbour"])
        assert not again.arrives(FORGED["a neighbour's frame"])
        again.close()
    finally:
        both.close()


def test_addresses_work_on_a_bridge(vz: Vz, node: Node, br7: str, new_ct: NewCt) -> None:
    """Duplicate address detection, neighbour discovery, multicast: all that the filter must let through."""
    one, two = (new_ct("--netif_add", f"eth0,,,,{br7}") for _ in range(2))
    for number, ct in enumerate((one, two), 1):
        vz.sh(ct, "ip link set eth0 up")
        vz.sh(ct, f"ip addr add 203.0.113.{number}/24 dev eth0; ip -6 addr add 2001:db8:5::{number}/64 dev eth0")
    assert wait_until(lambda: "tentative" not in vz.sh(one, "ip addr") + vz.sh(two, "ip addr"))
    assert vz("exec", one, "ping -c1 -W2 203.0.113.2").returncode == 0
    assert vz("exec", one, "ping -6 -c1 -W2 2001:db8:5::2").returncode == 0
    vz.sh(two, "ip -6 addr add 2001:db8:5::1/64 dev eth0")
    netns = netns_of(node, two)
    assert wait_until(lambda: "dadfailed" in netns.run("ip", "addr")), "a duplicate is found"
    netns.close()


def test_macs_are_made_or_given_and_stay(vz: Vz, node: Node, inside: Netns, br7: str, new_ct: NewCt) -> None:
    ct = new_ct("--netif_add", f"eth0,00:18:51:cc:00:01,host0,00:18:51:cc:00:02,{br7}", "--netif_add", "eth1")
    conf = node.path(f"/etc/vz/conf/{ct}.conf").read_text()
    assert "ifname=eth0,bridge=br7,mac=00:18:51:CC:00:01,host_ifname=host0,host_mac=00:18:51:CC:00:02" in conf
    links = {link["ifname"]: link for link in inside.json("ip", "-j", "link")}
    assert links["host0"]["address"] == "00:18:51:cc:00:02" and links["host0"]["master"] == br7
    assert "master" not in links[f"veth{ct}.0"] and "UP" in links[f"veth{ct}.0"]["flags"]

    def macs() -> list[str]:
        return vz.sh(ct, "cat /sys/class/net/eth*/address").split()

    before = macs()
    assert before[0] == "00:18:51:cc:00:01" and before[1].startswith("00:18:51:")
    vz.ok("restart", ct, "--fast")
    assert macs() == before
    # a hand-written NETIF that says next to nothing
    path = node.path(f"/etc/vz/conf/{ct}.conf")
    path.write_text(
        "".join(line for line in path.read_text().splitlines(True) if "NETIF" not in line) + 'NETIF="ifname=eth5"\n'
    )
    vz.ok("restart", ct, "--fast")
    before = macs()
    assert len(before) == 1 and before[0].startswith("00:18:51:")
    vz.ok("restart", ct, "--fast")
    assert macs() == before


def test_changes_leave_the_interface_in_place(vz: Vz, inside: Netns, bridge: Bridge, br7: str, new_ct: NewCt) -> None:
    bridge("br8")
    ct = new_ct("--netif_add", f"eth0,00:18:51:cc:00:03,,,{br7}")
    vz.sh(ct, "ip addr add 203.0.113.1/24 dev eth0; ip link set eth0 up")
    index = vz.sh(ct, "cat /sys/class/net/eth0/ifindex")
    change = ("set", ct, "--save", "--ifname", "eth0")
    vz.ok(*change, "--bridge", "br8")
    assert inside.json("ip", "-j", "link", "show", f"veth{ct}.0")[0]["master"] == "br8"
    vz.ok(*change, "--host_ifname", "other0", "--host_mac", "00:18:51:cc:00:04")
    (link,) = inside.json("ip", "-j", "link", "show", "other0")
    assert link["address"] == "00:18:51:cc:00:04" and link["master"] == "br8" and "UP" in link["flags"]
    vz.ok(*change, "--mac", "00:18:51:cc:00:05")
    assert "00:18:51:cc:00:05" in vz.sh(ct, "ip link show eth0")
    listed = inside.run("nft", "list", "table", "bridge", "vz")
    assert '"other0" . 00:18:51:cc:00:05' in listed and f"veth{ct}.0" not in listed and "cc:00:03" not in listed
    assert vz.sh(ct, "cat /sys/class/net/eth0/ifindex") == index
    assert "203.0.113.1" in vz.sh(ct, "ip addr show eth0")
    inside.run("ip", "addr", "add", "203.0.113.254/24", "dev", "br8")
    assert vz.run("ping", "-c1", "-W2", "203.0.113.1").returncode == 0
    vz.ok("restart", ct, "--fast")
    (link,) = inside.json("ip", "-j", "link", "show", "other0")
    assert link["address"] == "00:18:51:cc:00:04" and link["master"] == "br8"
    assert "00:18:51:cc:00:05" in vz.sh(ct, "ip link show eth0")
    vz.ok("set", ct, "--save", "--netif_del", "eth0")
    assert "eth0" not in vz.sh(ct, "ip link") and "other0" not in inside.run("ip", "link")
    assert "other0" not in inside.run("nft", "list", "table", "bridge", "vz")


def test_a_port_has_no_address_of_its_own(inside: Netns, br7: str, new_ct: NewCt) -> None:
    ct = new_ct("--netif_add", f"eth0,,,,{br7}")
    assert "inet6" not in inside.run("ip", "addr", "show", f"veth{ct}.0")


def test_a_bridge_that_is_not_there_is_named(vz: Vz, inside: Netns, new_ct: NewCt, ct: int) -> None:
    other = new_ct("--netif_add", "eth0,,,,br99", start=False)
    done = vz("start", other)
    assert done.returncode == 130 and "Bridge br99 is not on this node" in done.stderr
    assert vz("status", other).stdout.endswith("unmounted down\n")
    done = vz("set", ct, "--netif_add", "eth0,,,,br99", "--save")
    assert done.returncode == 130 and "eth0" not in vz.sh(ct, "ip link")
    assert f"veth{ct}.0" not in inside.run("ip", "link")


def test_a_device_of_the_admin_with_the_name_is_left_alone(
    vz: Vz, inside: Netns, bridge: Bridge, new_ct: NewCt
) -> None:
    bridge("precious0")
    other = new_ct("--netif_add", "eth0,,precious0", start=False)
    done = vz("start", other)
    assert done.returncode == 130 and "File exists" in done.stderr
    assert "precious0" in inside.run("ip", "link"), "clearing up after the failure must not take it away"
    bridge(f"vz{other}")
    vz.ok("set", other, "--netif_del", "all", "--ipadd", "192.0.2.181", "--save")
    assert vz("start", other).returncode == 34
    assert f"vz{other}" in inside.run("ip", "link")


def test_two_cts_with_one_host_ifname(vz: Vz, inside: Netns, br7: str, new_ct: NewCt) -> None:
    one = new_ct("--netif_add", f"eth0,,same0,,{br7}")
    two = new_ct("--netif_add", f"eth0,,same0,,{br7}", start=False)
    assert vz("start", two).returncode == 130
    assert "eth0" in vz.sh(one, "ip link"), "the first still has its own"
    assert "same0" in inside.run("ip", "link")


def test_many_interfaces(vz: Vz, inside: Netns, br7: str, new_ct: NewCt) -> None:
    words = [word for number in range(20) for word in ("--netif_add", f"n{number},,,,{br7}")]
    ct = new_ct(*words)
    names = {line.split(":")[1].strip().split("@")[0] for line in vz.sh(ct, "ip -o link").splitlines()}
    assert {f"n{number}" for number in range(20)} <= names
    vz.ok("restart", ct, "--fast")
    assert vz.sh(ct, "ip -o link").count("n1") >= 11
    vz.ok("stop", ct, "--fast")
    assert wait_until(lambda: f"veth{ct}." not in inside.run("ip", "link"))
    assert f"veth{ct}." not in inside.run("nft", "list", "table", "bridge", "vz")
