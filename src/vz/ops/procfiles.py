"""The files of the node's /proc server in a CT: which there are, and whether a server answers for them.

Commands never read them.  The one look at them, at a start or restore, is that of a child which may hang.
"""

from __future__ import annotations

import _signal
import fcntl
import os
import select

from vz.config.procnames import LOCK, NAMES, PLACE, TARGETS
from vz.container.ct import Container
from vz.container.record import External

KEY = "vzproc_"  # of the mounts' keys, with which dumps name them
PATIENCE_MS = 3000


def externals(ct: Container) -> list[External]:
    """Return the mounts that make the CT's own /proc files; none where no server answers."""
    if not ct.node.is_yes("PROC_SERVER") or not answers(ct.ctid):
        return []
    return [External(KEY + name, f"{PLACE}/{ct.ctid}/{name}", TARGETS[name]) for name in NAMES]


def sources(ct: Container, saved: list[External]) -> dict[str, str]:
    """Return {key: source} for those of *saved*: of the server, or else the kernel's own files."""
    wanted = [item for item in saved if item.key.startswith(KEY)]
    if not wanted:
        return {}
    served = {item.key: item.source for item in externals(ct)}
    return {item.key: served.get(item.key, item.target) for item in wanted}


def answers(ctid: int) -> bool:
    """Tell whether a server serves; asked by a child, for the kernel may let whoever asks wait."""
    try:
        lock = os.open(LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False  # nobody holds it
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
    pid = os.fork()
    if pid == 0:
        try:
            for name in NAMES:
                os.stat(f"{PLACE}/{ctid}/{name}")
            os._exit(0)
        finally:
            os._exit(1)
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(PATIENCE_MS):
        os.kill(pid, _signal.SIGKILL)
    os.close(pidfd)
    return os.waitpid(pid, 0)[1] == 0
