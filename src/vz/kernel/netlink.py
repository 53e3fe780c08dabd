"""Netlink sockets: requests sent in one datagram, their acknowledgements, and dumps; see netlink(7).

The kernel carries a request out inside send(2), so every answer but the rest of a dump is there when it returns.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLM_F_DUMP = 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
SOL_NETLINK = 270
NETLINK_CAP_ACK, NETLINK_EXT_ACK = 10, 11
# so many acknowledgements fit into a receive buffer of the default size with room to spare
AT_ONCE = 64

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class Request:
    """One message: its type, flags (NLM_F_REQUEST and NLM_F_ACK are added), what follows the header, and what it is."""

    __slots__ = ("flags", "kind", "payload", "what")

    def __init__(self, kind: int, flags: int, payload: bytes, what: str = "") -> None:
        self.kind = kind
        self.flags = flags
        self.payload = payload
        self.what = what


class Netlink:
    """A socket of netlink family *protocol*; a context manager."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, protocol: int) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def detach(self) -> int:
        """Return the descriptor, which is the caller's to close."""
        return self._socket.detach()

    def close(self) -> None:
        self._socket.close()

    def attempt(self, requests: list[Request]) -> list[OSError | None]:
        """Send *requests* and return for each what became of it; the kernel goes on after one that fails.

        An error has the kernel's own words where it has some, and as its file name what the request was.
        """
        done: list[OSError | None] = []
        for start in range(0, len(requests), AT_ONCE):
            part = requests[start : start + AT_ONCE]
            answers = self.exchange(part)
            done += [answers.get(number) for number in range(len(part))]
        return done

    def run(self, requests: list[Request]) -> None:
        """Send *requests*; the first that failed is raised."""
        for error in self.attempt(requests):
            if error is not None:
                raise error

    def exchange(self, requests: list[Request], bracket: tuple[Request, Request] | None = None) -> dict[int, OSError]:
        """Send one datagram, *requests* with *bracket* around them; return the errors by number of the request.

        -1 stands for the first of the bracket.
        """
        base = self._sequence + 2
        self._sequence = base + len(requests)
        data = []
        for number, request in enumerate(requests):
            flags = request.flags | NLM_F_REQUEST | NLM_F_ACK
            data.append(message(request.kind, flags, request.payload, base + number))
        if bracket is not None:
            first, last = bracket
            data.insert(0, message(first.kind, NLM_F_REQUEST, first.payload, base - 1))
            data.append(message(last.kind, NLM_F_REQUEST, last.payload, base + len(requests)))
        self._socket.send(b"".join(data))
        errors: dict[int, OSError] = {}
        awaited = len(requests)
        while awaited > 0:
            try:
                chunk = self._socket.recv(65536, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for sort, flags, sequence, body in messages(chunk):
                if sort != NLMSG_ERROR:
                    continue
                number = sequence - base
                awaited -= number >= 0
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    what = requests[number].what if 0 <= number < len(requests) else ""
                    errors.setdefault(number, OSError(code, _words(flags, body) or os.strerror(code), what or None))
        if awaited > 0 and not errors:
            raise OSError(errno.EPROTO, "the kernel did not answer a netlink request")
        return errors

    def ask(self, request: Request) -> list[bytes]:
        """Send *request*, a query or a dump, and return the bodies of the answers; OSError as the kernel says."""
        self._sequence += 1
        self._socket.send(message(request.kind, request.flags | NLM_F_REQUEST, request.payload, self._sequence))
        found: list[bytes] = []
        while True:
            for sort, flags, sequence, body in messages(self._socket.recv(1 << 18)):
                if sequence != self._sequence:
                    continue
                if sort == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, _words(flags, body) or os.strerror(code), request.what or None)
                if sort == NLMSG_DONE:
                    return found
                found.append(body)
                if request.flags & NLM_F_DUMP != NLM_F_DUMP:
                    return found


def message(kind: int, flags: int, payload: bytes, sequence: int) -> bytes:
    """Return a whole message, padded as the next one needs it."""
    return _HEADER.pack(16 + len(payload), kind, flags, sequence, 0) + payload + bytes(-len(payload) % 4)


def messages(chunk: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return (type, flags, sequence, body) of the messages in *chunk*."""
    found = []
    at = 0
    while at + 16 <= len(chunk):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(chunk, at)
        if length < 16:
            break
        found.append((kind, flags, sequence, chunk[at + 16 : at + length]))
        at += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds *attributes*."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attribute_list(data: bytes) -> list[tuple[int, bytes]]:
    """Return (type with its flag bits, value) of every attribute in *data*, in order and with those that repeat."""
    found = []
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        found.append((kind, data[at + 4 : at + length]))
        at += (length + 3) & ~3
    return found


def attributes(data: bytes) -> dict[int, bytes]:
    """Return {type: value} of the attributes in *data*."""
    return {kind & 0x3FFF: value for kind, value in attribute_list(data)}


def _words(flags: int, body: bytes) -> str:
    """Return the text that the kernel put into an acknowledgement, "" where there is none."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    length = struct.unpack_from("=I", body, 4)[0]  # of the message that it answers: it may be there as a whole
    start = 20 if flags & NLM_F_CAPPED else 4 + ((length + 3) & ~3)
    return attributes(body[start:]).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode("utf-8", "replace")
