"""What the two nodes say to each other: a JSON object a line, some with bytes after it, over the pipes of one ssh.

The asking side gets one answer for each message.  The first line, after whatever a login shell prints, is GREETING.
"""

from __future__ import annotations

import errno
import json
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

GREETING = b"vz-migrate 1"
MAX_LINE = 16 << 20
CHUNK = 1 << 20
TICK_S = 0.2
DATA = "+data"  # how many bytes follow


class Broken(Exception):
    """The other side is gone, or says what it cannot have said."""


class Channel:
    """A stream of messages each way; *read_fd* and *write_fd* are ours to close."""

    __slots__ = ("_buffer", "read_fd", "write_fd")

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._buffer = b""

    def close(self) -> None:
        for fd in {self.read_fd, self.write_fd}:
            try:
                os.close(fd)
            except OSError:
                pass

    def send(self, message: dict[str, Any], data: bytes = b"") -> None:
        """Send *message*, with *data* after it; Broken when nobody is there any more."""
        if data:
            message = {**message, DATA: len(data)}
        self.write(json.dumps(message).encode("ascii") + b"\n")
        if data:
            self.write(data)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.write_fd, view[:CHUNK]) :]
        except OSError as exc:
            raise Broken(f"the connection broke: {exc.strerror}") from exc

    def receive(
        self, timeout_s: float | None = None, tick: Callable[[], None] | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Return the next message and the bytes after it; *tick* is called now and then meanwhile.

        Raises:
            Broken: the end of the stream, *timeout_s* has passed, or something that is no message.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        line = self._take_line(deadline, tick)
        try:
            message = json.loads(line)
            size = message.get(DATA, 0)
        except (ValueError, AttributeError):
            raise Broken(f"unexpected words: {line[:80]!r}") from None
        return message, self._take(size, deadline, tick) if size else b""

    def greet(self, timeout_s: float, tick: Callable[[], None] | None = None) -> None:
        """Read up to the other side's GREETING; Broken when there is none."""
        deadline = time.monotonic() + timeout_s
        for _ in range(1000):
            if self._take_line(deadline, tick) == GREETING:
                return
        raise Broken("no greeting")

    def _take_line(self, deadline: float | None, tick: Callable[[], None] | None) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE:
                raise Broken("a line without end")
            self._fill(deadline, tick)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _take(self, size: int, deadline: float | None, tick: Callable[[], None] | None) -> bytes:
        parts = [self._buffer[:size]]
        self._buffer = self._buffer[size:]
        left = size - len(parts[0])
        while left:
            self._fill(deadline, tick)
            parts.append(self._buffer[:left])
            self._buffer = self._buffer[left:]
            left -= len(parts[-1])
        return b"".join(parts)

    def _fill(self, deadline: float | None, tick: Callable[[], None] | None) -> None:
        poll = select.poll()
        poll.register(self.read_fd, select.POLLIN)
        while True:
            left = TICK_S if deadline is None else min(TICK_S, deadline - time.monotonic())
            if left <= 0:
                raise Broken("no answer in time")
            if poll.poll(left * 1000):
                break
            if tick is not None:
                tick()
        try:
            data = os.read(self.read_fd, CHUNK)
        except OSError as exc:
            if exc.errno == errno.EINTR:
                return
            raise Broken(f"the connection broke: {exc.strerror}") from exc
        if not data:
            raise Broken("the connection broke")
        self._buffer += data
