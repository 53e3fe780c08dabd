"""A process that waits for vzmigrate's end and, if it was killed, does what that would have done.

The CT must not stay down.  Without it, the next command on the CT would do the same; but until somebody comes, the CT
would be stopped or frozen.
"""

from __future__ import annotations

import _signal
import os
import time

from vz.config.nodeconfig import NodeConfig
from vz.config.paths import CONF_DIR
from vz.container.ct import load
from vz.container.lock import CTLock
from vz.errors import Locked, VzError
from vz.kernel.process import close_from, starttime
from vz.ops import journal, report
from vz.ops.migrate import log, outgoing

# a destination that cannot be reached is asked again, less and less often, for an hour; then the next command asks
PATIENCE_S = 3600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0


class Guard:
    """``guard = Guard(node, ctid)`` … ``guard.dismiss()``: what is not dismissed acts when this process ends."""

    __slots__ = ("_pipe",)

    def __init__(self, node: NodeConfig, ctid: int) -> None:
        read_fd, self._pipe = os.pipe()
        ours = os.getpid()
        if os.fork():
            os.close(read_fd)
            return
        try:
            os.setsid()
            for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGPIPE):
                _signal.signal(number, _signal.SIG_IGN)
            # it must hold nothing of ours open: the helper learns from its end of file that we are gone
            os.dup2(read_fd, 0)
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
            close_from(3)
            if os.read(0, 1) != b"d":
                _act(node, ctid, ours)
        finally:
            os._exit(0)

    def dismiss(self) -> None:
        """There is nothing to be done."""
        os.write(self._pipe, b"d")
        os.close(self._pipe)


def _act(node: NodeConfig, ctid: int, died: int) -> None:
    report.set_up("vzmigrate", quiet=True)
    while starttime(died):  # its last descriptor goes a little before it does
        time.sleep(0.005)
    deadline = time.monotonic() + PATIENCE_S
    pause = FIRST_PAUSE_S
    while time.monotonic() < deadline:
        try:
            with CTLock(node.lockdir, ctid):
                facts = journal.read(ctid) or {}
                if facts.get("operation") == log.OUT:
                    mend(node, ctid, facts)
            return
        except Locked:
            return  # somebody else is at it, and has mended it
        except outgoing.Undecided as exc:
            report.warn(str(exc))
        except (VzError, OSError) as exc:
            report.warn(f"after the death of vzmigrate: {exc}")
            return
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def mend(node: NodeConfig, ctid: int, facts: dict[str, str]) -> None:
    """Bring the interrupted migration to its end, and the CT back into its state where it stays."""
    outgoing.mend(load(ctid, node, must_exist=False), facts)
    if not journal.read(ctid) and os.path.exists(f"{CONF_DIR}/{ctid}.conf"):
        outgoing.bring_back(load(ctid, node), facts["was"])
