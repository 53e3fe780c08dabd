"""Probes and announcements between two network namespaces that a wire joins."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest

from netns import Netns, Sniffer, wait_until, wire
from vz.net import neighbours
from vz.net.neighbours import Probe, announce_later, announcement, parse_arp

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NODE, OTHER = "192.0.2.1", "192.0.2.9"


class Wire:
    """The node's namespace with device ``up0``, a neighbour's with ``far0``."""

    def __init__(self) -> None:
        self.node, self.other = Netns(), Netns()
        wire(self.node, "up0", self.other, "far0")
        self.node.run("ip", "addr", "add", f"{NODE}/24", "dev", "up0")
        self.other.run("ip", "addr", "add", f"{OTHER}/24", "dev", "far0")
        self.other.run("ip", "addr", "add", "2001:db8::9/64", "dev", "far0", "nodad")
        self.mac = self.other.json("ip", "-j", "link", "show", "far0")[0]["address"]
        # both have a link-local address by now, or neighbour discovery does not work yet
        assert wait_until(lambda: "fe80" in self.node.run("ip", "-6", "addr", "show", "up0"))
        assert wait_until(lambda: "fe80" in self.other.run("ip", "-6", "addr", "show", "far0"))

    def probe(self, *addresses: str, own: str = NODE) -> dict[str, str]:
        with self.node.entered():
            asked = Probe([("up0", "" if ":" in address else own, address) for address in addresses])
            with contextlib.closing(asked):
                return asked.answers()

    def close(self) -> None:
        self.node.close()
        self.other.close()


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr(neighbours, "PROBE_S", 2.0)  # an answer ends it at once; this machine may be busy
    made = Wire()
    yield made
    made.close()


def test_a_neighbour_that_has_the_address_is_named(ends: Wire) -> None:
    assert ends.probe(OTHER) == {OTHER: ends.mac}
    assert ends.probe(OTHER, own="") == {OTHER: ends.mac}, "also when the node has no address there"
    assert ends.probe("2001:db8::9") == {"2001:db8::9": ends.mac}
    assert ends.probe(OTHER, "2001:db8::9") == {OTHER: ends.mac, "2001:db8::9": ends.mac}


def test_silence_means_that_it_is_free(ends: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PROBE_S", 0.1)
    began = time.monotonic()
    assert ends.probe("192.0.2.50", "2001:db8::50", OTHER) == {OTHER: ends.mac}
    assert time.monotonic() - began >= 0.1, "the others had their time to answer"


def test_an_address_that_another_node_answers_for_is_found(ends: Wire) -> None:
    """A CT that runs on another node: only proxy entries there, no address."""
    ends.other.run("ip", "neigh", "add", "proxy", "192.0.2.60", "dev", "far0")
    ends.other.run("ip", "neigh", "add", "proxy", "2001:db8::60", "dev", "far0")
    ends.other.run("ip", "link", "add", "ct", "type", "veth", "peer", "name", "ct0")
    ends.other.run("ip", "link", "set", "ct", "up")
    ends.other.run("ip", "link", "set", "ct0", "up")
    ends.other.run("ip", "route", "add", "192.0.2.60", "dev", "ct")
    for name, value in (
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/far0/proxy_ndp", "1"),
        ("net/ipv4/neigh/far0/proxy_delay", "0"),
        ("net/ipv6/neigh/far0/proxy_delay", "0"),
    ):
        ends.other.write(name, value)
    assert ends.probe("192.0.2.60", "2001:db8::60") == {"192.0.2.60": ends.mac, "2001:db8::60": ends.mac}


def test_a_probe_on_a_device_that_is_gone_or_deaf_is_no_error(ends: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PROBE_S", 0.05)
    ends.node.write("net/ipv6/conf/up0/disable_ipv6", "1")
    with ends.node.entered():
        asked = Probe([("nope", "", "192.0.2.5"), ("up0", "", "2001:db8::9"), ("up0", NODE, OTHER)])
        with contextlib.closing(asked):
            assert asked.answers() == {OTHER: ends.mac}


def test_announcements_arrive_and_are_believed(ends: Wire) -> None:
    sniffer = Sniffer(ends.other, "far0")
    mac = ends.node.json("ip", "-j", "link", "show", "up0")[0]["address"]
    for address in ("192.0.2.77", "2001:db8::77"):  # what the neighbour knows is old
        ends.other.run("ip", "neigh", "add", address, "lladdr", "02:00:00:00:00:99", "dev", "far0", "nud", "stale")
    began = time.monotonic()
    with ends.node.entered():
        announce_later([("up0", "192.0.2.77"), ("nope", "192.0.2.78"), ("up0", "2001:db8::77")])
    assert time.monotonic() - began < 5
    frame = sniffer.wait(lambda frame: (arp := parse_arp(frame)) is not None and arp.sender_ip[3] == 77)
    assert frame is not None
    arp = parse_arp(frame)
    assert arp is not None
    assert arp.sender_ip == arp.target_ip == bytes((192, 0, 2, 77)) and arp.sender_mac.hex(":") == mac
    address = socket.inet_pton(socket.AF_INET6, "2001:db8::77")
    frame = sniffer.wait(lambda frame: frame[12:14] == b"\x86\xdd" and frame[54] == 136 and frame[22:38] == address)
    assert frame is not None and frame[:6] == b"\x33\x33\0\0\0\1" and frame[21] == 255
    sniffer.close()
    for family in ("-4", "-6"):
        assert wait_until(lambda f=family: mac in ends.other.run("ip", f, "neigh", "show", "dev", "far0"))  # type: ignore[misc]
    os.wait()  # the child that said it


def test_frames_are_whole() -> None:
    mac = bytes.fromhex("001851000001")
    arp = announcement(mac, "192.0.2.7")
    assert len(arp) == 60 and arp[:14] == b"\xff" * 6 + mac + b"\x08\x06"
    parsed = parse_arp(arp)
    assert parsed is not None and parsed.operation == 1 and parsed.sender_mac == mac
    nd = announcement(mac, "2001:db8::7")
    total = sum(int.from_bytes(nd[at : at + 2], "big") for at in range(22, 54, 2)) + 32 + 58
    total += sum(int.from_bytes(nd[at : at + 2], "big") for at in range(54, 86, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF and len(nd) == 86
    for wrong in (b"", arp[:41], b"\0" * 60, nd):
        assert parse_arp(wrong) is None
