"""The pacer: a CT that grows above its RAM, into its virtual swap, grows at the pace of a disk, without one.

It is a worker of the node daemon.  It looks at each CT, seldom while it is far below its RAM and often when it is near
or above; growth above RAM is paid for with time in which the CT stands still.  Page cache is never paid for.  Nothing
is paid twice: what a CT held when it was first seen (after a restore, say) and what it has paid for is free until it
is given back.

It freezes ``PARENT/CTID/ct``, a level below the one that suspend and checkpoints freeze: neither undoes the other.
Killed, it leaves no CT frozen: the daemon calls thaw_all(), and so does the next pacer.  The hard limit of RAM and
swap together is the kernel's, with and without it.
"""

from __future__ import annotations

import heapq
import os
import select
import time

from vz.config.units import PAGE
from vz.container import events
from vz.kernel import cgroup
from vz.resources import vswap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.node.workers import Feed

MB = 1 << 20
FASTEST = 2000 * MB  # bytes a second: faster than a program fills memory
WRITER = 1500 * MB  # what one that wants to be slowed does
LONGEST_PAUSE_S = 0.3  # what a CT stands still at a time; with a late wake-up it stays below half a second
DEBT_S = 0.25  # looks are so close that a fast writer owes no more than this at the next one
SOONEST_S, SOON_S, REST_S, SELDOM_S = 0.004, 0.05, 0.25, 1.0  # the first: in less not every process gets its turn
MOVES = MB  # from one look to the next: a CT that changes by less is at rest, and looked at less and less often
TELL_S = 60.0  # one event for so much time
TOLD_FROM_S = 1.0  # less is not worth a word
SLACK = 64 << 10  # below this nothing is paid: the kernel counts in batches


