"""Running criu(8): one child, two pipes to the hook that it calls at its stages, and a log that is read afterwards.

We answer a stage before criu goes on, so the point of no return is ours.  If we die, the hook reads end of file and
fails the stage; criu then undoes its work.  The pipes are criu's standard input and output: it hands the hook no
other descriptor, and the hook finds these in /proc.  The log is its standard error.  Criu leads a process group of
its own: a terminal's ^C must not hit it.
"""

from __future__ import annotations

import _signal
import os
import select
import time

from vz.checkpoint import store
from vz.kernel.process import TOOL_PATH, exit_status, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

POST_DUMP, POST_RESTORE = "post-dump", "post-restore"
POST_SETUP = "post-setup-namespaces"  # init is in its cgroup and has its mounts; no file is open yet
STAGES = (POST_DUMP, POST_SETUP, POST_RESTORE)
# lines that criu always has for a CT that works
NOISE = (
    "Can't setup RLIMIT_NOFILE for self",
    "ddress already assigned",
    "Dumping FAILED",
    "Restoring FAILED",
    'execvp("ip',  # iptables and its kin are looked for, not needed
    "tables-save -V failed",
    "tables-legacy-save -V failed",
    "tables-restore -V failed",
    "tables-legacy-restore -V failed",
    "cgroupd: recv req error",
    "action script",
    "exited, status=",
)
PASSED = 3  # the descriptor of a socket for page traffic
LOG_LIMIT_BYTES = 64 << 20
TICK_MS = 200
_version: tuple[int, ...] = ()


class CriuFailed(Exception):
    """criu ended without success: *status* is its exit status or minus its signal, *lines* its own reasons."""

    def __init__(self, status: int, lines: list[str]) -> None:
        super().__init__("; ".join(lines) or (f"criu ended with status {status}"))
        self.status = status
        self.lines = lines


def version() -> tuple[int, ...]:
    """Return the version of the criu that is used; FileNotFoundError: there is none."""
    global _version
    if not _version:
        from vz.checkpoint.options import criu_program

        result = spawn([criu_program(), "--version"], timeout_s=30)
        for line in result.stdout.decode("ascii", "replace").splitlines():
            if line.startswith("Version:"):
                _version = tuple(int(word) for word in line.split(":")[1].strip().split(".") if word.isdecimal())
    return _version


def wait_for_stragglers(images: str, patience_s: float = 120.0) -> None:
    """Wait until no criu works on *images* any more; one whose vzctl is dead comes to its end by itself.

    What hangs after *patience_s* is killed.
    """
    deadline = time.monotonic() + patience_s
    while stragglers(images):
        if time.monotonic() > deadline:
            kill_stragglers(images)
            return
        time.sleep(0.02)


def kill_stragglers(images: str) -> None:
    """Kill what still works on *images*: a restore that nobody waits for, its half-made tasks."""
    for _ in range(500):
        found = stragglers(images)
        if not found:
            store.detach_yards(os.path.dirname(images))
            return
        for pid in found:
            try:
                os.kill(pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.01)


def hook_program() -> str:
    """Return the program that criu runs at each stage."""
    return os.path.join(os.path.dirname(os.path.realpath(__file__)), "stage-hook")


def run(
    argv: list[str],
    log: str,
    freezer: str,
    on_stage: Callable[[str, int], None],
    *,
    tick: Callable[[], None] | None = None,
    passed: int = -1,
    afterwards: Callable[[], None] | None = None,
) -> None:
    """Run criu with *argv* and let *on_stage* (stage, init's pid) decide at each stage: an exception there ends it.

    *log* is the file that takes what criu says, *freezer* the cgroup that the hook freezes before tasks run.
    *tick* is called now and then; an exception of it fails the next stage.  *passed* is a socket that criu gets as
    descriptor PASSED.  *afterwards* is called once criu may go on from POST_DUMP: with lazy pages it serves them
    meanwhile.

    Raises:
        CriuFailed: it failed by itself.  Whatever *on_stage*, *tick* or *afterwards* raised, once criu has ended.
        FileNotFoundError: there is no such program.
    """
    hook_in, to_hook = os.pipe()
    from_hook, hook_out = os.pipe()
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_DUP2, hook_in, 0),
        (os.POSIX_SPAWN_DUP2, hook_out, 1),
        (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600),
    ]
    if passed >= 0:
        actions.append((os.POSIX_SPAWN_DUP2, passed, PASSED))
    env = {"PATH": TOOL_PATH, "LC_ALL": "C", "VZ_FREEZER": freezer}
    try:
        pid = os.posix_spawn(
            argv[0], argv, env, file_actions=actions, setpgroup=0, setsigdef=(_signal.SIGPIPE, _signal.SIGCHLD)
        )
    except BaseException:
        os.close(to_hook)
        os.close(from_hook)
        raise
    finally:
        os.close(hook_in)
        os.close(hook_out)
    pidfd = os.pidfd_open(pid)
    if "dump" in argv:
        _spare(pid)
    try:
        failure = _converse(pidfd, from_hook, to_hook, on_stage, tick, afterwards)
        status = exit_status(os.waitpid(pid, 0)[1])
    finally:
        for fd in (to_hook, from_hook, pidfd):
            os.close(fd)
    if failure is not None:
        raise failure
    if status:
        raise CriuFailed(status, summary(log))


