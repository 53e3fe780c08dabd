"""The node's containers at its boot and at its shutdown: which, in which order, several at once, within a time.

At boot those come first that /var/lib/vzctl/vzreboot names (they asked for a reboot, or were suspended when the node
went down), then those with ONBOOT=yes; in each part by BOOTORDER, highest first, the ones without last.  At shutdown
the order is the reverse.  Each container is a ``vzctl`` command in a child, which the node daemon may run for us.
"""

from __future__ import annotations

import _signal
import os
import select
import time

from vz.config.conffile import ConfFile
from vz.config.nodeconfig import NodeConfig
from vz.config.paths import CONF_DIR, RUN
from vz.container.ct import load
from vz.container.record import load_record
from vz.errors import VzError
from vz.kernel.process import default_signals
from vz.node import ending
from vz.ops.report import say, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vz.node.serving import RunCommand

FAILED = 1
UNWIND_LIMIT_S = 15.0  # for a command that is told to stop, before it is killed


class Job:
    """A command on one CT: ``vzctl VERB CTID FLAGS`` in a child whose output is kept."""

    __slots__ = ("ctid", "output", "pid", "pidfd", "words")

    def __init__(self, ctid: int, words: list[str]) -> None:
        self.ctid = ctid
        self.words = words
        self.pid = self.pidfd = self.output = -1

    def begin(self, run_command: RunCommand) -> None:
        self.output = os.memfd_create("output")
        self.pid = os.fork()
        if self.pid == 0:
            try:
                default_signals()
                os.setsid()
                null = os.open("/dev/null", os.O_RDONLY)
                for fd, number in ((null, 0), (self.output, 1), (self.output, 2)):
                    os.dup2(fd, number)
                os._exit(run_command("vzctl", self.words))
            finally:
                os._exit(3)
        self.pidfd = os.pidfd_open(self.pid)

    def end(self) -> tuple[int, str]:
        """Return the exit status, or minus the signal, and what was printed."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        text = os.pread(self.output, 1 << 16, 0).decode("utf-8", "replace").strip()
        os.close(self.output)
        os.close(self.pidfd)
        return status, text


class Runner:
    """Runs jobs, some at once; *on_end* gets each with its status and output."""

    def __init__(self, run_command: RunCommand, at_once: int, on_end: Callable[[Job, int, str], None]) -> None:
        self.run_command = run_command
        self.at_once = at_once
        self.on_end = on_end
        self.stopped = False

    def run(self, jobs: list[Job], limit_s: float | None = None) -> bool:
        """Begin the jobs in their order; False when some were ended early: *limit_s* has passed, or we are to stop."""
        deadline = None if limit_s is None else time.monotonic() + limit_s
        waiting = list(reversed(jobs))
        running: dict[int, Job] = {}
        poll = select.poll()
        told_at = 0.0
        while waiting or running:
            now = time.monotonic()
            if (self.stopped or (deadline is not None and now >= deadline)) and not told_at:
                waiting.clear()
                told_at = now
                for job in running.values():
                    os.kill(job.pid, _signal.SIGTERM)
            if told_at and now - told_at > UNWIND_LIMIT_S:
                for job in running.values():
                    os.kill(job.pid, _signal.SIGKILL)
            while waiting and len(running) < self.at_once:
                job = waiting.pop()
                job.begin(self.run_command)
                running[job.pidfd] = job
                poll.register(job.pidfd, select.POLLIN)
            pause_s = 1.0 if told_at or deadline is None else max(0.0, min(1.0, deadline - now))
            for fd, _ in poll.poll(pause_s * 1000):
                job = running.pop(fd)
                poll.unregister(fd)
                self.on_end(job, *job.end())
        return not told_at

    def stop_on_signals(self) -> None:
        """Let SIGINT and SIGTERM end what runs, and begin nothing more."""

        def stop(*_: object) -> None:
            self.stopped = True

        for number in (_signal.SIGINT, _signal.SIGTERM):
            _signal.signal(number, stop)


def at_once(node: NodeConfig) -> int:
    """Return how many CTs are worked on at the same time."""
    return node.number("VE_PARALLEL", 0) or len(os.sched_getaffinity(0))


def configured() -> list[int]:
    """Return the ids of all CTs that have a conf."""
    stems = [name.removesuffix(".conf") for name in os.listdir(CONF_DIR) if name.endswith(".conf")]
    return sorted(int(s) for s in stems if s.isascii() and s.isdigit() and s[0] != "0" and len(s) <= 10)


def order(ctid: int) -> tuple[bool, int, int]:
    """Return what sorts CTs as they boot: by BOOTORDER, highest first, without one last; then by id."""
    try:
        word = ConfFile.read(f"{CONF_DIR}/{ctid}.conf").get("BOOTORDER") or ""
        return False, -int(word), ctid
    except (OSError, ValueError, VzError):
        return True, 0, ctid


def is_onboot(ctid: int) -> bool:
    try:
        return (ConfFile.read(f"{CONF_DIR}/{ctid}.conf").get("ONBOOT") or "").lower() == "yes"
    except (OSError, VzError):
        return False


def is_running(ctid: int) -> bool:
    record = load_record(ctid)
    return record is not None and record.is_alive()


def boot(node: NodeConfig, run_command: RunCommand) -> int:
    """Start what is to run; 1 when some of it could not be started, which does not keep the others."""
    if not node.is_yes("VIRTUOZZO"):
        say("VIRTUOZZO is not yes in vz.conf: no container is started")
        return 0
    known = configured()
    again = ending.marked()
    for ctid in set(again) - set(known):
        ending.unmark(ctid)
    first = sorted(set(again) & set(known), key=order)
    rest = sorted((ctid for ctid in known if ctid not in again and is_onboot(ctid)), key=order)
    jobs = []
    for ctid in [*first, *rest]:
        if is_running(ctid):
            ending.unmark(ctid)
        elif _is_disabled(node, ctid):
            say(f"Container {ctid} is disabled")
        else:
            jobs.append(Job(ctid, ["start", str(ctid)]))
    failed = []

    def ended(job: Job, status: int, text: str) -> None:
        ending.unmark(job.ctid)
        if status in (0, 32):  # 32: somebody else was faster
            say(f"Container {job.ctid} is started")
        else:
            failed.append(job.ctid)
            warn(f"Container {job.ctid} is not started (status {status}): {_last(text)}")

    runner = Runner(run_command, at_once(node), ended)
    runner.stop_on_signals()
    whole = runner.run(jobs)
    return 0 if whole and not failed else FAILED


def shut_down(node: NodeConfig, run_command: RunCommand, limit_s: float) -> int:
    """Suspend or stop all that runs, and kill what still does after *limit_s*; 1 when something runs even then."""
    names = os.listdir(RUN) if os.path.isdir(RUN) else []
    ids = [int(name) for name in names if name.isascii() and name.isdigit()]
    running = sorted((ctid for ctid in ids if is_running(ctid)), key=order, reverse=True)
    suspend = node.text("VE_STOP_MODE").lower() == "suspend"
    if suspend and running and not _can_suspend():
        warn("VE_STOP_MODE is suspend, but criu is not installed: containers are stopped")
        suspend = False

    def ended(job: Job, status: int, text: str) -> None:
        verb = job.words[0]
        if verb == "chkpnt" and status == 0:
            ending.mark(job.ctid, ending.SUSPENDED)
            say(f"Container {job.ctid} is suspended")
        elif status == 0:
            say(f"Container {job.ctid} is stopped")
        elif verb == "chkpnt":
            warn(f"Container {job.ctid} is not suspended (status {status}), it is stopped: {_last(text)}")
        elif "--fast" in job.words or not is_running(job.ctid):
            warn(f"Container {job.ctid}: status {status}: {_last(text)}")

    deadline = time.monotonic() + limit_s
    runner = Runner(run_command, at_once(node), ended)
    runner.stop_on_signals()
    left = running
    if suspend:
        runner.run([Job(ctid, ["chkpnt", str(ctid)]) for ctid in running], limit_s)
        left = [ctid for ctid in running if is_running(ctid)]
    if not runner.stopped:
        runner.run([Job(ctid, ["stop", str(ctid)]) for ctid in left], max(0.0, deadline - time.monotonic()))
    left = [ctid for ctid in running if is_running(ctid)]
    if left and not runner.stopped:
        warn(f"Killing what still runs: {' '.join(map(str, left))}")
        runner.run([Job(ctid, ["stop", str(ctid), "--fast"]) for ctid in left])
    left = [ctid for ctid in running if is_running(ctid)]
    if left:
        warn(f"Still running: {' '.join(map(str, left))}")
    return FAILED if left else 0


def _is_disabled(node: NodeConfig, ctid: int) -> bool:
    try:
        return bool(load(ctid, node).conf.disabled)
    except VzError:
        return False  # the start says what is wrong


def _can_suspend() -> bool:
    from vz.checkpoint.options import criu_program

    try:
        criu_program()
    except FileNotFoundError:
        return False
    return True


def _last(text: str) -> str:
    """Return the last line of what a command has printed: that is what failed."""
    return text.rpartition("\n")[2] or "it said nothing"
