"""The routes in a dump: what ``ip route save`` wrote, a magic number and rtnetlink(7) messages as the kernel told them.

What the kernel says of a route's state it takes from nobody (EINVAL): with one route over a device without carrier, a
bridge without ports, say, ``ip route restore``, and so criu's restore, fails.
"""

from __future__ import annotations

import os
import struct

from vz.checkpoint import images
from vz.kernel.rtnetlink import RTM_NEWROUTE, route_without_state

MAGIC = struct.pack("=I", 0x45311224)
RTMSG_BYTES = 12
_HEAD = struct.Struct("=IHHII")


def forget_state(folder: str) -> None:
    """Take the state of their next hops from the routes in *folder*; can be done again."""
    for name in sorted(os.listdir(folder)):
        if not name.startswith(("route-", "route6-")):
            continue
        path = f"{folder}/{name}"
        data = images.read(path)
        changed = stateless(data)
        if changed != data:
            images.replace(path, changed)


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
        if kind == RTM_NEWROUTE and len(body) >= RTMSG_BYTES:
            body = route_without_state(body)
        out += _HEAD.pack(_HEAD.size + len(body), kind, *rest) + body
        at += (length + 3) & ~3
        out += bytes(-len(body) % 4)
    return bytes(out) if at == len(data) else data
