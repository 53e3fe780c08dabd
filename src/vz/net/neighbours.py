"""Talking to the neighbours about addresses: who has one, and who has it now.

ARP (RFC 826, 5227) by packet(7) sockets, neighbour discovery (RFC 4861) by frames and raw ICMPv6 sockets.
"""

from __future__ import annotations

import _socket
import time

from vz.kernel.network import device_address
from vz.kernel.process import in_background

ETH_P_ARP, ETH_P_IP, ETH_P_IPV6 = 0x0806, 0x0800, 0x86DD
ARP_REQUEST, ARP_REPLY = 1, 2
PACKET_OUTGOING = 4
BROADCAST = b"\xff" * 6
ND_SOLICIT, ND_ADVERT = 135, 136
IPV6_HDRINCL, ICMP6_FILTER = 36, 1
ALL_NODES = "ff02::1"
# a neighbour on a wire answers within a millisecond, one behind a busy switch or hypervisor within a few
PROBE_S = 0.015


class Arp:
    """What an ARP packet says."""

    __slots__ = ("operation", "sender_ip", "sender_mac", "target_ip", "target_mac")

    def __init__(
        self, operation: int, sender_mac: bytes, sender_ip: bytes, target_mac: bytes, target_ip: bytes
    ) -> None:
        self.operation = operation
        self.sender_mac = sender_mac
        self.sender_ip = sender_ip
        self.target_mac = target_mac
        self.target_ip = target_ip

    def frame(self, source: bytes, to: bytes = BROADCAST) -> bytes:
        """Return the Ethernet frame from *source* to *to*, padded to the least size."""
        header = to + source + ETH_P_ARP.to_bytes(2, "big")
        fixed = b"\0\1" + ETH_P_IP.to_bytes(2, "big") + b"\6\4" + self.operation.to_bytes(2, "big")
        body = self.sender_mac + self.sender_ip + self.target_mac + self.target_ip
        return (header + fixed + body).ljust(60, b"\0")


def parse_arp(frame: bytes) -> Arp | None:
    """Return what *frame* says; None when it is not ARP for IPv4 over Ethernet."""
    if len(frame) < 42 or frame[12:20] != b"\x08\x06\0\1\x08\0\6\4":
        return None
    return Arp(int.from_bytes(frame[20:22], "big"), frame[22:28], frame[28:32], frame[32:38], frame[38:42])


def packet_socket(protocol: int = 0) -> _socket.socket:
    """Return a packet socket that receives *protocol* on all devices; 0: none, to send only."""
    return _socket.socket(
        _socket.AF_PACKET, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _socket.htons(protocol) if protocol else 0
    )


def announcement(mac: bytes, address: str) -> bytes:
    """Return the frame that tells all neighbours that *address* is at *mac*: gratuitous ARP, or an advertisement."""
    if ":" not in address:
        ip = _socket.inet_pton(_socket.AF_INET, address)
        return Arp(ARP_REQUEST, mac, ip, BROADCAST, ip).frame(mac)
    source = _socket.inet_pton(_socket.AF_INET6, address)
    body = b"\x20\0\0\0" + source + b"\2\1" + mac  # override; target link-layer address; RFC 4861 section 7.2.6
    packet = icmpv6_packet(ND_ADVERT, body, source, _socket.inet_pton(_socket.AF_INET6, ALL_NODES))
    return b"\x33\x33\0\0\0\1" + mac + ETH_P_IPV6.to_bytes(2, "big") + packet


def announce(found: list[tuple[str, str]], sock: _socket.socket | None = None) -> None:
    """Say on each device that the address is here; (device, address) pairs.  OSError: a device that takes no frame."""
    own = sock or packet_socket()
    try:
        for device, address in found:
            own.sendto(announcement(device_address(device), address), (device, 0))
    finally:
        if sock is None:
            own.close()


def announce_each(found: list[tuple[str, str]], sock: _socket.socket | None = None) -> None:
    """Say it on every device that takes frames now; the neighbours of another will ask."""
    own = sock or packet_socket()
    for pair in found:
        try:
            announce([pair], own)
        except OSError:
            pass


def announce_later(found: list[tuple[str, str]], sock: _socket.socket | None = None) -> None:
    """Say it from a child that nobody waits for and that ends by itself; *sock*, if given, is taken over."""

    own = sock or packet_socket()
    in_background(lambda: announce_each(found, own), [own.fileno()])
    own.detach()


