"""Programs and processes: running a tool, pidfds, start times."""

from __future__ import annotations

import _signal
import errno
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NR_clone3 = 435
CLONE_PARENT = 0x8000
CLONE_INTO_CGROUP = 1 << 33
NR_pidfd_getfd = 438
IOPRIO_WHO_PROCESS = 1
_NR_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_NR_IOPRIO_GET = {"x86_64": 252, "aarch64": 31}

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2

# While a command holds a CT's lock: the descriptor of the lock file.  Tools that it runs hold it too, so that whoever
# comes after a killed command can wait until the last of them has ended.
kept_fd = -1
# SIGINT or SIGTERM came; somebody has taken it up: from then on the command unwinds and is not disturbed again.
stop_asked = False
stopping = False

TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOL_ENV = {"PATH": TOOL_PATH, "LC_ALL": "C"}


class Result:
    """What a program left: exit status (or minus the signal that ended it), standard output and error."""

    __slots__ = ("status", "stderr", "stdout")

    def __init__(self, status: int, stdout: bytes, stderr: bytes) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


def which(name: str) -> str:
    """Return the path of the program *name* on TOOL_PATH; FileNotFoundError when there is none."""
    if "/" in name:
        return name
    for folder in TOOL_PATH.split(":"):
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(errno.ENOENT, "program not found", name)


def spawn(
    argv: list[str],
    *,
    stdin: bytes = b"",
    env: dict[str, str] | None = None,
    netns_fd: int | None = None,
    cwd: str | None = None,
    timeout_s: float | None = None,
    long: bool = False,
) -> Result:
    """Run *argv* to its end and return what it left.

    Its three standard streams are memory files, so nothing can block on a pipe.  With *netns_fd* it runs in
    that network namespace, with *cwd* in that directory.  After *timeout_s* it is killed (status -9).  A *long* one is
    killed when we are, and when we are asked to stop.

    Raises:
        FileNotFoundError: there is no such program.
        InterruptedError: we were asked to stop while a *long* one ran.
    """
    path = which(argv[0])
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        if stdin:
            os.write(files[0], stdin)
            os.lseek(files[0], 0, os.SEEK_SET)
        environment = TOOL_ENV if env is None else env
        held = [*files, kept_fd] if kept_fd >= 0 else files
        if netns_fd is None and cwd is None and not long:
            actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(held)]
            pid = os.posix_spawn(path, argv, environment, file_actions=actions, setsigdef=(_signal.SIGPIPE,))
        else:
            ours = os.getpid()
            pid = os.fork()
            if pid == 0:
                if long:
                    die_with(ours)
                _exec_child(path, argv, environment, held, netns_fd, cwd)
        status = wait_long(pid) if long else _wait(pid, timeout_s)
        return Result(status, _contents(files[1]), _contents(files[2]))
    finally:
        for fd in files:
            os.close(fd)


def clone(flags: int = 0, cgroup_fd: int = 0) -> int:
    """fork(2) by clone3(2) with *flags*: CLONE_INTO_CGROUP, the child is born in the cgroup2 directory *cgroup_fd*
    (Linux 5.7); CLONE_PARENT, it is the caller's sibling.

    Writing a child's pid into cgroup.procs instead takes a lock that waits for an RCU period: 5 to 20 ms.  The
    interpreter is told of the fork as os.fork() does it; this process must have one thread.
    """
    import struct

    from . import ffi

    python = ffi.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, which os.fork() holds too
    signal = 0 if flags & CLONE_PARENT else _signal.SIGCHLD  # a sibling's is that of its parent's other child
    args = struct.pack("11Q", flags, 0, 0, 0, signal, 0, 0, 0, 0, 0, cgroup_fd)
    buffer = ffi.create_string_buffer(args, len(args))
    python.PyOS_BeforeFork()
    pid = int(python.syscall(ffi.c_long(NR_clone3), buffer, ffi.c_long(len(args))))
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    err = ffi.get_errno()
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(err, f"clone3: {os.strerror(err)}")
    return pid


def die_with(parent: int) -> None:
    """In a child that is to be killed when its *parent* ends; see prctl(2), PR_SET_PDEATHSIG.

    A change of ids takes it back: call this after it.
    """
    from .libc import prctl

    prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
    if os.getppid() not in (parent, 0):  # 0: the parent is in another pid namespace
        os._exit(1)


def note_stop() -> None:
    """Note that we are asked to stop (for a signal handler)."""
    global stop_asked
    stop_asked = not stopping


def must_stop() -> bool:
    """Tell, once, that we are asked to stop; the caller then fails and so makes the command unwind."""
    global stop_asked, stopping
    if not stop_asked:
        return False
    stop_asked, stopping = False, True
    return True


def wait_long(pid: int) -> int:
    """Wait for the child *pid* and return its exit status; InterruptedError, with it killed, when asked to stop."""
    pidfd = os.pidfd_open(pid)
    stopped = False
    try:
        while not wait_pidfd(pidfd, 0.2):
            if must_stop():
                stopped = True
                os.kill(pid, _signal.SIGKILL)
    finally:
        os.close(pidfd)
    status = exit_status(os.waitpid(pid, 0)[1])
    if stopped:
        raise InterruptedError(errno.EINTR, "interrupted")
    return status


