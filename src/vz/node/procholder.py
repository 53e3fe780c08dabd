"""The holder of the /proc server: keeps the mount's descriptor and has a server at it, come what may.

Begun by vzeventd, and none of its children any more: it stays when the daemon ends, as long as a CT runs.  It
reads no request itself.  A server that has ended is followed by another; one that leaves a request lying for a second
is killed.  Where the holder is killed the server goes on alone.
"""

from __future__ import annotations

import _signal
import fcntl
import os
import select
import time

from vz.config.paths import RUN
from vz.config.procnames import LOCK, PLACE
from vz.container.record import load_record
from vz.kernel import fuse, mounts
from vz.kernel.files import make_dirs
from vz.node import serving

SILENT_S = 1.0
LOOK_S = 15.0


def begin() -> bool:
    """Have a holder; False where there was one.  OSError: no /dev/fuse, or it cannot be mounted."""
    lock = take_lock()
    if lock < 0:
        return False
    try:
        while is_mounted():
            mounts.umount(PLACE, mounts.MNT_DETACH)
        if not is_there():
            make_dirs(PLACE, 0o711)
        fd = fuse.mount(PLACE)
    except OSError:
        os.close(lock)
        raise
    pid = os.fork()
    if pid == 0:
        try:
            _hold(lock, fd)
        finally:
            os._exit(1)
    os.close(lock)
    os.close(fd)
    os.waitpid(pid, 0)
    return True


def take_lock() -> int:
    """Return the lock's descriptor; -1 where a holder, or a server that has lost it, has it."""
    fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    return fd


def is_mounted() -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return any(line.split(" ")[4] == PLACE for line in lines)


def is_there() -> bool:
    try:
        os.lstat(PLACE)
    except OSError:
        return False
    return True


def end_if_idle() -> None:
    """Let the holder end where no CT needs it; called when the daemon is told to end."""
    try:
        with open(LOCK, encoding="ascii") as file:
            pid = int(file.read() or 0)
        if pid and not needed():
            os.kill(pid, _signal.SIGTERM)
    except (OSError, ValueError):
        pass


def needed() -> bool:
    """Tell whether there is a record of a CT."""
    return any(name.isdecimal() and load_record(int(name)) is not None for name in os.listdir(RUN))


def _hold(lock: int, fd: int) -> None:
    """Become the holder, in a forked child; does not return."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    if os.fork():
        os._exit(0)
    serving.keep_only([lock, fd])
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write("vz-procholder")
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    _signal.signal(_signal.SIGTERM, lambda *_: _end(0))
    while True:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _serve(fd)
        _signal.signal(_signal.SIGTERM, lambda *_, pid=pid: _end(pid))
        if not _watch(pid, fd):
            _end(pid)
        _signal.signal(_signal.SIGTERM, lambda *_: _end(0))
        os.waitpid(pid, 0)
        if time.monotonic() - began < 1.0:
            time.sleep(0.05)


def _end(pid: int) -> None:
    """Unmount and end, the server *pid* first; also as a handler of signals, which poll(2) is not ended by here."""
    if pid:
        os.kill(pid, _signal.SIGKILL)
    mounts.umount(PLACE, mounts.MNT_DETACH)
    os._exit(0)


def _serve(fd: int) -> None:
    from vz.node.procserver import Server

    try:
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        with open("/proc/self/comm", "w", encoding="ascii") as comm:
            comm.write("vz-procserver")
        Server(fd).serve()
    finally:
        os._exit(0)


def _watch(pid: int, fd: int) -> bool:
    """Return True when the server has ended, False when nobody needs it; kill one that takes no request."""
    server = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(server, select.POLLIN)
    poll.register(fd, select.POLLIN)
    spent, since = -1, 0.0
    needless = False
    while not needless:
        seen = {number: event for number, event in poll.poll(LOOK_S * 1000)}
        if server in seen:
            break
        now = time.monotonic()
        if not seen:
            needless = not daemon_runs() and not needed()
        elif switches(pid) != spent:
            spent, since = switches(pid), now
        elif now - since >= SILENT_S:
            os.kill(pid, _signal.SIGKILL)
        if seen:
            alone = select.poll()
            alone.register(server, select.POLLIN)
            alone.poll(250)
    os.close(server)
    return not needless


def switches(pid: int) -> int:
    """Return how often the server has run so far."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0])


def daemon_runs() -> bool:
    from vz.node.daemon import PID_FILE

    try:
        fd = os.open(PID_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