class Probe:
    """Questions to the neighbours whether they have addresses, asked at once and looked after later."""

    __slots__ = ("_arp", "_asked", "_nd", "_own_macs", "_until")

    def __init__(
        self,
        questions: list[tuple[str, str, str]],
        *,
        known: frozenset[bytes] = frozenset(),
        wait_s: float = 0.0,
    ) -> None:
        """Ask on each device; (device, its own address or "", address in question).

        Answers of hosts with a MAC in *known* do not count.  They have *wait_s* to come, PROBE_S by default.
        """
        self._arp: _socket.socket | None = None
        self._nd: _socket.socket | None = None
        self._asked: dict[bytes, str] = {}
        self._own_macs = set(known)
        for device, own, address in questions:
            try:
                mac = device_address(device)
                self._own_macs.add(mac)
                if ":" in address:
                    self._solicit(device, address)
                else:
                    self._request(device, mac, own, address)
            except OSError:
                pass  # a device that takes no frames, or has no IPv6: nobody can be asked there
        self._until = time.monotonic() + (wait_s or PROBE_S)

    def _request(self, device: str, mac: bytes, own: str, address: str) -> None:
        if self._arp is None:
            self._arp = packet_socket(ETH_P_ARP)
        ip = _socket.inet_pton(_socket.AF_INET, address)
        self._asked[ip] = address
        # from our own address: a node that answers for its CTs does so only to a question that has one
        sender = _socket.inet_pton(_socket.AF_INET, own or "0.0.0.0")
        self._arp.sendto(Arp(ARP_REQUEST, mac, sender, bytes(6), ip).frame(mac), (device, ETH_P_ARP))

    def _solicit(self, device: str, address: str) -> None:
        if self._nd is None:
            kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
            self._nd = _socket.socket(_socket.AF_INET6, kind, _socket.IPPROTO_ICMPV6)
            passed = bytearray(b"\xff" * 32)  # a set bit blocks
            passed[ND_ADVERT // 32 * 4 + ND_ADVERT % 32 // 8] &= ~(1 << ND_ADVERT % 8) & 0xFF
            self._nd.setsockopt(_socket.IPPROTO_ICMPV6, ICMP6_FILTER, bytes(passed))
            self._nd.setsockopt(_socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
        ip = _socket.inet_pton(_socket.AF_INET6, address)
        self._asked[ip] = address
        group = _socket.inet_pton(_socket.AF_INET6, "ff02::1:ff00:0")[:13] + ip[13:]
        packet = icmpv6_packet(ND_SOLICIT, bytes(4) + ip, bytes(16), group)
        text = _socket.inet_ntop(_socket.AF_INET6, group)
        self._nd.sendto(packet, (text, 0, 0, _socket.if_nametoindex(device)))

    def answers(self) -> dict[str, str]:
        """Return {address: MAC that answered}: all of them, or what has come in time."""
        import select

        found: dict[str, str] = {}
        poll = select.poll()
        sockets = [sock for sock in (self._arp, self._nd) if sock is not None]
        for sock in sockets:
            poll.register(sock.fileno(), select.POLLIN)
        while sockets:
            left_s = self._until - time.monotonic()
            for sock in sockets:
                self._drain(sock, found)
            if left_s <= 0 or len(found) == len(self._asked):
                break
            poll.poll(left_s * 1000)
        return found

    def close(self) -> None:
        for sock in (self._arp, self._nd):
            if sock is not None:
                sock.close()

    def take_socket(self) -> _socket.socket | None:
        """Return the packet socket, to send more by it and to be closed by the caller; None when there is none."""
        taken, self._arp = self._arp, None
        return taken

    def _drain(self, sock: _socket.socket, found: dict[str, str]) -> None:
        for _ in range(1000):  # a flood must not keep us
            try:
                ip, mac = self._read(sock)
            except BlockingIOError:
                return
            if ip in self._asked and mac not in self._own_macs:
                found[self._asked[ip]] = mac.hex(":")

    def _read(self, sock: _socket.socket) -> tuple[bytes, bytes]:
        """Return the (address, MAC) that a neighbour claims; empty for anything else."""
        data, sender = sock.recvfrom(1500, _socket.MSG_DONTWAIT)
        if sock is self._nd:
            at = data.find(b"\2\1", 24, 26)  # the target link-layer address, the only option it has
            return (data[8:24], data[26:32]) if at == 24 else (data[8:24], b"?")
        arp = parse_arp(data)
        if arp is None or sender[2] == PACKET_OUTGOING:
            return b"", b""
        return arp.sender_ip, arp.sender_mac


def icmpv6_packet(kind: int, body: bytes, source: bytes, target: bytes) -> bytes:
    """Return an IPv6 packet with an ICMPv6 message of type *kind* and hop limit 255, checksum made."""
    message = bytes((kind, 0)) + checksum(source + target, 58, bytes((kind, 0, 0, 0)) + body).to_bytes(2, "big") + body
    return b"\x60\0\0\0" + len(message).to_bytes(2, "big") + b"\x3a\xff" + source + target + message


def checksum(ends: bytes, protocol: int, message: bytes) -> int:
    """Return the checksum of *message* of *protocol* over IP between *ends* (source and target), RFC 1071."""
    data = ends + len(message).to_bytes(4, "big") + bytes((0, 0, 0, protocol)) + message
    if len(data) % 2:
        data += b"\0"
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
