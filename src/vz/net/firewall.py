"""A CT's nftables rules (iptables-nft's among them), saved and put back as the kernel's own messages.

criu's copy goes through the text of a libnftables: rules of iptables-nft come back as something that it does not
recognise, or fail the restore, and a newer library's text crashes the CT's older nft.  The kernel's messages keep
every expression, counter and comment.  See nf_tables of <linux/netfilter/nf_tables.h> and libnftnl.
"""

from __future__ import annotations

import _socket
import os
import struct

from vz.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    attribute_list,
    message,
    messages,
)

NETLINK_NETFILTER = 12
SUBSYSTEM = 10
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NLM_F_APPEND = 0x800
NLA_F_NESTED, TYPE_MASK = 0x8000, 0x3FFF
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
GET_TABLE, GET_CHAIN, GET_RULE, GET_SET, GET_ELEMENTS, GET_OBJECT, GET_FLOWTABLE = 1, 4, 7, 10, 13, 19, 23
NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_SET, NEW_ELEMENTS, NEW_OBJECT, NEW_FLOWTABLE = 0, 3, 6, 9, 12, 18, 22
# attributes that a request may have; the kernel adds handles, use counts and paddings to its answers
KEPT = {
    NEW_TABLE: frozenset((1, 2, 6)),  # name, flags, user data
    NEW_CHAIN: frozenset((1, 3, 4, 5, 7, 8, 10, 12)),  # table, name, hook, policy, type, counters, flags, user data
    NEW_RULE: frozenset((1, 2, 4, 7)),  # table, chain, expressions, user data
    NEW_SET: frozenset((1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18)),
    NEW_ELEMENTS: frozenset((1, 2, 3)),
    NEW_OBJECT: frozenset((1, 2, 3, 4, 8)),
    NEW_FLOWTABLE: frozenset((1, 2, 3, 7)),
}
TABLE_FLAGS, TABLE_F_DORMANT = 2, 1  # dormant is the one flag that outlives its owner
SET_NAME, SET_ID = 2, 10
CHAIN_NAME, CHAIN_FLAGS, CHAIN_F_BINDING = 3, 10, 4
RULE_EXPRESSIONS, RULE_COMPAT = 4, 5
ELEMENT_PAD = 8


def save() -> list[tuple[int, bytes]]:
    """Return the requests (message type, body) that make the rules of this network namespace again; [] for none.

    Raises:
        OSError: the kernel's.
    """
    sock = _open()
    try:
        tables = _dump(sock, GET_TABLE)
        if not tables:
            return []
        found = [(NEW_TABLE, _table(body)) for body in tables]
        found += [(NEW_OBJECT, _kept(NEW_OBJECT, body)) for body in _dump(sock, GET_OBJECT)]
        found += [(NEW_FLOWTABLE, _kept(NEW_FLOWTABLE, body)) for body in _dump(sock, GET_FLOWTABLE)]
        sets = _dump(sock, GET_SET)
        for number, body in enumerate(sets, 1):
            found.append((NEW_SET, _kept(NEW_SET, body) + attribute(SET_ID, number.to_bytes(4, "big"))))
        found += [(NEW_CHAIN, _kept(NEW_CHAIN, body)) for body in _dump(sock, GET_CHAIN)]
        for body in sets:  # after the chains: elements of a verdict map name them
            names = b"".join(attribute(*part) for part in attribute_list(body[4:]) if part[0] in (1, SET_NAME))
            for part in _dump(sock, GET_ELEMENTS, body[:4] + names):
                found.append((NEW_ELEMENTS, _elements(part)))
        return found + [(NEW_RULE, _rule(body)) for body in _bound_first(_dump(sock, GET_CHAIN), _dump(sock, GET_RULE))]
    finally:
        sock.close()


def is_there() -> bool:
    """Tell whether this kernel has nftables."""
    sock = _open_or_none()
    if sock is None:
        return False
    try:
        sock.send(message(SUBSYSTEM << 8 | GET_TABLE, NLM_F_REQUEST | NLM_F_DUMP, b"\0\0\0\0", 1))
        return all(
            sort != NLMSG_ERROR or not struct.unpack_from("=i", part)[0]
            for sort, _, _, part in messages(sock.recv(1 << 20))
        )
    except OSError:
        return False
    finally:
        sock.close()


