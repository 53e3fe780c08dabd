"""The routes in a dump: what ``ip route save`` wrote, a magic number and rtnetlink(7) messages as the kernel told them.

What the kernel says of a route's state it takes from nobody (EINVAL): with one route over a device without carrier, a
bridge without ports, say, ``ip route restore``, and so criu's restore, fails.
"""

from __future__ import annotations

import os
import struct

from vz.kernel.files import read_bytes, write_atomically
from vz.kernel.netlink import attribute, attribute_list

MAGIC = struct.pack("=I", 0x45311224)
LIMIT_BYTES = 1 << 30
MODE = 0o644
RTM_NEWROUTE = 24
RTA_MULTIPATH = 9
STATE = 0x1 | 0x8 | 0x10 | 0x20 | 0x40  # of a next hop: dead, offload, link down, unresolved, trap
_HEAD = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=8BI")


def forget_state(folder: str) -> None:
    """Take the state of their next hops from the routes in *folder*; can be done again."""
    for name in sorted(os.listdir(folder)):
        if not name.startswith(("route-", "route6-")):
            continue
        path = f"{folder}/{name}"
        data = read_bytes(path, LIMIT_BYTES)
        changed = stateless(data)
        if changed != data:
            write_atomically(path, changed, MODE, durable=False)


def stateless(data: bytes) -> bytes:
    """Return *data*, the contents of such a file, without states; anything else as it is."""
    if not data.startswith(MAGIC):
        return data
    out = bytearray(MAGIC)
    at = len(MAGIC)
    while at + _HEAD.size <= len(data):
        length, kind, *rest = _HEAD.unpack_from(data, at)
        if length < _HEAD.size or at + length > len(data):
            return data
        body = data[at + _HEAD.size : at + length]
        if kind == RTM_NEWROUTE and len(body) >= _RTMSG.size:
            body = _route(body)
        out += _HEAD.pack(_HEAD.size + len(body), kind, *rest) + body
        at += (length + 3) & ~3
        out += bytes(-len(body) % 4)
    return bytes(out) if at == len(data) else data


def _route(body: bytes) -> bytes:
    fields = list(_RTMSG.unpack_from(body))
    fields[8] &= ~STATE
    rest = body[_RTMSG.size :]
    if any(kind == RTA_MULTIPATH for kind, _ in attribute_list(rest)):
        rest = b"".join(
            attribute(kind, next_hops(value) if kind == RTA_MULTIPATH else value)
            for kind, value in attribute_list(rest)
        )
    return _RTMSG.pack(*fields) + rest


def next_hops(value: bytes) -> bytes:
    """Return an RTA_MULTIPATH without the state of its next hops (struct rtnexthop: length, flags, hops, index)."""
    out = bytearray(value)
    at = 0
    while at + 8 <= len(out):
        length = int.from_bytes(out[at : at + 2], "little")
        if length < 8:
            break
        out[at + 2] &= ~STATE & 0xFF
        at += (length + 3) & ~3
    return bytes(out)
