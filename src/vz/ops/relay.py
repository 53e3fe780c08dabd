"""The three streams of a process in a CT, passed on by splice(2), or read and write where splice cannot.

Nothing that the CT does may hold this up for good: a program that writes before it reads, one that never reads, and
children that go on with its streams after it has ended.
"""

from __future__ import annotations

import _signal
import errno
import fcntl
import os
import select

CHUNK = 65536
FIONREAD = 0x541B
_OVER = (errno.EIO, errno.EPIPE)  # our terminal has gone; nobody reads it any more


class Child:
    """A process of a CT that is our child: reaped the moment it ends, whatever we are waiting for.

    A dead child that nobody reaps keeps its pid namespace, and so the CT, from ending.
    """

    __slots__ = ("ended", "pidfd", "status")

    def __init__(self, pid: int) -> None:
        self.ended = False
        self.status = 0  # its exit status, or minus its signal
        self.pidfd = os.pidfd_open(pid)
        _signal.signal(_signal.SIGCHLD, self.reap)  # a write(2) that blocks is interrupted by it
        self.reap()

    def reap(self, *_: object) -> None:
        if self.ended:
            return
        try:
            found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return  # we are in the midst of another call of ours, interrupted by SIGCHLD: one of the two has it
        if found is not None:
            self.status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
            self.ended = True

    def forward(self, signum: int, _: object = None) -> None:
        """Send it a signal."""
        try:
            _signal.pidfd_send_signal(self.pidfd, signum)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.close(self.pidfd)


class Relay:
    """Between our standard streams and a child's pipes, from its start to its end."""

    __slots__ = ("_child", "_input", "_outputs", "_pending", "_poll")

    def __init__(self, pid: int, to_stdin: int, from_stdout: int, from_stderr: int) -> None:
        self._child = Child(pid)
        self._input = to_stdin  # -1: closed
        self._outputs = {from_stdout: 1, from_stderr: 2}
        self._pending = b""  # read from our input, not yet taken by the child
        self._poll = select.poll()

    def run(self) -> int:
        """Pass everything on until the child ends, then what it left; return its exit status or minus its signal.

        SIGINT, SIGTERM and SIGHUP are passed on to it.
        """
        for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
            _signal.signal(number, self._child.forward)
        _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
        os.set_blocking(self._input, False)  # the other end is another open file: its own blocking stays
        for fd in (self._child.pidfd, *self._outputs, 0):
            self._poll.register(fd, select.POLLIN)
        while not self._child.ended:
            for fd, event in self._poll.poll():
                if fd == self._child.pidfd:
                    self._child.reap()
                elif fd in self._outputs:
                    if not _pass(fd, self._outputs[fd]):
                        self._poll.unregister(fd)
                elif fd == 0 and event & select.POLLNVAL:
                    self._end_input()
                elif fd == self._input or fd == 0:
                    self._feed()
        for fd, target in self._outputs.items():  # what it had written; its children may go on writing for ever
            left = int.from_bytes(fcntl.ioctl(fd, FIONREAD, bytes(4)), "little")
            while left > 0 and (moved := _pass(fd, target, left)):
                left -= moved
        return self._child.status

    def _feed(self) -> None:
        """Pass on what our input has; where the child has no room for it, wait for that instead of for more input."""
        try:
            if self._pending:
                self._pending = self._pending[os.write(self._input, self._pending) :]
            elif not self._take():
                return self._end_input()
            has_room = not self._pending
        except BlockingIOError:
            has_room = False
        except OSError as exc:
            if exc.errno not in _OVER:
                raise
            return self._end_input()
        if has_room:
            self._poll.register(0, select.POLLIN)
            _unregister(self._poll, self._input)
        else:
            _unregister(self._poll, 0)
            self._poll.register(self._input, select.POLLOUT)
        return None

    def _take(self) -> bool:
        """Move a chunk of our input to the child; False at its end."""
        try:
            return os.splice(0, self._input, CHUNK) > 0
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # EINVAL: neither is a pipe that the kernel can splice, a terminal say
                raise
        data = os.read(0, CHUNK)
        self._pending = data
        if data:
            self._pending = data[os.write(self._input, data) :]
        return bool(data)

    def _end_input(self) -> None:
        _unregister(self._poll, 0)
        _unregister(self._poll, self._input)
        os.close(self._input)
        self._input = -1


def _unregister(poll: select.poll, fd: int) -> None:
    try:
        poll.unregister(fd)
    except (KeyError, ValueError):
        pass


def _pass(source: int, target: int, most: int = CHUNK) -> int:
    """Move at most *most* bytes and return how many; 0 at the end of the source, or when nobody reads the target."""
    most = min(most, CHUNK)
    try:
        return os.splice(source, target, most)
    except OSError as exc:
        if exc.errno in _OVER:
            return 0
        if exc.errno != errno.EINVAL:  # EINVAL: the target is a terminal, or open with O_APPEND
            raise
    try:
        data = os.read(source, most)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
        return len(data)
    except OSError as exc:
        if exc.errno in _OVER:
            return 0
        raise
