"""vzeventd: sees CTs end, starts again those that asked for a reboot, and is the parent of the inits started meanwhile.

One thread, one epoll(7), nothing by the clock while nothing happens; all that takes time is done by forked children.
No CT depends on it: killed, it leaves inits to the node's own, and the next one finds all CTs by their records.  On
SIGHUP, or when another version of the package has been installed, it becomes that by execve(2): as the same process it
stays the inits' parent.
"""

from __future__ import annotations

import _signal
import _socket
import errno
import fcntl
import gc
import os
import select
import sys
import time

from vz.config.nodeconfig import load_node
from vz.config.paths import EVENTD, RUN
from vz.container import events
from vz.container.lock import is_held
from vz.container.record import load_record
from vz.errors import ExitCode, VzError
from vz.kernel.files import make_dirs, remove
from vz.kernel.libc import prctl
from vz.node import asking, ending, procholder, serving
from vz.node.watching import REBOOT, Watcher
from vz.node.workers import Worker, Workers
from vz.ops import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.node.serving import RunCommand

PR_SET_CHILD_SUBREAPER = 36
PID_FILE = f"{RUN}/eventd.pid"
CARRIED = "VZEVENTD_FDS"  # in the environment over execve: descriptors of the lock and of the socket
SIGNALS = (_signal.SIGCHLD, _signal.SIGHUP, _signal.SIGTERM, _signal.SIGINT)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 2.0


class Ended:
    """An init that has ended, and what is not done yet about it."""

    __slots__ = ("at", "ctid", "pause", "pid", "restart", "start", "why")

    def __init__(self, ctid: int, pid: int, start: int, why: str) -> None:
        self.ctid = ctid
        self.pid = pid
        self.start = start
        self.why = why
        self.restart = False
        self.pause = FIRST_PAUSE_S
        self.at = 0.0  # not before this, by the monotonic clock


