"""Namespaces: unshare(2), setns(2), user-namespace maps, and work done in a forked child.

``setns`` and ``unshare`` act on a thread, so they are called only in a freshly forked child with one thread,
which reports over a pipe and leaves by ``os._exit``.
"""

from __future__ import annotations

import _signal
import os
import select

from . import capabilities, ffi, inherited
from .libc import check, libc, new_session_keyring, prctl
from .process import PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
ALL_NAMESPACES = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
)


def unshare(flags: int) -> None:
    """Leave the namespaces named by *flags* for new ones; see unshare(2)."""
    check(int(libc.unshare(ffi.c_int(flags))), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join a namespace file, or with a pidfd (Linux 5.8) all namespaces that *flags* name; see setns(2)."""
    check(int(libc.setns(ffi.c_int(fd), ffi.c_int(flags))), "setns")


def sethostname(name: bytes) -> None:
    """Set the host name of this UTS namespace; see sethostname(2)."""
    check(int(libc.sethostname(name, ffi.c_size_t(len(name)))), "sethostname")


def _write_id_maps(pid: int, base: int, count: int) -> None:
    """Map ids 0..*count*-1 of the user namespace of *pid* to *base*...; see user_namespaces(7)."""
    for name in ("uid_map", "gid_map"):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, f"0 {base} {count}\n".encode())
        finally:
            os.close(fd)


_userns: dict[tuple[int, int], int] = {}
_signals = 0


def cap_signals(count: int) -> None:
    """Let user namespaces made from now on hold *count* queued signals in all.

    Only where the namespace's owner is counted alone: root of a nested host owns those of all its CTs.
    """
    global _signals
    _signals = count


def userns(base: int, count: int) -> int:
    """Return a descriptor of a user namespace that maps 0..*count*-1 to *base*...; it stays open: do not close it.

    Made once per command: the root is idmapped by it (mount_setattr(2) copies the map) and init is born in it.
    """
    found = _userns.get((base, count))
    if found is None:
        found = _userns[base, count] = _open_userns(base, count)
    return found


def _open_userns(base: int, count: int) -> int:
    ready_read, ready_write = os.pipe()
    hold_read, hold_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(hold_write)
            # What the CT takes of inotify instances, queued signals, message queues, namespaces and the like is also
            # counted for the user who made its namespace: it shall not be root.  But where root itself has no
            # CAP_SYS_RESOURCE (a nested host) it has to own the namespace, or criu may not read the tasks' limits.
            alone = capabilities.is_in_bounding_set(capabilities.number("sys_resource"))
            inherited.lower_counted_limits(_signals if alone else 0)
            if alone:
                prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
                os.setresgid(base, base, base)
                os.setresuid(base, base, base)
            unshare(CLONE_NEWUSER)
            os.write(ready_write, b"1")
            os.read(hold_read, 1)  # until the parent has the descriptor, or is dead
        finally:
            os._exit(0)
    os.close(ready_write)
    os.close(hold_read)
    try:
        if os.read(ready_read, 1) != b"1":
            raise OSError(1, "unshare: a user namespace cannot be made", "user.max_user_namespaces")
        _write_id_maps(pid, base, count)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_read)
        os.close(hold_write)
        os.waitpid(pid, 0)


class FileSystemIds:
    """``with FileSystemIds(base):`` files are made as user and group *base*, with every capability kept.

    Files can then be made below a mount that maps *base*, where the host's root has no id (EOVERFLOW).
    See setfsuid(2); capabilities(7), SECBIT_NO_SETUID_FIXUP.
    """

    __slots__ = ("base",)

    def __init__(self, base: int) -> None:
        self.base = base

    def __enter__(self) -> None:
        prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
        self._set(self.base)

    def __exit__(self, *_: object) -> None:
        self._set(0)
        prctl(PR_SET_SECUREBITS, 0)

    def _set(self, number: int) -> None:
        for call in (libc.setfsgid, libc.setfsuid):
            call(ffi.c_uint(number))
            if call(ffi.c_uint(0xFFFFFFFF)) != number:  # no error of its own: asked with an id that cannot be
                raise OSError(1, "setfsuid: not permitted")


def leave_keyring() -> None:
    """Leave the caller's session keyring for an empty one."""
    try:
        new_session_keyring()
    except OSError:
        pass  # EDQUOT or no keyrings: then there is none to inherit either


def run_in_child(function: Callable[[], bytes | None], timeout_s: float | None = None) -> bytes:
    """Run *function* in a forked child and return the bytes that it returned.

    The child may change its ids and namespaces; an OSError there is raised again here with the same errno,
    anything else as OSError(EPROTO) with its text.  A VzError (an exception with ``code``) keeps its class's
    text and comes back as ChildFailed.  After *timeout_s* it is killed: TimeoutError (ETIMEDOUT).
    """
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        try:
            reply = b"=" + (function() or b"")
        except OSError as exc:
            reply = f"!{exc.errno or 71}\n{exc.filename or ''}\n{exc.strerror or exc}".encode(
                "utf-8", "surrogateescape"
            )
        except BaseException as exc:
            reply = f"?{getattr(exc, 'code', 3)}\n{exc!s}\n{type(exc).__name__}".encode("utf-8", "surrogateescape")
        try:
            while reply:
                reply = reply[os.write(write_fd, reply) :]
        finally:
            os._exit(0)
    os.close(write_fd)
    chunks = []
    poll = select.poll()
    poll.register(read_fd, select.POLLIN)
    try:
        while True:
            if timeout_s is not None and not poll.poll(timeout_s * 1000):
                os.kill(pid, _signal.SIGKILL)
                raise TimeoutError(110, f"no answer within {timeout_s:.0f} s")
            chunk = os.read(read_fd, 65536)
            if not chunk:
                break
            chunks.append(chunk)
    finally:
        os.close(read_fd)
        _, status = os.waitpid(pid, 0)
    reply = b"".join(chunks)
    if reply[:1] == b"=":
        return reply[1:]
    first, second, third = (reply[1:].decode("utf-8", "surrogateescape").split("\n", 2) + ["", "", ""])[:3]
    if reply[:1] == b"!":
        raise OSError(int(first), third, second or None)
    if reply[:1] == b"?":
        raise ChildFailed(int(first) if first.isdigit() else 3, second, third)
    raise OSError(71, f"child ended with status {os.waitstatus_to_exitcode(status)} and said nothing")


class ChildFailed(Exception):
    """A failure other than OSError in a child of run_in_child: *code* is its exit status, *kind* its class's name."""

    def __init__(self, code: int, text: str, kind: str) -> None:
        super().__init__(text)
        self.code = code
        self.kind = kind
