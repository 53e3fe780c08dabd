"""The watcher: a worker of the node daemon that looks every few seconds what the kernel has refused or killed."""

from __future__ import annotations

import select
import time

from vz.config.nodeconfig import NodeConfig
from vz.container.ct import Container, load
from vz.errors import VzError
from vz.resources import noticing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.node.workers import Feed

EVERY_S = 5.0


def run(feed: Feed, node: NodeConfig) -> None:
    """Be the worker, until the daemon ends."""
    poll = select.poll()
    poll.register(feed, select.POLLIN)
    known: dict[int, dict[str, float]] = {}
    due = time.monotonic() + EVERY_S
    while True:
        if poll.poll(max(due - time.monotonic(), 0) * 1000 if feed.inits else None):
            changes = feed.read()
            if changes is None:
                return
            for ctid, _ in changes:
                known.pop(ctid, None)
        if time.monotonic() < due:
            continue
        for ctid in list(feed.inits):
            try:
                _look(load(ctid, node), known)
            except (VzError, OSError):
                continue  # it ends, or its conf is being written
        due = time.monotonic() + EVERY_S


def _look(ct: Container, known: dict[int, dict[str, float]]) -> None:
    """Look at the counters of *ct*; only where one of them has changed anything is written."""
    now = noticing.counters(ct)
    if known.get(ct.ctid) != now and (ct.ctid in known or any(now.values())):
        noticing.look(ct, dict(now))
    known[ct.ctid] = now
