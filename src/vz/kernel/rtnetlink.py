"""Links, addresses, routes and proxied neighbours by rtnetlink; see rtnetlink(7) and linux/rtnetlink.h.

The functions named after ip(8)'s objects return requests, to be sent together; a link is named by its index.
"""

from __future__ import annotations

import _socket
import os
import struct
import sys

from .netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    Request,
    attribute,
    attribute_list,
    attributes,
    nested,
)

NETLINK_ROUTE = 0
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_AF_SPEC = 1, 3, 10, 18, 19, 26
IFLA_GROUP, IFLA_NET_NS_FD = 27, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA, IFLA_BRPORT_STATE = 4, 5, 1
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
IFA_ADDRESS, IFA_LOCAL, IFA_F_NODAD = 1, 2, 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_MULTIPATH = 1, 4, 5, 7, 9
# what the kernel says of a next hop and takes from nobody (EINVAL): dead, offload, link down, unresolved, trap
RTNH_STATE = 0x1 | 0x8 | 0x10 | 0x20 | 0x40
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 254, 3, 0, 253
RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST = 1, 2, 3
NDA_DST, NTF_PROXY, NUD_PERMANENT = 1, 0x08, 0x80
IFF_UP, IFF_NOARP = 0x1, 0x80

_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst length, src length, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type