def start(argv: list[str], log: str, passed: int) -> int:
    """Start criu with *argv* for one side of the page traffic through the socket *passed*; return its pid.

    It ends with the connection.  What it says goes to the file *log*.
    """
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, passed, PASSED),
    ]
    env = {"PATH": TOOL_PATH, "LC_ALL": "C"}
    return os.posix_spawn(argv[0], argv, env, file_actions=actions, setpgroup=0, setsigdef=(_signal.SIGPIPE,))


def _spare(pid: int) -> None:
    """Keep the node's OOM killer from a criu that dumps: a process that it has its code in may end with it."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-1000")
    except OSError:
        pass  # it takes CAP_SYS_RESOURCE


def _converse(
    pidfd: int,
    from_hook: int,
    to_hook: int,
    on_stage: Callable[[str, int], None],
    tick: Callable[[], None] | None,
    afterwards: Callable[[], None] | None,
) -> BaseException | None:
    """Answer the hook until criu has ended; return what went wrong on our side."""
    failure: BaseException | None = None
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(from_hook, select.POLLIN)
    pending = b""
    while True:
        events = dict(poll.poll(TICK_MS))
        if tick is not None and failure is None:
            failure = _caught(tick)
        if from_hook in events:
            data = os.read(from_hook, 4096)
            if not data:
                poll.unregister(from_hook)
            pending += data
            while b"\n" in pending:
                line, _, pending = pending.partition(b"\n")
                word, _, number = line.decode("ascii", "replace").partition(" ")
                if word not in STAGES:
                    continue  # criu's own chatter
                if failure is None:
                    init_pid = int(number) if number.isdecimal() else 0
                    failure = _caught(lambda: on_stage(word, init_pid))
                try:
                    os.write(to_hook, b"go\n" if failure is None else b"stop\n")
                except OSError:
                    pass  # criu died meanwhile: its status tells
                if word == POST_DUMP and failure is None and afterwards is not None:
                    failure = _caught(afterwards)
        if pidfd in events:
            return failure


def _caught(function: Callable[[], None]) -> BaseException | None:
    try:
        function()
    except BaseException as exc:
        return exc
    return None


def summary(log: str, most: int = 6) -> list[str]:
    """Return the lines of a criu *log* that say what went wrong, without stamps and what is always there."""
    try:
        fd = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        size = os.fstat(fd).st_size
        text = os.pread(fd, LOG_LIMIT_BYTES, max(0, size - LOG_LIMIT_BYTES))
    finally:
        os.close(fd)
    found: list[str] = []
    for line in text.split(b"\n"):
        if b"Error" not in line:
            continue
        words = "".join(c if c.isprintable() else "?" for c in line.decode("utf-8", "replace"))
        words = words[words.index("Error") :].strip()
        if not any(noise in words for noise in NOISE) and words not in found:
            found.append(words)
    return found[:most]


def stragglers(images: str) -> list[int]:
    """Return the pids of criu processes, and of half-restored tasks, that work on *images* or the dump that it is in.

    A task keeps criu's command line until the restorer gives it its own.
    """
    wanted = {os.fsencode(images), os.fsencode(os.path.dirname(images))}
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read(65536).split(b"\0")
        except OSError:
            continue
        if b"criu" in os.path.basename(words[0]) and not wanted.isdisjoint(words) and not _is_zombie(name):
            found.append(int(name))
    return found


def _is_zombie(pid: str) -> bool:
    from vz.kernel.process import starttime

    return starttime(int(pid)) == 0
