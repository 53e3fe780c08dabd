"""Deferred removal: a private area is renamed into ``vztmp`` on its own file system and deleted in the background.

The commands return at once.  Whatever a killed deleter leaves there, the next one takes with it.
"""

from __future__ import annotations

import fcntl
import os
import time

from vz.container import ids
from vz.kernel.files import is_flocked, make_dirs
from vz.kernel.mountinfo import is_mount_point, keeps_project_quota
from vz.kernel.process import close_from, which

PREFIX = "vzctl-rm-me."
RETRIES_S = (0.05, 0.2, 0.8)


def holder(path: str) -> str:
    """Return the ``vztmp`` directory for *path*: at the top of its file system where that is the area's own
    (``/vz``), else beside it."""
    folder = os.path.dirname(path.rstrip("/"))
    device = os.stat(folder).st_dev
    top = folder
    while top != "/" and not is_mount_point(top):
        above = os.path.dirname(top)
        if above == "/" or os.stat(above).st_dev != device:
            break
        top = above
    return f"{top}/vztmp"


def discard(path: str, ids_of: tuple[int, int] | None = None) -> None:
    """Move directory *path* out of sight and have it deleted in the background.

    *ids_of* is (first host id, CTID) of a range that was retired: it goes back to the pool after that.  It is part of
    the new name, so that the one rename(2) is all there is to be killed in.  A symbolic link is only unlinked.
    OSError as rename(2).
    """
    if os.path.islink(path):
        os.unlink(path)
        return
    folder = holder(path)
    if keeps_project_quota(path):
        from vz.disk import quota

        quota.forget(path)
    make_dirs(folder, 0o700)
    about = f"{ids_of[0]}.{ids_of[1]}." if ids_of is not None else ""
    os.chmod(folder, 0o700)  # set-uid files come there
    os.rename(path, f"{folder}/{PREFIX}{about}{os.urandom(6).hex()}")
    sweep(folder)


def sweep_leftovers(path: str, ctid: int) -> bool:
    """Start a deleter for what a killed one has left beside *path*; tell whether some of it was CT *ctid*'s."""
    try:
        folder = holder(path)
        found = [name.removeprefix(PREFIX) for name in os.listdir(folder) if name.startswith(PREFIX)]
        if not found:
            return False
        idle = not (os.path.exists(f"{folder}/rm.lck") and is_flocked(f"{folder}/rm.lck"))
        sweep(folder)
        return idle and any(name.split(".")[1:2] == [str(ctid)] for name in found)
    except OSError:
        return False


def sweep(folder: str) -> None:
    """Start a background deleter of all that lies in *folder*; where one is at work it takes care of this too.

    Where no process is to be had, what can be deleted here is, and the rest is the next deleter's.
    """
    try:
        pid = os.fork()
    except OSError:
        try:
            _delete_all(folder)
        except OSError:
            pass
        return
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        close_from(3)
        _delete_all(folder)
    finally:
        os._exit(0)


def _delete_all(folder: str) -> None:
    lock = os.open(f"{folder}/rm.lck", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    kept: set[str] = set()  # immutable files or a mount in it: its ids stay taken
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # that one looks again after it has let go
        while names := [name for name in sorted(os.listdir(folder)) if name.startswith(PREFIX) and name not in kept]:
            for name in names:
                if not _delete(folder, name):
                    kept.add(name)
        fcntl.flock(lock, fcntl.LOCK_UN)
        if not any(name.startswith(PREFIX) and name not in kept for name in os.listdir(folder)):
            return


def _delete(folder: str, name: str) -> bool:
    path = f"{folder}/{name}"
    for pause_s in RETRIES_S:  # a node that has no process to spare for a moment
        try:
            pid = os.posix_spawn(which("rm"), ["rm", "-rf", "--one-file-system", "--", path], {})
        except OSError:
            time.sleep(pause_s)
            continue
        os.waitpid(pid, 0)
        break
    if os.path.lexists(path):
        return False
    words = name.removeprefix(PREFIX).split(".")
    if len(words) == 3 and words[0].isdecimal() and words[1].isdecimal():
        ids.release(int(words[0]), int(words[1]), destroyed=True)
    return True
