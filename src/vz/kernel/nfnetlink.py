"""Elements of nftables sets by nfnetlink: put in, taken out, asked for; see linux/netfilter/nf_tables.h.

nft(8) makes tables and rules.  For an element it would read the sets first, whose size is the number of CTs; these
requests cost the same at any size.
"""

from __future__ import annotations

import struct

from .netlink import NLM_F_CREATE, Netlink, Request, attribute, attributes, nested

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = 12, 13, 14
NFPROTO_INET, NFPROTO_BRIDGE = 1, 7
FAMILIES = {"inet": NFPROTO_INET, "bridge": NFPROTO_BRIDGE}
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_EXPR, NFTA_DATA_VALUE = 1, 1, 7, 1
NFTA_SET_ELEM_EXPRESSIONS, NFTA_EXPR_DATA, NFTA_COUNTER_BYTES = 11, 2, 1


class Netfilter(Netlink):
    """A socket for these requests, of this network namespace.

    After a transaction that took elements out its close takes 10 ms and more, see process.in_background.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)


class Element:
    """The element *key* (the parts of a concatenation, each padded to four bytes) of a set."""

    __slots__ = ("family", "key", "set", "table")

    def __init__(self, family: str, table: str, set: str, *parts: bytes) -> None:
        self.family = family
        self.table = table
        self.set = set
        self.key = b"".join(part + bytes(-len(part) % 4) for part in parts)

    def request(self, kind: int, flags: int = 0) -> Request:
        key = nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, self.key))
        body = struct.pack(">BBH", FAMILIES[self.family], 0, 0)
        body += attribute(NFTA_SET_ELEM_LIST_TABLE, self.table.encode() + b"\0")
        body += attribute(NFTA_SET_ELEM_LIST_SET, self.set.encode() + b"\0")
        body += nested(NFTA_SET_ELEM_LIST_ELEMENTS, nested(NFTA_LIST_ELEM, key))
        what = f"set {self.set} of table {self.family} {self.table}"
        return Request(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, body, what)


def ifname(name: str) -> bytes:
    """Return *name* as a key of type ``ifname``."""
    return name.encode().ljust(16, b"\0")


def change(sock: Netfilter, put: list[Element], take: list[Element] = []) -> None:  # noqa: B006
    """Put and take elements in one transaction: all or nothing.

    Putting one that is there, and taking one that is not, is no error.

    Raises:
        OSError: ENOENT: there is no such table or set; EOPNOTSUPP, EAFNOSUPPORT: this kernel has no nftables.
    """
    requests = [element.request(NFT_MSG_NEWSETELEM, NLM_F_CREATE) for element in put]
    for element in take:  # put first: there is no "take if there" before Linux 6.3
        requests.append(element.request(NFT_MSG_NEWSETELEM, NLM_F_CREATE))
        requests.append(element.request(NFT_MSG_DELSETELEM))
    ours = struct.pack(">BBH", 0, 0, NFNL_SUBSYS_NFTABLES)
    bracket = (Request(NFNL_MSG_BATCH_BEGIN, 0, ours), Request(NFNL_MSG_BATCH_END, 0, ours))
    errors = sock.exchange(requests, bracket)
    for number in sorted(errors):
        raise errors[number]


def counted_bytes(sock: Netfilter, element: Element) -> int:
    """Return the bytes that the counter of *element* has seen; OSError ENOENT: there is no such element."""
    answer = sock.ask(element.request(NFT_MSG_GETSETELEM))[0]
    listed = attributes(attributes(answer[4:])[NFTA_SET_ELEM_LIST_ELEMENTS])
    values = attributes(listed[NFTA_LIST_ELEM])
    expression = values.get(NFTA_SET_ELEM_EXPR)
    if expression is None:  # several expressions: a list
        expression = attributes(values.get(NFTA_SET_ELEM_EXPRESSIONS, b"")).get(1, b"")
    counter = attributes(attributes(expression).get(NFTA_EXPR_DATA, b""))
    return int.from_bytes(counter.get(NFTA_COUNTER_BYTES, b""), "big")
