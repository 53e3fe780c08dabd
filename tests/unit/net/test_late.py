"""Packets that are handed in late: the checksum that a device was to fill in, and how they are packed."""

from __future__ import annotations

import os
import socket

import pytest

from vz.net import late


def udp4(checksum: bytes, data: bytes) -> bytes:
    length = 8 + len(data)
    head = bytes.fromhex("4500") + (20 + length).to_bytes(2, "big") + bytes.fromhex("000040004011")
    head += b"\0\0" + socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2")
    return head + (4000).to_bytes(2, "big") + (53).to_bytes(2, "big") + length.to_bytes(2, "big") + checksum + data


def sum_of(packet: bytes) -> int:
    """RFC 1071, word by word: 0xffff for a packet that is right."""
    start, ends = (20, packet[12:20]) if packet[0] >> 4 == 4 else (40, packet[8:40])
    body = packet[start:]
    data = ends + len(body).to_bytes(4, "big") + bytes((0, 0, 0, packet[9] if start == 20 else packet[6])) + body
    data += b"\0" * (len(data) % 2)
    total = sum(data[i] << 8 | data[i + 1] for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("size", [0, 1, 2, 3, 700, 1400])
def test_a_checksum_is_made_anew(size: int) -> None:
    data = os.urandom(size)
    made = late.with_checksum(udp4(b"\x12\x34", data))
    assert sum_of(made) == 0xFFFF
    assert made[:26] + made[28:] == udp4(b"\0\0", data)[:26] + udp4(b"\0\0", data)[28:]


def test_of_tcp_over_ipv6() -> None:
    ends = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    segment = os.urandom(16) + b"\0\0" + os.urandom(9)
    made = late.with_checksum(b"\x60\0\0\0" + len(segment).to_bytes(2, "big") + b"\x06\x40" + ends + segment)
    assert sum_of(made) == 0xFFFF


@pytest.mark.parametrize(
    "packet",
    [
        udp4(b"\x12\x34", b"")[:27],  # cut off
        udp4(b"\x12\x34", b"x")[:9] + b"\x01" + udp4(b"\x12\x34", b"x")[10:],  # ICMP
        udp4(b"\x12\x34", b"x")[:6] + b"\x20\x01" + udp4(b"\x12\x34", b"x")[8:],  # a fragment
    ],
)
def test_what_has_none_stays(packet: bytes) -> None:
    assert late.with_checksum(packet) == packet


def test_packets_are_split_as_they_were_joined() -> None:
    packets = [b"E" * 20, b"`" * 41]
    joined = b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets)
    assert list(late._split(joined)) == packets
    assert list(late._split(b"")) == []
    assert list(late._split(joined[:30])) == [packets[0], packets[1][:6]]
