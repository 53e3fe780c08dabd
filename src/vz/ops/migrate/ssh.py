"""Reaching the other node: ssh(1) with keys only, a helper of ours at its end, and rsync(1) through the same door."""

from __future__ import annotations

import _signal
import os
import time

from vz.errors import VzError
from vz.kernel.libc import prctl
from vz.kernel.process import PR_SET_PDEATHSIG, TOOL_PATH, exit_status, which
from vz.ops.migrate.errors import CANT_CONNECT, COPY_FAILED, NOT_RUNNING, MigrateFailed
from vz.ops.migrate.wire import Broken, Channel
from vz.ops.undo import check_interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# a dead link is noticed after twenty seconds; what the admin's own options say first, counts
ALIVE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4", "-o", "ConnectTimeout=20")
CONNECT_TIMEOUT_S = 60.0
PING_S = 5.0
HELPER = "vzmigrate --serve"
SSH_FAILED = 255  # ssh's own status; others are the helper's


def is_host(word: str) -> bool:
    """Tell whether *word* can be the name of a node: nothing that ssh or a shell would take for something else."""
    return bool(word) and word[0] != "-" and set(word).isdisjoint(" \t\n'\"\\$`;|&<>()")


class Route:
    """How the other node is reached: its ssh destination and the admin's own options for ssh and rsync."""

    __slots__ = ("_ciphers", "host", "mux", "rsync", "ssh", "verbosity")

    def __init__(self, host: str, ssh: str = "", rsync: str = "", mux: str = "", verbosity: int = 0) -> None:
        self.host = host if "@" in host else f"root@{host}"
        self.ssh = ssh.split()
        self.rsync = rsync.split()
        self.mux = mux  # a control socket: all connections through one
        self.verbosity = verbosity
        self._ciphers: list[str] = []

    def prefer_fast_ciphers(self) -> None:
        """Have the connections use a cipher that the processor does itself; for those that carry much."""
        from vz.ops.migrate.checks import cpu_flags
        from vz.ops.migrate.cipher import cipher_options

        try:
            self._ciphers = cipher_options(["ssh", *self.ssh], self.host, cpu_flags())
        except FileNotFoundError:
            pass  # start() says it

    def ssh_argv(self) -> list[str]:
        """Return ssh and its options, without the destination."""
        argv = ["ssh", "-o", "BatchMode=yes", *self.ssh, *ALIVE, *self._ciphers]
        if self.mux:
            argv += ["-o", "ControlMaster=auto", "-o", f"ControlPath={self.mux}", "-o", "ControlPersist=5"]
        return argv + ["-v"] * (self.verbosity > 3)

    def start(self, command: str, read_fd: int, write_fd: int) -> int:
        """Run *command* on the other node with these as its standard input and output; return the pid of our ssh.

        Raises:
            MigrateFailed: there is no ssh (14).
        """
        argv = [*self.ssh_argv(), "--", self.host, command]
        actions = [(os.POSIX_SPAWN_DUP2, read_fd, 0), (os.POSIX_SPAWN_DUP2, write_fd, 1)]
        env = {"PATH": TOOL_PATH, **os.environ}
        try:
            # a group of its own: a terminal's ^C is for us, who then take things back through it
            return os.posix_spawn(
                which("ssh"), argv, env, file_actions=actions, setpgroup=0, setsigdef=(_signal.SIGPIPE,)
            )
        except FileNotFoundError:
            raise MigrateFailed("ssh is needed: install openssh-client", NOT_RUNNING) from None

    def rsync_argv(self, *options: str) -> list[str]:
        """Return rsync, how it is to call ssh, and options for copying a tree as it is."""
        argv = [
            "rsync",
            "-e",
            " ".join(self.ssh_argv()),
            "-aHAX",
            "--numeric-ids",
            "--protect-args",
            *options,
            *self.rsync,
        ]
        return argv + ["-v"] * max(0, self.verbosity - 1)