class Route(Netlink):
    """A socket for these requests, of this network namespace."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(NETLINK_ROUTE)


class Link:
    """What a new link is to be; *index* 0: the kernel chooses, *mac* "": likewise."""

    __slots__ = ("flags", "group", "index", "mac", "name")

    def __init__(self, name: str, mac: str = "", index: int = 0, flags: int = 0, group: int = 0) -> None:
        self.name = name
        self.mac = mac
        self.index = index
        self.flags = flags
        self.group = group

    def body(self, *extra: bytes) -> bytes:
        parts = [_LINK.pack(0, 0, self.index, self.flags, self.flags), _name(self.name)]
        if self.mac:
            parts.append(attribute(IFLA_ADDRESS, mac_bytes(self.mac)))
        if self.group:
            parts.append(attribute(IFLA_GROUP, struct.pack("=I", self.group)))
        return b"".join((*parts, *extra))


def link_add_veth(link: Link, peer: Link, netns_pid: int) -> Request:
    """A veth pair with *peer* in the network namespace of *netns_pid*; EEXIST: a name or index is taken."""
    inside = attribute(IFLA_NET_NS_PID, struct.pack("=I", netns_pid))
    data = nested(IFLA_INFO_DATA, nested(VETH_INFO_PEER, peer.body(inside)))
    body = link.body(nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"veth"), data))
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"link {link.name}")


def link_set(
    index: int,
    *,
    flags: int = 0,
    change: int = 0,
    mac: str = "",
    name: str = "",
    master: int | None = None,
    netns_fd: int = -1,
    group: int = 0,
    no_address: bool = False,
) -> Request:
    """Change what is given.  *no_address*: IPv6 makes it no link-local address; *master* 0 takes it off its bridge."""
    parts = [_LINK.pack(0, 0, index, flags, change)]
    if mac:
        parts.append(attribute(IFLA_ADDRESS, mac_bytes(mac)))
    if name:
        parts.append(_name(name))
    if master is not None:
        parts.append(attribute(IFLA_MASTER, struct.pack("=I", master)))
    if netns_fd >= 0:
        parts.append(attribute(IFLA_NET_NS_FD, struct.pack("=I", netns_fd)))
    if group:
        parts.append(attribute(IFLA_GROUP, struct.pack("=I", group)))
    if no_address:
        mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes((IN6_ADDR_GEN_MODE_NONE,)))
        parts.append(nested(IFLA_AF_SPEC, nested(_socket.AF_INET6, mode)))
    return Request(RTM_SETLINK, 0, b"".join(parts), f"link {name or index}")


def link_up(index: int, *, arp: bool = True) -> Request:
    return link_set(index, flags=IFF_UP if arp else IFF_UP | IFF_NOARP, change=IFF_UP if arp else IFF_UP | IFF_NOARP)


def link_delete(name: str) -> Request:
    """ENODEV: there is none of that name."""
    return Request(RTM_DELLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + _name(name), f"link {name}")


def address_add(index: int, address: str) -> Request:
    """*address* alone (/32, /128), usable at once: no duplicate address detection; one that is there is no error."""
    return _address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, address)


def address_delete(index: int, address: str) -> Request:
    """EADDRNOTAVAIL: it is not there."""
    return _address(RTM_DELADDR, 0, index, address)


def route_add(index: int, address: str, *, replace: bool = False, source: str = "") -> Request:
    """A route for *address* over link *index*.

    EEXIST: there is one for just this address and not *replace*.  *source* is the node's address for what it sends.
    """
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return _route(RTM_NEWROUTE, flags, index, address, source)


def route_delete(index: int, address: str) -> Request:
    """ESRCH: it is not there."""
    return _route(RTM_DELROUTE, 0, index, address, "")


def default_route(index: int, family: int) -> Request:
    """The default route of *family* over link *index*, in place of any other."""
    return _route_to(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, index, family, b"", b"", "default route")


def default_route_delete(index: int, family: int) -> Request:
    """ESRCH: it is not there."""
    return _route_to(RTM_DELROUTE, 0, index, family, b"", b"", "default route")


def proxy_add(index: int, address: str) -> Request:
    """This node answers ARP or ND for *address* on link *index*; one that is there is no error."""
    return _proxy(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, index, address)


def proxy_delete(index: int, address: str) -> Request:
    """ENOENT: it is not there."""
    return _proxy(RTM_DELNEIGH, 0, index, address)


class FoundLink:
    """A link that is there: its index, name, group and flags, the index of what it is a port of, and of a bridge's port
    the state (BR_STATE_… of if_bridge.h), else -1."""

    __slots__ = ("flags", "group", "index", "master", "name", "state")

    def __init__(self, index: int, name: str, group: int, flags: int, master: int, state: int) -> None:
        self.index = index
        self.name = name
        self.group = group
        self.flags = flags
        self.master = master
        self.state = state


def link_get(sock: Route, name: str) -> FoundLink | None:
    """Return the link *name* of this namespace; None when there is none."""
    try:
        answer = sock.ask(Request(RTM_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + _name(name), f"link {name}"))[0]
    except OSError:
        return None
    _, _, index, flags, _ = _LINK.unpack_from(answer)
    found = attributes(answer[_LINK.size :])
    group, master = (int.from_bytes(found.get(kind, b""), sys.byteorder) for kind in (IFLA_GROUP, IFLA_MASTER))
    info = attributes(found.get(IFLA_LINKINFO, b""))
    state = -1
    if info.get(IFLA_INFO_SLAVE_KIND, b"").rstrip(b"\0") == b"bridge":
        state = attributes(info.get(IFLA_INFO_SLAVE_DATA, b"")).get(IFLA_BRPORT_STATE, b"\xff")[0]
    return FoundLink(index, name, group, flags, master, state)


class Found:
    """A route that the kernel chose: its type (RTN_…), its link, and whether it leads over a gateway."""

    __slots__ = ("gateway", "index", "kind")

    def __init__(self, kind: int, index: int, gateway: bool) -> None:
        self.kind = kind
        self.index = index
        self.gateway = gateway


def route_get(sock: Route, address: str) -> Found:
    """Return the route to *address*; OSError ENETUNREACH: there is none."""
    family, packed = pack(address)
    body = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, packed)
    answer = sock.ask(Request(RTM_GETROUTE, 0, body, f"route {address}"))[0]
    found = attributes(answer[_ROUTE.size :])
    index = struct.unpack("=I", found[RTA_OIF])[0] if RTA_OIF in found else 0
    return Found(answer[7], index, RTA_GATEWAY in found)


def addresses(sock: Route, family: int) -> list[tuple[int, int, str, int]]:
    """Return (link index, scope, address, prefix length) of every address of *family* in this namespace."""
    found = []
    for answer in sock.ask(Request(RTM_GETADDR, NLM_F_DUMP, _ADDRESS.pack(family, 0, 0, 0, 0))):
        _, length, _, scope, index = _ADDRESS.unpack_from(answer)
        values = attributes(answer[_ADDRESS.size :])
        packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
        if packed:
            found.append((index, scope, _socket.inet_ntop(family, packed), length))
    return found


def pack(address: str) -> tuple[int, bytes]:
    """Return (family, bytes) of *address*."""
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    return family, _socket.inet_pton(family, address)


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _name(name: str) -> bytes:
    return attribute(IFLA_IFNAME, os.fsencode(name) + b"\0")


def route_without_state(body: bytes, dropped: tuple[int, ...] = ()) -> bytes:
    """Return the body of a route that the kernel has told so that it takes it back: without the state of its next hops,
    and without the attributes *dropped*."""
    head = list(_ROUTE.unpack_from(body))
    head[8] &= ~RTNH_STATE
    rest = body[_ROUTE.size :]
    found = attribute_list(rest)
    if any(kind in dropped or kind == RTA_MULTIPATH for kind, _ in found):
        rest = b"".join(
            attribute(kind, next_hops_without_state(value) if kind == RTA_MULTIPATH else value)
            for kind, value in found
            if kind not in dropped
        )
    return _ROUTE.pack(*head) + rest


def next_hops_without_state(value: bytes) -> bytes:
    """Return an RTA_MULTIPATH without the state of its next hops (struct rtnexthop: length, flags, hops, index)."""
    out = bytearray(value)
    at = 0
    while at + 8 <= len(out):
        length = int.from_bytes(out[at : at + 2], "little")
        if length < 8:
            break
        out[at + 2] &= ~RTNH_STATE & 0xFF
        at += (length + 3) & ~3
    return bytes(out)


def _address(kind: int, flags: int, index: int, address: str) -> Request:
    family, packed = pack(address)
    own = IFA_F_NODAD if family == _socket.AF_INET6 else 0
    body = _ADDRESS.pack(family, len(packed) * 8, own, RT_SCOPE_UNIVERSE, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    return Request(kind, flags, body, f"address {address}")


def _route(kind: int, flags: int, index: int, address: str, source: str) -> Request:
    family, packed = pack(address)
    return _route_to(kind, flags, index, family, packed, pack(source)[1] if source else b"", f"route {address}")


def _route_to(kind: int, flags: int, index: int, family: int, to: bytes, source: bytes, what: str) -> Request:
    scope = RT_SCOPE_LINK if family == _socket.AF_INET else RT_SCOPE_UNIVERSE
    body = _ROUTE.pack(family, len(to) * 8, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
    if to:
        body += attribute(RTA_DST, to)
    if source:
        body += attribute(RTA_PREFSRC, source)
    return Request(kind, flags, body + attribute(RTA_OIF, struct.pack("=I", index)), what)


def _proxy(kind: int, flags: int, index: int, address: str) -> Request:
    family, packed = pack(address)
    # permanent: or the loss of the carrier would end it
    body = _NEIGHBOUR.pack(family, index, NUD_PERMANENT, NTF_PROXY, 0) + attribute(NDA_DST, packed)
    return Request(kind, flags, body, f"proxy entry {address}")
