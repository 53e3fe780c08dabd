"""Sockets and packet filter rules of this network namespace, by netlink; see sock_diag(7) and nfnetlink."""

from __future__ import annotations

import _socket
import errno
import struct

from .netlink import NLM_F_DUMP, Netlink, Request, attributes

NETLINK_SOCK_DIAG, NETLINK_NETFILTER = 4, 12
SOCK_DIAG_BY_FAMILY = 20
INET_DIAG_SKMEMINFO, UNIX_DIAG_MEMINFO = 7, 5
UDIAG_SHOW_MEMINFO = 0x20
INET_DIAG_MSG_LENGTH, UNIX_DIAG_MSG_LENGTH = 72, 16
ALL_STATES = 0xFFFFFFFF
NFT_MSG_GETRULE = (10 << 8) | 7
RMEM_ALLOC, WMEM_ALLOC, WMEM_QUEUED = 0, 2, 5


def inet_sockets(family: int, protocol: int) -> list[tuple[int, ...]]:
    """Return the SK_MEMINFO_ values, in bytes, of each socket that belongs to a process; EOPNOTSUPP, ENOENT: no diag.

    TCP sockets that are neither bound, listening nor connected are not known to the kernel here.
    """
    payload = struct.pack("=BBBBI48x", family, protocol, 1 << (INET_DIAG_SKMEMINFO - 1), 0, ALL_STATES)
    found = []
    for body in _dump(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, payload):
        if struct.unpack_from("=I", body, INET_DIAG_MSG_LENGTH - 4)[0]:  # an inode: not in TIME_WAIT or an orphan
            found.append(_words(attributes(body[INET_DIAG_MSG_LENGTH:]).get(INET_DIAG_SKMEMINFO, b"")))
    return found


def unix_sockets() -> list[tuple[int, ...]]:
    """Return the same of each Unix socket."""
    payload = struct.pack("=BBHIIIII", _socket.AF_UNIX, 0, 0, ALL_STATES, 0, UDIAG_SHOW_MEMINFO, 0xFFFFFFFF, 0xFFFFFFFF)
    bodies = _dump(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, payload)
    return [_words(attributes(body[UNIX_DIAG_MSG_LENGTH:]).get(UNIX_DIAG_MEMINFO, b"")) for body in bodies]


def nft_rules() -> int:
    """Return how many nftables rules there are, those of iptables-nft among them."""
    return len(_dump(NETLINK_NETFILTER, NFT_MSG_GETRULE, bytes(4)))


def _dump(protocol: int, kind: int, payload: bytes) -> list[bytes]:
    try:
        with Netlink(protocol) as netlink:
            return netlink.ask(Request(kind, NLM_F_DUMP, payload))
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL, errno.EINTR):
            return []
        raise


def _words(data: bytes) -> tuple[int, ...]:
    values = struct.unpack(f"={len(data) // 4}I", data[: len(data) // 4 * 4])
    return values + (0,) * (9 - len(values))
