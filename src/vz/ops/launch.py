"""The launcher: from a mounted root to a running init, with three processes and no waiting but for each other.

    vzctl (host)                    A                                B = pid 1 of the CT
    fork A into the cgroups         joins the CT's user namespace
                                    and becomes its root, unshares
                                    the other six, forks B, ends
    makes the network in B's netns                                   mounts, masks, the CT's own files
    "go"                                                             addresses, routes, seccomp, execve(init)

B's errors come back over a pipe that execve closes: its end of file after READY is the good news; without READY, B was
killed.  A creates the user namespace as the CT's own first id.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import select

from vz.errors import ExitCode, VzError
from vz.kernel import inherited, namespaces, process
from vz.kernel.libc import prctl
from vz.kernel.process import PR_SET_DUMPABLE
from vz.ops import inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READY = b"+"
SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x41


class Launch:
    """A CT's init that is born but not released yet: make its network, then ``release()``."""

    __slots__ = ("_errors", "_go", "_program", "init_pid")

    def __init__(self, init_pid: int, go: int, errors: int, program: str) -> None:
        self.init_pid = init_pid
        self._go = go
        self._errors = errors
        self._program = program

    def release(self) -> None:
        """Let init go and wait until it has been exec'ed.

        Raises:
            VzError: the CT's side failed: no usable /sbin/init (47) or another step (7).
        """
        try:
            os.write(self._go, b"g")
        except BrokenPipeError:
            pass  # it failed already: its words are in the other pipe
        finally:
            os.close(self._go)
            self._go = -1
        self._check()

    def check(self) -> None:
        """See whether the CT's side has failed already: then what fails on ours is not the cause.

        Raises:
            VzError: as ``release``.
        """
        if select.select([self._errors], [], [], 0)[0]:
            self._check()

    def _check(self) -> None:
        words = _read_all(self._errors)
        os.close(self._errors)
        self._errors = -1
        if not words:
            raise VzError(f"Unable to run {self._program}: its process was killed", ExitCode.ENVCREATE_ERROR)
        words = words.removeprefix(READY)
        if len(words) == 1:  # execve's own errno
            raise VzError(f"Unable to run {self._program}: {os.strerror(words[0])}", ExitCode.FS_BAD_TMPL)
        if words:
            code, _, text = words.decode("utf-8", "surrogateescape").partition(" ")
            raise VzError(text, int(code))

    def abandon(self) -> None:
        """Drop an init that was never released: at the end of file on its pipe it ends by itself."""
        for fd in (self._go, self._errors):
            if fd >= 0:
                os.close(fd)
        self._go = self._errors = -1


def launch(plan: inside.Plan, idmap: tuple[int, int], fork: Callable[[], int]) -> Launch:
    """Fork the future init of a CT, in its namespaces and the cgroups that *fork* puts it into.

    Raises:
        VzError: with the text of the step that failed (status 7).
    """
    try:
        userns_fd = namespaces.userns(*idmap)
    except OSError as exc:
        raise VzError(f"Unable to make the user namespace: {exc.strerror}", ExitCode.ENVCREATE_ERROR) from exc
    to_parent, from_child = os.pipe()
    from_parent, to_child = os.pipe()
    errors, error_end = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(to_parent)
        os.close(to_child)
        os.close(errors)
        _first_child(plan, userns_fd, from_parent, from_child, error_end)
    os.close(from_child)
    os.close(from_parent)
    os.close(error_end)
    word = _read_all(to_parent)
    os.close(to_parent)
    os.waitpid(pid, 0)
    if not word:
        os.close(to_child)
        words = _read_all(errors).decode("utf-8", "surrogateescape")
        os.close(errors)
        code, _, text = words.partition(" ")
        raise VzError(text or "Unable to make the container's namespaces", int(code or ExitCode.ENVCREATE_ERROR))
    return Launch(int(word), to_child, errors, plan.argv[0])


def _first_child(plan: inside.Plan, userns_fd: int, from_parent: int, to_parent: int, errors: int) -> None:
    step = "start"
    try:
        os.setsid()
        inherited.reset(plan.rlimits)
        namespaces.leave_keyring()
        step = "enter the container's root"
        os.chdir(plan.root)
        step = "become root of the user namespace"
        namespaces.setns(userns_fd, namespaces.CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        prctl(PR_SET_DUMPABLE, 0)  # until execve, /proc/1/exe is the host's interpreter
        inherited.seal_imports()
        step = "make the namespaces"
        namespaces.unshare(namespaces.ALL_NAMESPACES & ~namespaces.CLONE_NEWUSER)  # all owned by the user namespace
        child = os.fork()
        if child:
            os.write(to_parent, str(child).encode())
            os._exit(0)
        os.close(to_parent)
    except BaseException as exc:
        _report(errors, ExitCode.ENVCREATE_ERROR, step, exc)
        os._exit(1)
    _init(plan, from_parent, errors)


def _init(plan: inside.Plan, go: int, errors: int) -> None:
    code = ExitCode.ENVCREATE_ERROR
    step = "make the container's mounts"
    try:
        prctl(PR_SET_DUMPABLE, 0)
        os.setsid()
        inside.build(plan)
        step = "bring up the loopback device"
        _loopback_up()
        step = "prepare the container's files"
        plan.last_step()
        code = ExitCode.FS_BAD_TMPL
        step = f"run {plan.argv[0]}"
        if not os.access(plan.argv[0], os.X_OK):
            raise FileNotFoundError(2, "there is no such program in the container", plan.argv[0])
        if os.read(go, 1) != b"g":  # the parent gave up, or died
            os._exit(1)
        os.close(go)
        code, step = ExitCode.CANT_ADDIP, "set up the network"
        plan.network()
        code, step = ExitCode.FS_BAD_TMPL, f"run {plan.argv[0]}"
        keep = os.dup2(errors, 3)  # everything else goes; this one closes itself at execve
        os.set_inheritable(keep, False)
        process.close_from(4)
        errors = keep
        os.write(errors, READY)
        inside.become_init(plan)
    except BaseException as exc:
        _report(errors, code, step, exc)
    os._exit(1)


def _loopback_up() -> None:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    request = b"lo".ljust(16, b"\0") + IFF_UP_RUNNING.to_bytes(2, "little") + bytes(22)  # struct ifreq
    fcntl.ioctl(sock.fileno(), SIOCSIFFLAGS, request)
    sock.close()


def _report(fd: int, code: int, step: str, exc: BaseException) -> None:
    what = exc.strerror if isinstance(exc, OSError) and exc.strerror else f"{type(exc).__name__}: {exc}"
    where = f"{exc.filename}: " if isinstance(exc, OSError) and exc.filename else ""
    if isinstance(exc, VzError):
        code, where, what = exc.code, "", str(exc)
    try:
        os.write(fd, f"{code} Unable to {step}: {where}{what}".encode("utf-8", "surrogateescape")[:4000])
    except OSError:
        pass


def _read_all(fd: int) -> bytes:
    chunks = []
    while chunk := os.read(fd, 4096):
        chunks.append(chunk)
    return b"".join(chunks)
