"""Sockets of a CT's processes, looked at through copies of their descriptors; see pidfd_getfd(2)."""

from __future__ import annotations

import _socket
import os

from vz.container.ct import printable
from vz.kernel.process import copy_fd, descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SO_DOMAIN, SO_PROTOCOL, SO_TYPE, SO_PASSCRED, SO_ACCEPTCONN = 39, 38, 3, 16, 30
TCP_REPAIR, REPAIR_OFF = 19, 0
IPPROTO_UDPLITE = 136
DRAIN_LIMIT = 1 << 20
BACKLOG_LIMIT = 1 << 16


def end_repair(pids: list[int]) -> int:
    """Take every TCP socket out of repair mode, where a criu that was killed left it; return how many there were."""
    count = 0
    for _, sock in _each(pids):
        try:
            if sock.getsockopt(_socket.SOL_SOCKET, SO_PROTOCOL) == _socket.IPPROTO_TCP:
                if sock.getsockopt(_socket.IPPROTO_TCP, TCP_REPAIR):
                    sock.setsockopt(_socket.IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF)
                    count += 1
        except OSError:
            pass  # a socket without such an option
    return count


def drain_netlink(pids: list[int]) -> int:
    """Throw away what nobody has read from netlink sockets, which criu cannot dump; return how many had something."""
    count = 0
    for _, sock in _each(pids):
        messages = 0
        try:
            while sock.getsockopt(_socket.SOL_SOCKET, SO_DOMAIN) == _socket.AF_NETLINK and messages < DRAIN_LIMIT:
                sock.recv(1, _socket.MSG_DONTWAIT)
                messages += 1
        except OSError:
            pass  # EAGAIN: that was all
        count += messages > 0
    return count


def credentials_queued(pids: list[int]) -> int:
    """Return a process with a Unix socket where messages with the sender's credentials wait to be read; 0: none.

    criu cannot dump such a queue; journald and systemd read theirs within moments.
    """
    for pid, sock in _each(pids):
        try:
            if sock.family == _socket.AF_UNIX and sock.getsockopt(_socket.SOL_SOCKET, SO_PASSCRED):
                if sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT):
                    return pid
        except OSError:
            pass  # EAGAIN: nothing waits; EINVAL: it listens
    return 0


def waiting(pids: list[int]) -> dict[int, tuple[int, str]]:
    """Return the sockets where a connection waits to be accepted, by inode: (a process that listens, its name).

    criu cannot dump such a connection.
    """
    found = {}
    for pid, sock in _each(pids):
        try:
            if _has_backlog(sock):
                found[os.fstat(sock.fileno()).st_ino] = pid, _name(sock)
        except OSError:
            pass  # a socket without such an option
    return found


def drop_waiting(pids: list[int]) -> int:
    """End the Unix connections that nobody has accepted; return how many there were.  The processes must be frozen.

    For criu skips none but those of TCP (--skip-in-flight).
    """
    count = 0
    for _, sock in _each(pids):
        try:
            while sock.family == _socket.AF_UNIX and count < BACKLOG_LIMIT and _has_backlog(sock):
                fd, _ = sock._accept()  # type: ignore[attr-defined]  # noqa: SLF001
                os.close(fd)
                count += 1
        except OSError:
            pass
    return count


def _has_backlog(sock: _socket.socket) -> bool:
    if not sock.getsockopt(_socket.SOL_SOCKET, SO_ACCEPTCONN):
        return False
    import select

    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _name(sock: _socket.socket) -> str:
    address = sock.getsockname()
    if sock.family == _socket.AF_UNIX:
        text = os.fsdecode(address)
        return f"socket {printable('@' + text[1:] if text[:1] == chr(0) else text)}"
    return f"port {address[1]}"


def _each(pids: list[int]) -> Iterator[tuple[int, _socket.socket]]:
    """Yield every socket of *pids* with its process; it is closed when the next one is asked for."""
    for pid in pids:
        for fd in socket_fds(pid):
            sock = open_socket(pid, fd)
            if sock is None:
                continue
            try:
                yield pid, sock
            finally:
                sock.close()


def socket_fds(pid: int) -> list[int]:
    """Return the descriptors of process *pid* that are sockets."""
    return [fd for fd, link in descriptors(pid) if link.startswith("socket:")]


def open_socket(pid: int, fd: int) -> _socket.socket | None:
    """Return a socket object on descriptor *fd* of process *pid*; None when it cannot be had."""
    try:
        return _socket.socket(fileno=copy_fd(pid, fd))
    except OSError:
        return None


def refused(sock: _socket.socket) -> str:
    """Return what kind of socket *sock* is if criu cannot dump it, "" if it can."""
    domain = sock.getsockopt(_socket.SOL_SOCKET, SO_DOMAIN)
    kind = sock.getsockopt(_socket.SOL_SOCKET, SO_TYPE)
    protocol = sock.getsockopt(_socket.SOL_SOCKET, SO_PROTOCOL)
    if domain in (_socket.AF_INET, _socket.AF_INET6):
        if kind == _socket.SOCK_RAW or protocol in (0, _socket.IPPROTO_TCP, _socket.IPPROTO_UDP, IPPROTO_UDPLITE):
            return ""
        return f"a {_PROTOCOLS.get(protocol, f'protocol {protocol}')} socket"
    if domain in (_socket.AF_UNIX, _socket.AF_PACKET, _socket.AF_NETLINK):
        return ""
    return f"a {_FAMILIES.get(domain, f'family {domain}')} socket"


_PROTOCOLS = {1: "ping (ICMP)", 58: "ping (ICMPv6)", 132: "SCTP", 33: "DCCP", 262: "Multipath TCP", 115: "L2TP"}
_FAMILIES = {38: "kernel crypto (AF_ALG)", 40: "AF_VSOCK", 29: "CAN", 30: "TIPC", 31: "Bluetooth", 44: "XDP", 43: "SMC"}
