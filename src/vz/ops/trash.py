"""Deferred removal: a private area is renamed into ``vztmp`` on its own file system and deleted in the background.

The commands return at once.  Whatever a killed deleter leaves there, the next one takes with it.
"""

from __future__ import annotations

import fcntl
import os

from vz.container import ids
from vz.kernel.files import make_dirs
from vz.kernel.mountinfo import is_mount_point
from vz.kernel.process import close_from, which

PREFIX = "vzctl-rm-me."


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


def discard(path: str, ticket: tuple[int, int, int] | None = None) -> None:
    """Move directory *path* out of sight and have it deleted in the background; then the ids of *ticket* are given
    back: (first, count, CT that they are kept for).

    A symbolic link is only unlinked; its ids stay taken.  OSError as rename(2).
    """
    if os.path.islink(path):
        os.unlink(path)
        return
    folder = holder(path)
    make_dirs(folder, 0o700)
    os.chmod(folder, 0o700)  # set-uid files come there
    name = f"{PREFIX}{os.urandom(6).hex()}"
    if ticket:  # first: a deleter at work would take the directory without it
        os.symlink(" ".join(map(str, ticket)), f"{folder}/{name}.ticket")
    os.rename(path, f"{folder}/{name}")
    sweep(folder)


def sweep(folder: str) -> None:
    """Start a background deleter of all that lies in *folder*; one at a time, the last one sees everything."""
    pid = os.fork()
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
    fcntl.flock(lock, fcntl.LOCK_EX)
    rm = which("rm")
    for name in sorted(os.listdir(folder)):
        if not name.startswith(PREFIX) or name.endswith(".ticket"):
            continue
        path = f"{folder}/{name}"
        pid = os.posix_spawn(rm, ["rm", "-rf", "--one-file-system", "--", path], {})
        os.waitpid(pid, 0)
        if os.path.lexists(path):
            continue  # immutable files or a mount in it: its ids stay taken
        try:
            words = os.readlink(f"{path}.ticket").split()
        except FileNotFoundError:
            continue
        if len(words) == 3 and all(word.isdecimal() for word in words):
            ids.release(int(words[0]), int(words[1]), int(words[2]))
        os.unlink(f"{path}.ticket")
