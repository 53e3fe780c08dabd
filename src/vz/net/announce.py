"""Telling the neighbours who has an address: gratuitous ARP (RFC 5227) and unsolicited neighbour advertisements."""

from __future__ import annotations

import _socket
import time

from vz.kernel.network import IFF_BROADCAST, IFF_NOARP, IFF_UP, device_address, device_flags, device_names

ETH_P_ARP, ETH_P_IP, ETH_P_IPV6 = 0x0806, 0x0800, 0x86DD
ARP_REQUEST, ARP_REPLY = 1, 2
BROADCAST = b"\xff" * 6


def arp_frame(
    operation: int, source_mac: bytes, source_ip: bytes, target_mac: bytes, target_ip: bytes, to: bytes = BROADCAST
) -> bytes:
    """Return an Ethernet frame with an ARP packet for IPv4."""
    header = to + source_mac + ETH_P_ARP.to_bytes(2, "big")
    fixed = b"\0\1" + ETH_P_IP.to_bytes(2, "big") + b"\6\4" + operation.to_bytes(2, "big")
    return (header + fixed + source_mac + source_ip + target_mac + target_ip).ljust(60, b"\0")


def send_frame(device: str, frame: bytes) -> None:
    """Send *frame* as it is; see packet(7)."""
    sock = _socket.socket(_socket.AF_PACKET, _socket.SOCK_RAW, 0)
    try:
        sock.bind((device, 0))
        sock.send(frame)
    finally:
        sock.close()


def announce(device: str, address: str) -> None:
    """Say on *device* that *address* is here."""
    if ":" in address:
        advertise(device, address)
        return
    mac = device_address(device)
    ip = _socket.inet_pton(_socket.AF_INET, address)
    send_frame(device, arp_frame(ARP_REQUEST, mac, ip, mac, ip))


def advertise(device: str, address: str) -> None:
    """Send an unsolicited neighbour advertisement for the IPv6 *address* to all nodes; see RFC 4861 §7.2.6."""
    mac = device_address(device)
    source = _socket.inet_pton(_socket.AF_INET6, address)
    target = _socket.inet_pton(_socket.AF_INET6, "ff02::1")
    body = b"\x20\0\0\0" + source + b"\2\1" + mac  # override; target link-layer address
    icmp = b"\x88\0" + _checksum(source, target, b"\x88\0\0\0" + body) + body
    header = b"\x60\0\0\0" + len(icmp).to_bytes(2, "big") + b"\x3a\xff" + source + target
    ethernet = b"\x33\x33\0\0\0\1" + mac + ETH_P_IPV6.to_bytes(2, "big")
    send_frame(device, ethernet + header + icmp)


def probe(device: str, address: str, source: str | None, wait_s: float, count: int) -> bytes | None:
    """Ask on *device* who has the IPv4 *address*; return the MAC that answered, None for silence."""
    mac = device_address(device)
    target = _socket.inet_pton(_socket.AF_INET, address)
    asker = _socket.inet_pton(_socket.AF_INET, source) if source else b"\0" * 4
    sock = _socket.socket(_socket.AF_PACKET, _socket.SOCK_RAW, _socket.htons(ETH_P_ARP))
    try:
        sock.bind((device, ETH_P_ARP))
        for _ in range(count):
            sock.send(arp_frame(ARP_REQUEST, mac, asker, b"\0" * 6, target))
            deadline = time.monotonic() + wait_s
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                try:
                    frame = sock.recv(256)
                except TimeoutError:
                    break
                if frame[20:22] == b"\0\2" and frame[28:32] == target and frame[22:28] != mac:
                    return frame[22:28]
    finally:
        sock.close()
    return None


def uplinks(wanted: str) -> list[str]:
    """Return the devices of this node on which neighbours ask: NEIGHBOUR_DEVS ``all`` (or ``detect``) or ``list:…``."""
    if wanted.startswith("list:"):
        return wanted[5:].replace(",", " ").split()
    found = []
    for name in device_names():
        if name == "lo" or name.startswith(("vz", "veth")):  # ours; the rest are few
            continue
        try:
            flags = device_flags(name)
        except OSError:
            continue
        if flags & IFF_UP and flags & IFF_BROADCAST and not flags & IFF_NOARP:
            found.append(name)
    return found


def _checksum(source: bytes, target: bytes, message: bytes) -> bytes:
    data = source + target + len(message).to_bytes(4, "big") + b"\0\0\0\x3a" + message
    if len(data) % 2:
        data += b"\0"
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (0xFFFF - total).to_bytes(2, "big")
