"""The watcher: a worker of the node daemon that looks every few seconds what the kernel has refused or killed."""

from __future__ import annotations

import os
import select
import time

from vz.config.nodeconfig import NodeConfig
from vz.config.paths import CONF_DIR
from vz.container.ct import Container, load
from vz.errors import VzError
from vz.resources import noticing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.node.workers import Feed

EVERY_S = 5.0


class Watched:
    """A CT that runs: its conf as it was read, and its counters at the last look."""

    __slots__ = ("counters", "ct", "stamp")

    def __init__(self) -> None:
        self.ct: Container | None = None
        self.stamp = 0
        self.counters: dict[str, float] | None = None

    def look(self, ctid: int, node: NodeConfig) -> None:
        """Compare the counters; only where one has changed anything is written.  VzError, OSError: it ends."""
        stamp = os.stat(f"{CONF_DIR}/{ctid}.conf").st_mtime_ns
        if self.ct is None or stamp != self.stamp:
            self.ct, self.stamp = load(ctid, node), stamp
        now = noticing.counters(self.ct)
        if now != self.counters and (self.counters is not None or any(now.values())):
            noticing.look(load(ctid, node), dict(now))
        self.counters = now


def run(feed: Feed, node: NodeConfig) -> None:
    """Be the worker, until the daemon ends."""
    poll = select.poll()
    poll.register(feed, select.POLLIN)
    watched: dict[int, Watched] = {}
    due = time.monotonic() + EVERY_S
    while True:
        if poll.poll(max(due - time.monotonic(), 0) * 1000 if feed.inits else None):
            changes = feed.read()
            if changes is None:
                return
            for ctid, pid in changes:
                watched.pop(ctid, None)
                if pid:
                    watched[ctid] = Watched()
        if time.monotonic() < due:
            continue
        for ctid, ct in watched.items():
            try:
                ct.look(ctid, node)
            except (VzError, OSError):
                continue  # it ends, or its conf is being written
        due = time.monotonic() + EVERY_S
