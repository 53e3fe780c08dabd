"""Which CTs run on the node, by their run records, and how the init of each has ended.

inotify tells of a record that is written.  Of an init that is the daemon's own child, wait(2) tells the end and its
reason: the kernel ends the init of a pid namespace by SIGHUP for a restart and by SIGINT for a halt, see
pid_namespaces(7).  For one that is not (started without the daemon, or before it was killed) a pidfd tells the end, and
its /proc/PID/stat, which is open already, the reason, if it is read before the node's own init has taken the zombie.
"""

from __future__ import annotations

import _signal
import os
import select

from vz.config.paths import RUN
from vz.container.record import load_record
from vz.kernel import inotify
from vz.kernel.process import starttime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

REBOOT, UNKNOWN = "asked for a reboot", "ended, and nobody saw how"
STRAYS_KEPT = 256


class Init:
    """The init of a CT that runs: *pidfd* and *stat_fd* are -1 for a child of ours."""

    __slots__ = ("ctid", "pid", "pidfd", "start", "stat_fd")

    def __init__(self, ctid: int, pid: int, start: int) -> None:
        self.ctid = ctid
        self.pid = pid
        self.start = start
        self.pidfd = self.stat_fd = -1


class Watcher:
    """Tells *on_end* (CTID, init's pid, its start time, why) of each init that has ended, and *changed* (CTID, init's
    pid or 0) of each that is known and no more; *poll* is the daemon's."""

    def __init__(
        self,
        poll: select.epoll,
        on_end: Callable[[int, int, int, str], None],
        tell: Callable[[int, str], None],
        changed: Callable[[int, int], None],
    ) -> None:
        self.poll = poll
        self.on_end = on_end
        self.tell = tell
        self.changed = changed
        self.inits: dict[int, Init] = {}  # by CTID
        self.children: dict[int, Init] = {}  # by pid
        self.others: dict[int, Init] = {}  # by pidfd
        self.strays: dict[int, int] = {}  # wait statuses of children that no record has named yet
        self.folders: dict[int, int] = {}  # CTID by watch
        self.fd = inotify.inotify_init()
        self.poll.register(self.fd, select.EPOLLIN)
        self.top = inotify.inotify_add_watch(self.fd, RUN, inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_ONLYDIR)

    def scan(self) -> None:
        """Find what runs."""
        for name in os.listdir(RUN):
            self._found(name)

    def read(self) -> None:
        """Take what inotify tells."""
        changed: dict[int, None] = {}
        for watch, mask, name in inotify.read_events(self.fd):
            if mask & inotify.IN_Q_OVERFLOW:
                self.scan()
            elif mask & inotify.IN_IGNORED:
                self.folders.pop(watch, None)
            elif watch == self.top:
                self._found(name)
            elif name == "record" and watch in self.folders:
                changed[self.folders[watch]] = None
        for ctid in changed:
            self.look(ctid)

    def _found(self, name: str) -> None:
        """Watch the run directory *name* of a CT and look at what is in it."""
        if not (name.isascii() and name.isdigit()):
            return
        events = inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_ONLYDIR
        try:
            self.folders[inotify.inotify_add_watch(self.fd, f"{RUN}/{name}", events)] = int(name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:  # ENOSPC
            self.tell(int(name), f"Unable to watch it: {exc.strerror}; fs.inotify.max_user_watches may be too low")
        self.look(int(name))

    def look(self, ctid: int) -> None:
        """Read the record of CT *ctid* and watch the init that it names."""
        record = load_record(ctid)
        if record is None or not record.init_pid:
            return
        pid, start = record.init_pid, record.init_start
        known = self.inits.get(ctid)
        if known is not None and (known.pid, known.start) == (pid, start):
            if known.pidfd >= 0 and _parent(pid) == os.getpid():  # criu, say, was its first
                self._let_go(known)
                self._adopt(known)
            return
        if known is not None:
            self.forget(known)
        init = Init(ctid, pid, start)
        try:
            init.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._gone(init)
            return
        except OSError as exc:  # EMFILE
            self.tell(ctid, f"Unable to watch its init: {exc.strerror}")
            return
        if starttime(pid) != start:
            self._let_go(init)
            self._gone(init)
        elif _parent(pid) == os.getpid():
            self._let_go(init)
            self._adopt(init)
        else:
            self.inits[ctid] = self.others[init.pidfd] = init
            self.changed(ctid, pid)
            try:
                init.stat_fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                pass
            self.poll.register(init.pidfd, select.EPOLLIN)

    def _adopt(self, init: Init) -> None:
        self.strays.pop(init.pid, None)  # of an earlier process with this number
        was = self.inits.get(init.ctid)
        self.inits[init.ctid] = self.children[init.pid] = init
        if was is not init:
            self.changed(init.ctid, init.pid)

    def _gone(self, init: Init) -> None:
        """Report an init that had ended before its record was read."""
        status = self.strays.pop(init.pid, None)
        self.on_end(init.ctid, init.pid, init.start, UNKNOWN if status is None else reason(status))

    def reaped(self, pid: int, status: int) -> None:
        """Take the wait status of a child that is none of the daemon's own workers."""
        init = self.children.get(pid)
        if init is None:
            self.strays[pid] = status
            while len(self.strays) > STRAYS_KEPT:
                del self.strays[next(iter(self.strays))]
            return
        self.forget(init)
        self.on_end(init.ctid, init.pid, init.start, reason(status))

    def ended(self, pidfd: int) -> None:
        """Take the end of an init that is nobody's child here."""
        init = self.others[pidfd]
        why = UNKNOWN
        if init.stat_fd >= 0:
            try:
                why = reason(int(os.pread(init.stat_fd, 1024, 0).split()[-1]))
            except (OSError, ValueError, IndexError):
                pass  # ESRCH: its parent was faster
        self.forget(init)
        self.on_end(init.ctid, init.pid, init.start, why)

    def forget(self, init: Init) -> None:
        self._let_go(init)
        self.children.pop(init.pid, None)
        if self.inits.get(init.ctid) is init:
            del self.inits[init.ctid]
            self.changed(init.ctid, 0)

    def _let_go(self, init: Init) -> None:
        """Close what is open for an init that is not our child."""
        if self.others.pop(init.pidfd, None) is not None:
            self.poll.unregister(init.pidfd)
        for fd in (init.pidfd, init.stat_fd):
            if fd >= 0:
                os.close(fd)
        init.pidfd = init.stat_fd = -1


def reason(status: int) -> str:
    """Say in words what the wait status of a CT's init means; REBOOT for a reboot."""
    if os.WIFEXITED(status):
        return f"ended with status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    if number == _signal.SIGHUP:
        return REBOOT
    return "halted" if number == _signal.SIGINT else f"was killed by signal {number}"


def _parent(pid: int) -> int:
    """Return the parent of *pid*; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read(1024).rpartition(b")")[2].split()[1])
    except OSError:
        return 0
