"""Memory that follows a restored container: criu's lazy-pages at work beside it, and how it ended.

It is nobody's child for long: it outlives a killed helper.  Who comes later knows it by its images, and its end by a
file that it leaves in the dump.
"""

from __future__ import annotations

import os
import time

from vz.checkpoint import criu, store
from vz.checkpoint.options import criu_program, lazy_pages

READY_S = 30.0
STALLED_S = 30.0  # so long nothing comes only where nothing will: the other node fetches all the time
LOG = "lazy-pages.log"


class NotFetched(Exception):
    """Some of the memory has not come, and will not; the text says why."""


def start(path: str, freezer: str, socket: int) -> None:
    """Start it for the dump *path* with the page traffic on *socket*; it is ready when this returns.

    Raises:
        criu.CriuFailed: it ended at once.
    """
    folder = f"{path}/images"
    script = os.path.join(os.path.dirname(os.path.realpath(__file__)), "lazy-pages")
    argv = [script, path, freezer, criu_program(), *lazy_pages(folder, path)]
    pid = criu.start(argv, f"{path}/{LOG}", socket)
    deadline = time.monotonic() + READY_S
    while not os.path.exists(f"{path}/lazy-pages.socket"):
        if os.waitpid(pid, os.WNOHANG)[0] or time.monotonic() > deadline:
            criu.kill_stragglers(folder)
            raise criu.CriuFailed(1, criu.summary(f"{path}/{LOG}"))
        time.sleep(0.002)


def wait(path: str) -> None:
    """Wait until all memory of the CT has come that was restored from *path*, which may be retired by now.

    Raises:
        NotFetched: the other node, or the way to it, is gone, or nothing has come for STALLED_S.
    """
    seen, since = -1, time.monotonic()
    while criu.stragglers(f"{path}/images"):
        size = _said(path)  # it notes each page that it asks for
        if size != seen:
            seen, since = size, time.monotonic()
        elif time.monotonic() > since + STALLED_S:
            criu.kill_stragglers(f"{path}/images")
        time.sleep(0.02)
    for folder in (path, path + store.GONE):
        for _ in range(50):  # the script writes it after criu's end
            if os.path.exists(f"{folder}/lazy.done"):
                return
            if not os.path.isdir(folder) or os.path.exists(f"{folder}/lazy.failed"):
                break
            time.sleep(0.02)
    lines = criu.summary(f"{path}{store.GONE}/{LOG}") or criu.summary(f"{path}/{LOG}")
    raise NotFetched("; ".join(lines) or "its memory did not come")


def _said(path: str) -> int:
    for folder in (path, path + store.GONE):
        try:
            return os.stat(f"{folder}/{LOG}").st_size
        except FileNotFoundError:
            continue
    return 0