class Daemon:
    def __init__(self, program: str, argv: list[str], run_command: RunCommand, workers: list[Worker]) -> None:
        self.program = program  # its file, to become a newer one
        self.argv = argv
        self.run_command = run_command
        self.stamp = asking.stamp()
        self.lock_fd = -1
        self.socket: _socket.socket | None = None
        self.wake_fd = -1
        self.stop = False
        self.pending: dict[int, Ended] = {}  # by CTID
        self.working: dict[int, Ended] = {}  # by the pid of the child that does it
        self.serving: set[int] = set()
        self.reboots: dict[int, list[float]] = {}
        self.at_once = 2 * len(os.sched_getaffinity(0))
        self.workers = Workers(workers, self.running, self.tell)

    def begin(self) -> None:
        """Be the only daemon, and reachable.

        Raises:
            VzError: another one runs.  NoGlobalConfig: 10.
        """
        self.read_config()
        make_dirs(RUN, 0o711)
        carried = [int(word) for word in os.environ.pop(CARRIED, "").split() if word.isdigit()]
        if len(carried) == 2:
            for fd in carried:
                os.set_inheritable(fd, False)
            self.lock_fd = carried[0]
            self.socket = _socket.socket(fileno=carried[1])
        else:
            self.lock_fd = only_one()
            self.socket = serving.listen()
        serving.raise_files_limit()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        wake, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.wake_fd = wake
        _signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        for number in SIGNALS:
            _signal.signal(number, lambda *_: None)
        _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, SIGNALS)
        self.poll = select.epoll()
        self.poll.register(wake, select.EPOLLIN)
        self.poll.register(self.socket.fileno(), select.EPOLLIN)
        self.watcher = Watcher(self.poll, self.ended, self.tell, self.workers.changed)

    def run(self) -> None:
        """Watch until asked to stop."""
        self.reap()  # what ended while this process became another version
        self.watcher.scan()
        self.begin_proc()
        children = len(self.watcher.children)
        self.tell(0, f"Watching {len(self.watcher.inits)} running container(s), {children} of them own children")
        self.resume_marks()
        gc.collect()
        gc.freeze()
        while not self.stop:
            self.workers.begin()
            self.act()
            for fd, _ in self.poll.poll(self.timeout_s()):
                if self.is_old():
                    self.become_new()
                if fd == self.wake_fd:
                    self.signalled()
                elif self.socket is not None and fd == self.socket.fileno():
                    pid = serving.accept(self.socket, self.run_command)
                    if pid:
                        self.serving.add(pid)
                elif fd == self.watcher.fd:
                    self.watcher.read()
                elif fd in self.watcher.others:
                    self.watcher.ended(fd)
        self.workers.end()
        self.tell(0, f"Ending; {len(self.watcher.inits)} container(s) run on")
        procholder.end_if_idle()
        for path in (EVENTD, PID_FILE):
            remove(path)

    def begin_proc(self) -> None:
        """Have a server of the containers' /proc files, where the node can."""
        if not self.node.is_yes("PROC_SERVER"):
            return
        try:
            procholder.begin()
        except OSError as exc:
            self.tell(0, f"No server for the containers' /proc: {exc.filename}: {exc.strerror}")

    def running(self) -> dict[int, int]:
        """Return {CTID: pid of its init} of all that run."""
        return {ctid: init.pid for ctid, init in self.watcher.inits.items()}

    def read_config(self) -> None:
        self.node = load_node()

    def tell(self, ctid: int, text: str) -> None:
        """Write a line to the log and to stderr."""
        report.set_log(self.node.logfile if self.node.logging else "", ctid, self.node.log_level)
        report.warn(text)

    def signalled(self) -> None:
        came = set(os.read(self.wake_fd, 4096))
        if came & {_signal.SIGTERM, _signal.SIGINT}:
            self.stop = True
        elif _signal.SIGHUP in came:
            self.become_new()
        self.reap()

    def reap(self) -> None:
        """Take every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self.working:
                self.worked(self.working.pop(pid), status)
            elif pid in self.serving:
                self.serving.discard(pid)
            elif not self.workers.ended(pid, status):
                self.watcher.reaped(pid, status)

    def ended(self, ctid: int, pid: int, start: int, why: str) -> None:
        """Note the end of an init; a command that has the CT's lock comes first."""
        self.pending[ctid] = ended = Ended(ctid, pid, start, why)
        if why == REBOOT and self.is_ours(ended):
            ending.mark(ctid, ending.text_of(pid, start), durable=False)

    def resume_marks(self) -> None:
        """Go on with the reboots that an earlier daemon has seen in this boot of the node and not brought to an end."""
        here = ending.boot_id()
        for ctid, text in ending.marked().items():
            words = text.split()
            if len(words) != 3 or words[2] != here or not words[0].isdigit() or not words[1].isdigit():
                continue  # of another boot: that is for the start of the node
            if ctid in self.watcher.inits:
                ending.unmark(ctid)
                continue
            record = load_record(ctid)
            ended = Ended(ctid, int(words[0]), int(words[1]), REBOOT)
            if record is None:  # cleared already
                ended.pid = ended.start = 0
            ended.restart = True
            self.pending[ctid] = ended

    def timeout_s(self) -> float:
        """Return how long to sleep: for ever, while nothing is pending."""
        times = [ended.at for ended in self.pending.values()] if len(self.working) < self.at_once else []
        next_at = self.workers.next_at()
        if next_at is not None:
            times.append(next_at)
        return max(min(times) - time.monotonic(), 0.0) if times else -1

    def act(self) -> None:
        """Do what can be done about the inits that have ended."""
        busy = {ended.ctid for ended in self.working.values()}
        for ended in list(self.pending.values()):
            if ended.at > time.monotonic() or ended.ctid in busy or len(self.working) >= self.at_once:
                continue
            if not self.is_ours(ended):
                del self.pending[ended.ctid]
                if ended.why == REBOOT:
                    ending.unmark(ended.ctid)
            elif is_held(self.node.lockdir, ended.ctid):
                self.later(ended)
            else:
                del self.pending[ended.ctid]
                self.begin_work(ended)

    def is_ours(self, ended: Ended) -> bool:
        """Tell whether there is anything left to do: the command that ended the CT has cleared it away."""
        record = load_record(ended.ctid)
        if not ended.pid:
            return record is None
        return record is not None and (record.init_pid, record.init_start) == (ended.pid, ended.start)

    def later(self, ended: Ended) -> None:
        ended.at = time.monotonic() + ended.pause
        ended.pause = min(2 * ended.pause, LONGEST_PAUSE_S)
        self.pending.setdefault(ended.ctid, ended)

    def begin_work(self, ended: Ended) -> None:
        """Fork the child that clears up and starts again."""
        if ending.left_alone(ended.ctid):
            self.tell(ended.ctid, f"Container {ended.why}; a migration has it")
            return
        record = load_record(ended.ctid)
        if not ended.restart:
            if ended.why == REBOOT and record is not None and ending.may_restart(record, ended.ctid):
                ended.restart = self.is_patient(ended.ctid)
                what = "starting it again" if ended.restart else (
                    f"more than {ending.MOST_REBOOTS} times in {ending.WITHIN_S:.0f} s: it stays stopped"
                )  # fmt: skip
                self.happened(ended.ctid, f"Container {ended.why}: {what}")
            else:
                self.happened(ended.ctid, f"Container {ended.why}")
        try:
            pid = os.fork()
        except OSError as exc:
            self.tell(ended.ctid, f"Unable to look after it: {exc.strerror}; trying again")
            self.later(ended)
            return
        if pid:
            self.working[pid] = ended
            return
        try:
            serving.only(2)
            status = ending.act(ended.ctid, ended.pid, ended.start, restart=ended.restart)
            os._exit(status)
        except BaseException as exc:
            sys.excepthook(type(exc), exc, exc.__traceback__)
        finally:
            os._exit(ExitCode.SYSTEM_ERROR)

    def happened(self, ctid: int, text: str) -> None:
        """Tell of a CT's end, and keep it for ``vzctl why``."""
        self.tell(ctid, text)
        events.note(ctid, "end", text=text)

    def is_patient(self, ctid: int) -> bool:
        """Count a reboot of the CT; False when it is one too many."""
        now = time.monotonic()
        times = [at for at in self.reboots.get(ctid, ()) if now - at < ending.WITHIN_S]
        self.reboots[ctid] = [*times, now]
        return len(times) < ending.MOST_REBOOTS

    def worked(self, ended: Ended, status: int) -> None:
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == ExitCode.LOCKED:
            self.later(ended)
        elif os.WIFSIGNALED(status):
            self.tell(ended.ctid, f"What looked after it was killed by signal {os.WTERMSIG(status)}")

    def is_old(self) -> bool:
        """Tell whether another version has been installed."""
        try:
            return self.stamp != asking.stamp()
        except OSError:  # it is being installed, or was removed
            return False

    def become_new(self) -> None:
        """Become the program as it is installed now; the children stay ours, what has ended is waited for then."""
        assert self.socket is not None
        if not os.access(self.program, os.X_OK):
            self.tell(0, f"Unable to become the new version: there is no {self.program}")
            return
        self.workers.end()
        for fd in (self.lock_fd, self.socket.fileno()):
            os.set_inheritable(fd, True)
        os.environ[CARRIED] = f"{self.lock_fd} {self.socket.fileno()}"
        _signal.pthread_sigmask(_signal.SIG_BLOCK, SIGNALS)  # they wait until there is a handler again
        try:
            os.execv(sys.executable or "/usr/bin/python3", ["python3", "-IS", self.program, *self.argv])
        except OSError as exc:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, SIGNALS)
            self.tell(0, f"Unable to become the new version: {self.program}: {exc.strerror}")
        for fd in (self.lock_fd, self.socket.fileno()):
            os.set_inheritable(fd, False)


def is_carried_on() -> bool:
    """Tell whether this process was the daemon already, of an earlier version."""
    return CARRIED in os.environ


def only_one() -> int:
    """Return the open pid file, locked; VzError when another daemon has it."""
    fd = os.open(PID_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno != errno.EWOULDBLOCK:
            raise
        there = os.read(fd, 16).decode("ascii", "replace").strip()
        os.close(fd)
        raise VzError(f"vzeventd runs already (pid {there})", ExitCode.SETUBC_ERROR) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def notify_ready() -> None:
    """Tell the service manager that started us, if one did, that we are up; see sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        sock.sendto(b"READY=1", "\0" + path[1:] if path[0] == "@" else path)
    except OSError:
        pass
    finally:
        sock.close()