def restore(requests: list[tuple[int, bytes]]) -> None:
    """Make the rules again, in one transaction.

    Raises:
        OSError: the kernel refused one, and so all; the file name says which kind.
    """
    sock = _open()
    try:
        data = [message(BATCH_BEGIN, NLM_F_REQUEST, struct.pack(">BBH", 0, 0, SUBSYSTEM), 1)]
        for number, (kind, body) in enumerate(requests):
            flags = NLM_F_REQUEST | NLM_F_CREATE | (NLM_F_APPEND if kind == NEW_RULE else 0)
            if number == len(requests) - 1:
                flags |= NLM_F_ACK  # errors are told in any case
            data.append(message(SUBSYSTEM << 8 | kind, flags, body, number + 2))
        data.append(message(BATCH_END, NLM_F_REQUEST, struct.pack(">BBH", 0, 0, SUBSYSTEM), len(requests) + 2))
        whole = b"".join(data)
        _grow(sock, SO_SNDBUFFORCE, 2 * len(whole) + (1 << 16))
        sock.send(whole)
        while True:
            for sort, _, sequence, body in messages(sock.recv(1 << 20)):
                if sort != NLMSG_ERROR:
                    continue
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    kind = requests[sequence - 2][0] if 2 <= sequence < len(requests) + 2 else -1
                    raise OSError(code, os.strerror(code), _NAMES.get(kind, "the packet filter"))
                return
    finally:
        sock.close()


_NAMES = {
    NEW_TABLE: "a table of the packet filter",
    NEW_CHAIN: "a chain of the packet filter",
    NEW_RULE: "a rule of the packet filter",
    NEW_SET: "a set of the packet filter",
    NEW_ELEMENTS: "the elements of a set of the packet filter",
    NEW_OBJECT: "an object of the packet filter",
    NEW_FLOWTABLE: "a flow table of the packet filter",
}


def dump(requests: list[tuple[int, bytes]]) -> bytes:
    """Return *requests* as the contents of a file."""
    return b"".join(struct.pack("<II", kind, len(body)) + body for kind, body in requests)


def parse(data: bytes) -> list[tuple[int, bytes]]:
    """Return what dump() was given; ValueError for anything else."""
    found = []
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise ValueError("cut short")
        kind, size = struct.unpack_from("<II", data, at)
        at += 8
        if at + size > len(data) or kind not in KEPT:
            raise ValueError("no rules of a packet filter")
        found.append((kind, data[at : at + size]))
        at += size
    return found


def _bound_first(chains: list[bytes], rules: list[bytes]) -> list[bytes]:
    """Return *rules* with those of anonymous chains before the rule that binds the chain: then it takes no more."""
    bound: dict[tuple[bytes, bytes], bytes] = {}
    for body in chains:
        parts = {n & TYPE_MASK: v for n, v in attribute_list(body[4:])}
        if int.from_bytes(parts.get(CHAIN_FLAGS, b""), "big") & CHAIN_F_BINDING:
            bound[body[:1] + parts.get(1, b""), parts.get(CHAIN_NAME, b"")] = parts.get(CHAIN_NAME, b"")
    if not bound:
        return rules
    by_chain: dict[tuple[bytes, bytes], list[bytes]] = {}
    for body in rules:
        parts = {n & TYPE_MASK: v for n, v in attribute_list(body[4:])}
        by_chain.setdefault((body[:1] + parts.get(1, b""), parts.get(2, b"")), []).append(body)
    found: list[bytes] = []
    done: set[tuple[bytes, bytes]] = set()

    def emit(chain: tuple[bytes, bytes]) -> None:
        if chain in done:
            return
        done.add(chain)
        for body in by_chain.get(chain, []):
            for inner, name in bound.items():
                if inner[0] == chain[0] and inner != chain and name in body:
                    emit(inner)
            found.append(body)

    for chain in by_chain:
        if chain not in bound:
            emit(chain)
    return found


def _open_or_none() -> _socket.socket | None:
    try:
        return _open()
    except OSError:
        return None


def _open() -> _socket.socket:
    sock = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    _grow(sock, SO_RCVBUFFORCE, 1 << 20)
    return sock


def _grow(sock: _socket.socket, option: int, size: int) -> None:
    try:
        sock.setsockopt(_socket.SOL_SOCKET, option, size)
    except OSError:
        pass  # a node that is a container itself: the default has to do