class Paced:
    """One CT: its directories, what it has paid for, and whether it stands still for that."""

    __slots__ = ("calm_s", "fd", "frozen", "memory", "own", "paid", "ram", "stood_s", "told_at", "used", "version")

    def __init__(self, own: str, version: int, memory: str) -> None:
        self.own = own  # the CT's cgroup2 directory
        self.version = version  # of the memory controller
        self.memory = memory  # the CT's directory there
        self.fd = -1
        self.paid = -1  # bytes; -1: it has not been looked at
        self.used = 0  # at the last look below its RAM
        self.ram = 0
        self.frozen = False
        self.stood_s = 0.0  # and nobody has been told yet
        self.told_at = 0.0
        self.calm_s = SOON_S

    def look(self, rate: int) -> float:
        """Freeze or thaw as is due, with *rate* in bytes a second; return in how many seconds to look again.

        Raises:
            OSError: ENOENT, ENODEV: it has ended.
        """
        if self.frozen:
            self.thaw()
            return self.calm_s
        limits = vswap.marked(self.own)
        if limits is None:
            self.paid = -1
            return SELDOM_S
        self.ram = ram = limits[0]
        used = self.usage()
        fixed = used if used <= ram else vswap.fixed_bytes(self.version, self.memory)
        if fixed <= ram:
            self.paid = ram
            rests = abs(used - self.used) < MOVES
            self.used = used
            far_s = (ram - fixed) / FASTEST
            self.calm_s = min(2 * self.calm_s, max(4 * far_s, SOON_S), REST_S) if rests else SOONEST_S
            return min(max(far_s, self.calm_s), SELDOM_S)
        self.paid = fixed if self.paid < 0 else max(self.paid, ram)
        debt = fixed - self.paid
        if debt <= SLACK:
            self.paid = min(self.paid, fixed)  # what is given back is paid for anew when it is taken again
            self.calm_s = min(2 * self.calm_s, SOON_S)
            return self.calm_s
        pause_s = min(debt / rate, LONGEST_PAUSE_S)
        self.paid += int(pause_s * rate)
        self.stood_s += pause_s
        self.calm_s = tick_s(rate) if pause_s < LONGEST_PAUSE_S else SOONEST_S  # what is still owed is next
        cgroup.write(f"{self.own}/ct", "cgroup.freeze", 1)
        self.frozen = True
        return pause_s

    def usage(self) -> int:
        """Return what it holds in all; its file stays open, since this is what costs."""
        if self.fd < 0:
            name = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
            self.fd = os.open(f"{self.memory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        return int(os.pread(self.fd, 32, 0))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def tell(self, ctid: int, *, last: bool = False) -> None:
        """Note for ``vzctl why`` how long it has stood still; it ends (*last*), or this is the time to."""
        now = time.monotonic()
        if self.stood_s < TOLD_FROM_S or (not last and now - self.told_at < TELL_S):
            return
        since = round(time.time() - min(now - self.told_at, TELL_S), 1)
        events.note(ctid, "limit", what="vswap", seconds=round(self.stood_s, 1), limit=self.ram // PAGE, since=since)
        self.stood_s, self.told_at = 0.0, now

    def thaw(self) -> None:
        self.frozen = False
        cgroup.write(f"{self.own}/ct", "cgroup.freeze", 0)


def tick_s(rate: int) -> float:
    """Return how long a CT that grows may run until the next look."""
    return min(max(DEBT_S * rate / WRITER, SOONEST_S), SOON_S)


def thaw_all(top: str) -> None:
    """Let go what a pacer that was killed has left frozen below *top*, the cgroup that all CTs are in."""
    try:
        names = [name for name in os.listdir(top) if name.isdigit()]
    except FileNotFoundError:
        return
    for name in names:
        path = f"{top}/{name}/ct"
        try:
            if cgroup.read(path, "cgroup.freeze") == "1":
                cgroup.write(path, "cgroup.freeze", 0)
        except OSError:
            continue  # it has ended


class Pacer:
    """All CTs, each with the time of its next look."""

    def __init__(self, parent: str, rate: int) -> None:
        places = cgroup.hierarchies()
        self.rate = rate
        self.version = places.version("memory")
        self.top = f"{places.unified}/{parent}"
        self.memory_top = self.top if self.version == 2 else f"{places.v1['memory']}/{parent}"
        self.paced: dict[int, Paced] = {}
        self.times: list[tuple[float, int, Paced]] = []

    def changed(self, ctid: int, pid: int) -> None:
        """Take a CT that has started, or one that has ended (*pid* 0): nothing of what it was before counts."""
        before = self.paced.pop(ctid, None)  # its entry among the times is passed over
        if before is not None:
            before.tell(ctid, last=True)
            before.close()
        if pid:
            memory = f"{self.memory_top}/{ctid}"
            own = f"{self.top}/{ctid}"
            self.paced[ctid] = paced = Paced(own, self.version, f"{memory}/ct" if self.version == 2 else memory)
            heapq.heappush(self.times, (time.monotonic(), ctid, paced))

    def act(self) -> float | None:
        """Look at those whose time has come; return in how many seconds the next one's does, None for never."""
        while self.times:
            at, ctid, paced = self.times[0]
            if self.paced.get(ctid) is not paced:
                heapq.heappop(self.times)
                continue
            now = time.monotonic()
            if at > now:
                return at - now
            try:
                pause_s = paced.look(self.rate)
                paced.tell(ctid)
            except OSError:  # it ends, of which the daemon will tell; or the kernel is short of something
                pause_s = SOON_S
            at = now + pause_s
            if pause_s > SOON_S and not paced.frozen:  # those that rest are looked at together: one wake-up for all
                at = (at // SOON_S + 1) * SOON_S
            heapq.heapreplace(self.times, (at, ctid, paced))
        return None

    def let_go(self) -> None:
        thaw_all(self.top)


def run(feed: Feed, parent: str, rate: int) -> None:
    """Be the worker, until the daemon ends."""
    pacer = Pacer(parent, rate)
    pacer.let_go()
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)  # who is late here keeps a CT standing
    except PermissionError:
        pass
    poll = select.poll()
    poll.register(feed, select.POLLIN)
    try:
        while True:
            left_s = pacer.act()
            if not poll.poll(None if left_s is None else left_s * 1000):
                continue
            changes = feed.read()
            if changes is None:
                return
            for ctid, pid in changes:
                pacer.changed(ctid, pid)
    finally:
        pacer.let_go()
