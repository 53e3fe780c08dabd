"""Control groups: where each controller is mounted, and reading and writing their files.

A controller is on version 2 when the cgroup2 root lists it, else on version 1 where that is mounted; hosts mix
(“hybrid”).  Mounts are found in /proc/self/mountinfo, never guessed; see cgroups(7).
"""

from __future__ import annotations

import errno
import os
import time

V1_CONTROLLERS = (
    *("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"),
    *("net_cls", "net_prio", "hugetlb", "perf_event", "rdma", "misc"),
)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Hierarchies:
    """The mounted hierarchies: *unified* is the cgroup2 mount ("" for none), *v1* maps a controller to its mount,
    *v1_mounts* has each version 1 mount once (named hierarchies too), *v2* the controllers of the cgroup2 root."""

    __slots__ = ("unified", "v1", "v1_mounts", "v2")

    def __init__(self, unified: str, v1: dict[str, str], v1_mounts: list[str], v2: frozenset[str]) -> None:
        self.unified = unified
        self.v1 = v1
        self.v1_mounts = v1_mounts
        self.v2 = v2

    def version(self, controller: str) -> int:
        """Return 2 or 1, or 0 when the kernel offers *controller* nowhere."""
        if controller in self.v2:
            return 2
        return 1 if controller in self.v1 else 0


_found: Hierarchies | None = None


def hierarchies() -> Hierarchies:
    """Return the host's hierarchies, looked for once."""
    global _found
    if _found is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            _found = parse_mounts(table.read())
    return _found


def parse_mounts(text: str) -> Hierarchies:
    """Find the hierarchies in the *text* of a mountinfo file; one that shows a hierarchy's top comes first."""
    unified = ""
    v1: dict[str, str] = {}
    v1_mounts: list[str] = []
    lines = [line for line in text.splitlines() if " - cgroup" in line]
    lines.sort(key=lambda line: line.split(" ")[3] != "/")
    for line in lines:
        left, _, right = line.partition(" - cgroup")
        if not right:
            continue
        fields = left.split(" ")
        path = fields[4].replace("\\040", " ")
        if not right.startswith(("2 ", " ")):
            continue
        if right.startswith("2 "):
            unified = unified or path
            continue
        words = right.split(" ")[-1].split(",")
        names = [word for word in words if word in V1_CONTROLLERS or word.startswith("name=")]
        if names and names[0] not in v1:  # a hierarchy can be mounted twice
            v1_mounts.append(path)
            for name in names:
                v1[name] = path
    v2: frozenset[str] = frozenset()
    if unified:
        try:
            v2 = frozenset(read(unified, "cgroup.controllers").split())
        except OSError:
            pass
    return Hierarchies(unified, v1, v1_mounts, v2)


def read(path: str, key: str) -> str:
    """Return the text of interface file *key* of the cgroup *path*, without its line end."""
    fd = os.open(f"{path}/{key}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
    finally:
        os.close(fd)
    return b"".join(chunks).decode().strip()


def write(path: str, key: str, value: str | int) -> None:
    """Write one interface file; ENOENT: the controller is not enabled here."""
    file = f"{path}/{key}"
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)  # no O_CREAT: the kernel makes these files
    try:
        os.write(fd, str(value).encode())  # one write(2) is one whole value
    except OSError as exc:
        raise OSError(exc.errno, f"{exc.strerror}: {value!r}", file) from exc
    finally:
        os.close(fd)


def make(path: str) -> bool:
    """Make cgroup *path*; False when it was there."""
    try:
        os.mkdir(path, 0o755)
        return True
    except FileExistsError:
        return False


def make_path(path: str) -> None:
    """Make cgroup *path* with what is missing above it."""
    try:
        make(path)
    except FileNotFoundError:
        make_path(os.path.dirname(path))
        make(path)


def remove(path: str, patience_s: float = 2.0) -> None:
    """Remove cgroup *path* and those below it; a memory group is busy for some milliseconds after its last process.

    Raises:
        OSError: EBUSY: processes are still in it after *patience_s*.
    """
    deadline = time.monotonic() + patience_s
    pause_s = 0.001
    while True:
        try:
            _remove_tree(path)
            return
        except OSError as exc:
            if exc.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


def _remove_tree(path: str) -> None:
    """Remove *path* and what is below it, deepest first.

    With one descriptor and without recursion: a CT can nest its groups deeper than a path is long, than Python
    recurses, and than a process may have files open.
    """
    top, name = os.path.split(path)
    try:
        here = os.open(top, _DIRECTORY)
    except FileNotFoundError:
        return
    names = [name]  # the last one lies in *here*
    try:
        while names:
            try:
                os.rmdir(names[-1], dir_fd=here)
            except FileNotFoundError:
                pass
            except OSError as exc:
                if exc.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise
                here, before = os.open(names[-1], _DIRECTORY, dir_fd=here), here
                os.close(before)
                child = _a_child(here)
                if not child:
                    raise  # processes are in it
                names.append(child)
                continue
            names.pop()
            if names:
                here, before = os.open("..", _DIRECTORY, dir_fd=here), here
                os.close(before)
    finally:
        os.close(here)


def _a_child(fd: int) -> str:
    with os.scandir(fd) as entries:
        return next((entry.name for entry in entries if entry.is_dir(follow_symlinks=False)), "")
