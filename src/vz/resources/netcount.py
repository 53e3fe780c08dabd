"""What a CT's network namespace holds: sockets by kind, their buffers, packet filter rules.

Asked over netlink by a child that has joined the namespace; ``sockets: used`` of its sockstat is read from outside,
where no socket of ours is in the sum.
"""

from __future__ import annotations

import _socket
import os

from vz.kernel import namespaces

NOTHING = [0] * 6


class NetCount:
    """*tcp* sockets bound or connected, *used* sockets of every kind, bytes in buffers, and rules."""

    __slots__ = ("dgramrcvbuf", "numiptent", "othersockbuf", "tcp", "tcprcvbuf", "tcpsndbuf", "used")

    def __init__(self, values: list[int], used: int) -> None:
        self.tcp, self.tcpsndbuf, self.tcprcvbuf, self.dgramrcvbuf, self.othersockbuf, self.numiptent = values
        self.used = used


def take(init_pid: int) -> NetCount:
    """Ask the network namespace of *init_pid*; zeros when it has gone."""
    used = used_sockets(init_pid)
    try:
        fd = os.open(f"/proc/{init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return NetCount(NOTHING, 0)

    def inside() -> bytes:
        namespaces.setns(fd, namespaces.CLONE_NEWNET)
        return " ".join(map(str, count())).encode()

    try:
        return NetCount([int(word) for word in namespaces.run_in_child(inside, 10.0).split()], used)
    except OSError:
        return NetCount(NOTHING, used)
    finally:
        os.close(fd)


def count() -> list[int]:
    """Return the numbers of a NetCount, as this namespace has them."""
    from vz.kernel import sockdiag
    from vz.kernel.sockdiag import RMEM_ALLOC, WMEM_ALLOC, WMEM_QUEUED

    families = (_socket.AF_INET, _socket.AF_INET6)
    tcp = [memory for family in families for memory in sockdiag.inet_sockets(family, _socket.IPPROTO_TCP)]
    udp = [memory for family in families for memory in sockdiag.inet_sockets(family, _socket.IPPROTO_UDP)]
    other = sum(memory[WMEM_ALLOC] for memory in udp + sockdiag.unix_sockets())
    sent, received = sum(memory[WMEM_QUEUED] for memory in tcp), sum(memory[RMEM_ALLOC] for memory in tcp)
    return [len(tcp), sent, received, sum(memory[RMEM_ALLOC] for memory in udp), other, sockdiag.nft_rules()]


def used_sockets(init_pid: int) -> int:
    """Return how many sockets processes have in the network namespace of *init_pid*."""
    try:
        with open(f"/proc/{init_pid}/net/sockstat", encoding="ascii") as file:
            return int(file.readline().split()[2])
    except (OSError, ValueError, IndexError):
        return 0