class Helper:
    """The helper on the other node: ``ask`` it one thing after the other."""

    __slots__ = ("_channel", "_pid", "_pinged", "route")

    def __init__(self, route: Route) -> None:
        """Start it.

        Raises:
            MigrateFailed: no connection (4), or no vz over there (14).
        """
        self.route = route
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()
        try:
            self._pid = route.start(HELPER + " -v" * route.verbosity, theirs_read, theirs_write)
        finally:
            os.close(theirs_read)
            os.close(theirs_write)
        self._channel = Channel(ours_read, ours_write)
        self._pinged = time.monotonic()
        try:
            self._channel.greet(CONNECT_TIMEOUT_S, check_interrupt)
        except BaseException as exc:
            status = self.close()
            if not isinstance(exc, Broken):
                raise
            if status == 127:
                raise MigrateFailed(f"vz is not installed on {route.host} (no vzmigrate there)", NOT_RUNNING) from None
            if status != SSH_FAILED:
                raise MigrateFailed(
                    f"vz on {route.host} does not answer (vzmigrate there ended with status {status})", NOT_RUNNING
                ) from None
            raise MigrateFailed(
                f"Can't connect to {route.host} by ssh with a key (try: ssh -o BatchMode=yes {route.host} true)",
                CANT_CONNECT,
            ) from None

    def ask(
        self,
        operation: str,
        data: bytes = b"",
        *,
        timeout_s: float | None = None,
        tick: Callable[[], None] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Have the helper do *operation* and return its answer.

        Raises:
            Broken: the helper or the connection is gone.  Refused: it says no, and why.
        """
        self._channel.send({"do": operation, **fields}, data)
        answer, _ = self._channel.receive(timeout_s, tick)
        if "error" in answer:
            raise Refused(str(answer["error"]), int(answer.get("code", 3)))
        self._pinged = time.monotonic()
        return answer

    def tell(self, operation: str, data: bytes = b"", **fields: Any) -> None:
        """Have the helper do *operation*, which has no answer."""
        self._channel.send({"do": operation, **fields}, data)

    def keep_alive(self) -> None:
        """Say that we are still there, now and then; for loops that wait for something else.  Broken as ask()."""
        if time.monotonic() - self._pinged > PING_S:
            self.ask("ping", timeout_s=60.0)

    def close(self) -> int:
        """Hang up and return ssh's exit status."""
        self._channel.close()
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                return exit_status(status)
            time.sleep(0.01)
        os.kill(self._pid, _signal.SIGKILL)
        return exit_status(os.waitpid(self._pid, 0)[1])


class Refused(VzError):
    """The helper's own words for what it could not do; the code is vzmigrate's."""


class Copy:
    """One rsync at work.  It dies with us: nobody goes on writing to an area that the next command works on."""

    __slots__ = ("_accept", "_errors", "_pid", "_what")

    def __init__(self, argv: list[str], what: str, accept: tuple[int, ...] = (0,)) -> None:
        self._what = what
        self._accept = accept
        self._errors = os.memfd_create("rsync")
        ours = os.getpid()
        program = which("rsync")
        self._pid = os.fork()
        if self._pid:
            return
        try:
            os.setpgid(0, 0)
            prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
            if os.getppid() != ours:
                os._exit(1)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(self._errors, 2)
            for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGPIPE):
                _signal.signal(number, _signal.SIG_DFL)
            os.execve(program, argv, {"PATH": TOOL_PATH, **os.environ, "LC_ALL": "C"})
        finally:
            os._exit(127)

    def finish(self, tick: Callable[[], None]) -> None:
        """Wait for its end; *tick* is called now and then.

        Raises:
            MigrateFailed: it ended with a status that is not accepted (6).
        """
        status = wait_ticking(self._pid, tick)
        self._pid = 0
        if status not in self._accept:
            text = os.pread(self._errors, 65536, 0).decode("utf-8", "replace")
            raise MigrateFailed(f"Failed to copy {self._what}: {reason(text, status)}", COPY_FAILED)

    def end(self) -> None:
        """Kill it if it is still at work."""
        if self._pid:
            os.kill(self._pid, _signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        os.close(self._errors)


def copy_tree(argv: list[str], what: str, tick: Callable[[], None], accept: tuple[int, ...] = (0,)) -> None:
    """Run rsync to its end; MigrateFailed (6) as Copy.finish()."""
    copy = Copy(argv, what, accept)
    try:
        copy.finish(tick)
    finally:
        copy.end()


def wait_ticking(pid: int, tick: Callable[[], None]) -> int:
    """Wait for the child *pid* and return its status; *tick* is called now and then."""
    from vz.kernel.process import wait_pidfd

    pidfd = os.pidfd_open(pid)
    try:
        while not wait_pidfd(pidfd, 0.2):
            tick()
    finally:
        os.close(pidfd)
    return exit_status(os.waitpid(pid, 0)[1])


def reason(text: str, status: int) -> str:
    """Return the line of rsync's errors that says why."""
    lines = ["".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines() if line.strip()]
    for word in ("No space left", "quota exceeded", "failed:", "rror"):
        for line in lines:
            if word in line and not line.startswith("rsync error:"):
                return line
    return lines[-1] if lines else f"rsync ended with status {status}"