def in_background(action: Callable[[], None], keep: list[int]) -> None:
    """Do *action* in a child that nobody waits for, with the descriptors *keep* open there and closed here.

    For what takes long and changes nothing: packet(7) sockets, and netlink sockets of nftables after a deletion, wait
    in their last close(2) until all processors have passed a quiet state (RCU), 10 ms and more.  Where no process is
    to be had it is done here.
    """
    try:
        child = os.fork()
    except OSError:
        child = -1
        action()
    if child:
        for fd in keep:
            os.close(fd)
        return
    try:
        start = 0  # the standard streams too: a pipe of the caller's must not stay open
        for fd in sorted(keep):
            os.closerange(start, fd)
            start = fd + 1
        os.closerange(start, 1 << 20)
        action()
        time.sleep(0.02)  # the parent closes its end first, or it would be the one to wait
    finally:
        os._exit(0)


def default_signals() -> None:
    """Give every signal its default disposition and unblock all: what was ignored would stay so over execve."""
    for number in range(1, _signal.NSIG):
        if _signal.getsignal(number) != _signal.SIG_DFL:
            try:
                _signal.signal(number, _signal.SIG_DFL)
            except OSError:  # SIGKILL and SIGSTOP, and the two that the C library keeps
                pass
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def close_from(first: int) -> None:
    """Close every descriptor from *first* on, however high; see close_range(2)."""
    os.closerange(first, (1 << 31) - 1)


def exit_status(wait_status: int) -> int:
    """Turn a wait(2) status into the exit status, or minus the number of the signal."""
    return os.waitstatus_to_exitcode(wait_status)


def starttime(pid: int) -> int:
    """Return when *pid* began, in clock ticks since boot; 0 when gone or a zombie; see proc(5), /proc/PID/stat."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        text = os.read(fd, 1024)
    except OSError:  # ESRCH: it ended between open and read
        return 0
    finally:
        os.close(fd)
    fields = text[text.rindex(b")") + 2 :].split(b" ")
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def wait_pidfd(pidfd: int, timeout_s: float | None) -> bool:
    """Wait until the process of *pidfd* has ended; False when *timeout_s* passed first; see pidfd_open(2)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))))


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Send *signal* to the process of *pidfd*; ESRCH when it is gone; see pidfd_send_signal(2)."""
    _signal.pidfd_send_signal(pidfd, signal)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Return a copy of descriptor *fd* of the process of *pidfd*; see pidfd_getfd(2) (Linux 5.6)."""
    from .libc import check, syscall

    return check(syscall(NR_pidfd_getfd, pidfd, fd, 0), "pidfd_getfd")


def copy_fd(pid: int, fd: int) -> int:
    """Return a copy of descriptor *fd* of process *pid*; ESRCH or EBADF when it is gone."""
    pidfd = os.pidfd_open(pid)
    try:
        return pidfd_getfd(pidfd, fd)
    finally:
        os.close(pidfd)


def descriptors(pid: int) -> Iterator[tuple[int, str]]:
    """Yield (descriptor, what its link says it is) of process *pid*; what is closed meanwhile is left out; proc(5)."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            link = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        yield int(name), link


def ioprio_get(tid: int) -> int:
    """Return the I/O priority (class and level) that thread *tid* was given, 0 for none; see ioprio_get(2)."""
    from .libc import check, nr, syscall

    return check(syscall(nr(_NR_IOPRIO_GET), IOPRIO_WHO_PROCESS, tid), "ioprio_get")


def ioprio_set(tid: int, priority: int) -> None:
    """Give thread *tid* an I/O priority as ioprio_get() tells it; see ioprio_set(2)."""
    from .libc import check, nr, syscall

    check(syscall(nr(_NR_IOPRIO_SET), IOPRIO_WHO_PROCESS, tid, priority), "ioprio_set")


def _wait(pid: int, timeout_s: float | None) -> int:
    if timeout_s is not None:
        pidfd = os.pidfd_open(pid)
        try:
            if not wait_pidfd(pidfd, timeout_s):
                os.kill(pid, _signal.SIGKILL)
        finally:
            os.close(pidfd)
    while True:
        try:
            return exit_status(os.waitpid(pid, 0)[1])
        except InterruptedError:
            continue


def _exec_child(
    path: str, argv: list[str], env: dict[str, str], files: list[int], netns_fd: int | None, cwd: str | None
) -> None:
    try:
        if netns_fd is not None:
            from .namespaces import CLONE_NEWNET, setns

            setns(netns_fd, CLONE_NEWNET)
        if cwd is not None:
            os.chdir(cwd)
        for number, fd in enumerate(files):
            os.dup2(fd, number)
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
        os.execve(path, argv, env)
    except OSError as exc:
        os.write(2, f"{argv[0]}: {exc.strerror}\n".encode())
    os._exit(127)


def _contents(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0) if size else b""