def _dump(sock: _socket.socket, kind: int, body: bytes = b"\0\0\0\0") -> list[bytes]:
    """Return the bodies of the kernel's answers, one for each table, chain, rule… of all families."""
    sock.send(message(SUBSYSTEM << 8 | kind, NLM_F_REQUEST | NLM_F_DUMP, body, kind + 1))
    found: list[bytes] = []
    while True:
        for sort, _, sequence, part in messages(sock.recv(1 << 20)):
            if sequence != kind + 1:
                continue
            if sort == NLMSG_DONE:
                return found
            if sort == NLMSG_ERROR:
                code = -struct.unpack_from("=i", part)[0]
                if code in (2, 22, 95):  # ENOENT, EINVAL, EOPNOTSUPP: a kind that this kernel does not know
                    return found
                raise OSError(code, os.strerror(code), "nf_tables")
            found.append(part)


def _kept(kind: int, body: bytes) -> bytes:
    """Return *body* (struct nfgenmsg and attributes) with what a request may have."""
    head = body[:2] + b"\0\0"  # no generation
    return head + b"".join(attribute(n, value) for n, value in attribute_list(body[4:]) if n & TYPE_MASK in KEPT[kind])


def _table(body: bytes) -> bytes:
    out = body[:2] + b"\0\0"
    for kind, value in attribute_list(body[4:]):
        if kind & TYPE_MASK == TABLE_FLAGS:
            value = (int.from_bytes(value, "big") & TABLE_F_DORMANT).to_bytes(4, "big")
        if kind & TYPE_MASK in KEPT[NEW_TABLE]:
            out += attribute(kind, value)
    return out


def _elements(body: bytes) -> bytes:
    """Return the elements of a set without the paddings in each."""
    out = body[:2] + b"\0\0"
    for kind, value in attribute_list(body[4:]):
        if kind & TYPE_MASK == 3:
            parts = []
            for number, element in attribute_list(value):
                inner = [(n, v) for n, v in attribute_list(element) if n & TYPE_MASK != ELEMENT_PAD]
                parts.append(attribute(number | NLA_F_NESTED, b"".join(attribute(n, v) for n, v in inner)))
            value = b"".join(parts)
        if kind & TYPE_MASK in KEPT[NEW_ELEMENTS]:
            out += attribute(kind, value)
    return out


def _rule(body: bytes) -> bytes:
    """Return a rule; one with matches or targets of x_tables also says again for which protocol they were checked."""
    out = _kept(NEW_RULE, body)
    expressions = next((v for n, v in attribute_list(body[4:]) if n & TYPE_MASK == RULE_EXPRESSIONS), b"")
    protocol = _compat_protocol(body[0], expressions)
    if protocol is not None:
        inner = attribute(1, struct.pack(">I", protocol[0])) + attribute(2, struct.pack(">I", protocol[1]))
        out += attribute(RULE_COMPAT | NLA_F_NESTED, inner)
    return out


def _compat_protocol(family: int, expressions: bytes) -> tuple[int, int] | None:
    """Return (layer 4 protocol, flags: 2 for "not this one") of a rule with x_tables extensions; None for others.

    The kernel takes it in NFTA_RULE_COMPAT and never tells it; iptables compares it in the rule itself, too.
    """
    has_compat = False
    loaded = False  # the register holds the protocol
    found: tuple[int, int] | None = None
    for _, item in attribute_list(expressions):
        parts = {n & TYPE_MASK: v for n, v in attribute_list(item)}
        name = parts.get(1, b"").rstrip(b"\0")
        data = {n & TYPE_MASK: v for n, v in attribute_list(parts.get(2, b""))}
        if name in (b"match", b"target"):
            has_compat = True
        elif name == b"meta":
            loaded = data.get(2) == b"\0\0\0\x10"  # NFT_META_L4PROTO
        elif name == b"payload":  # the protocol field of an IPv4 header
            loaded = family == _socket.AF_INET and (data.get(2), data.get(3)) == (b"\0\0\0\1", b"\0\0\0\x09")
        elif name == b"cmp" and loaded and found is None:
            value = {n & TYPE_MASK: v for n, v in attribute_list(data.get(3, b""))}.get(1, b"")
            if len(value) == 1:
                found = value[0], 2 if data.get(2) == b"\0\0\0\1" else 0
            loaded = False
    if not has_compat:
        return None
    return found or (0, 0)
