"""The cgroups of one CT: made, joined, frozen, killed and removed.

In the cgroup2 tree, with or without controllers: ``PARENT/CTID`` (freezer, device filter) and in it ``ct`` (limits;
root of the CT's cgroup namespace; only its process files are delegated).  On version 1: ``PARENT/CTID`` in the
hierarchies of the controllers in V1_OWN, nothing delegated, never mounted inside; in the others all CTs share PARENT,
since each directory costs the node 6 to 9 kB.
"""

from __future__ import annotations

import _signal
import errno
import os
import select
import time

from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import cgroup
from vz.kernel.process import CLONE_INTO_CGROUP, clone

DELEGATED = ("", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control")
V1_OWN = ("cpu", "cpuset", "memory", "devices", "pids")
V1_ON_DEMAND = ("blkio",)  # a CT's own where it is there: made by the first limit
WANTED = ("cpu", "cpuset", "memory", "io", "pids")
EXEC_LEAF = "vz-exec"
# what a CT may nest: systemd and a container engine inside need about ten levels; each group costs the node memory
MAX_DEPTH, MAX_DESCENDANTS = 64, 8192


def ct_dir(ct: Container) -> str:
    """Return the CT's own cgroup2 directory (freezer level), "" on a host without cgroup2."""
    unified = cgroup.hierarchies().unified
    return f"{unified}/{ct.node.cgroup_parent}/{ct.ctid}" if unified else ""


def v1_dir(ct: Container, controller: str) -> str:
    return f"{cgroup.hierarchies().v1[controller]}/{ct.node.cgroup_parent}/{ct.ctid}"


def limit_dir(ct: Container, controller: str) -> tuple[int, str]:
    """Return (version, directory) of the CT's limits of *controller*; (0, "") where the kernel has none."""
    version = cgroup.hierarchies().version(controller)
    if version == 2:
        return 2, f"{ct_dir(ct)}/ct"
    return (1, v1_dir(ct, controller)) if version == 1 else (0, "")


def exists(ct: Container) -> bool:
    """Tell whether the CT has cgroups, alive or left over."""
    path = ct_dir(ct)
    return os.path.isdir(path) if path else any(os.path.isdir(d) for d in _v1_dirs(ct))


def create(ct: Container) -> None:
    """Make the CT's cgroups with its limits.

    Raises:
        VzError: no cgroup2 tree (5), or a limit that the configuration asks for cannot be set (its own status).
    """
    from vz.resources import devices, limits

    places = cgroup.hierarchies()
    if not places.unified:
        raise VzError(
            "No cgroup2 file system is mounted (/sys/fs/cgroup or /sys/fs/cgroup/unified)", ExitCode.BAD_KERNEL
        )
    try:
        try:
            for mount, own_path in _v1_places(ct):
                _make_v1(mount, own_path)
            own = ct_dir(ct)
            _make_v2(places, own)
            cgroup.write(own, "cgroup.max.depth", MAX_DEPTH)
            cgroup.write(own, "cgroup.max.descendants", MAX_DESCENDANTS)
            base = ct.idmap[0]
            for name in DELEGATED:
                os.chown(f"{own}/ct{name}", base, base)
        except OSError as exc:
            raise VzError(f"Unable to make cgroups: {exc.filename}: {exc.strerror}", ExitCode.ENVCREATE_ERROR) from exc
        limits.apply(ct, None)
        devices.apply(ct)
    except BaseException:
        remove(ct)
        raise


def fork_into(ct: Container, leaf: str = "") -> int:
    """Fork a child into the CT's cgroups and return as fork(2) does; its next cgroup namespace starts there.

    *leaf* EXEC_LEAF is for exec: systemd makes ``ct`` an inner node, which takes no process on version 2.
    """
    path = f"{ct_dir(ct)}/ct{'/' + leaf if leaf else ''}"
    try:
        group = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        cgroup.make(path)
        group = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pid = clone(CLONE_INTO_CGROUP, group)
    finally:
        os.close(group)
    if pid == 0:
        try:
            for _, folder in _v1_places(ct):
                # "0" into tasks, from a single thread: since Linux 5.18 this goes without the lock that waits for RCU
                _enter(f"{folder}/tasks")
        except BaseException as exc:  # must not unwind into what the parent does, its undo first of all
            os.write(2, f"Unable to join the cgroups of CT {ct.ctid}: {exc}\n".encode())
            os._exit(126)
    return pid


def freeze(ct: Container, timeout_s: float = 10.0) -> None:
    """Freeze all processes of the CT and wait until they are; VzError when some does not stop."""
    path = ct_dir(ct)
    cgroup.write(path, "cgroup.freeze", 1)
    if not _wait_event(path, "frozen 1", timeout_s):
        cgroup.write(path, "cgroup.freeze", 0)
        raise VzError(f"Unable to freeze the container within {timeout_s:.0f} s")


def thaw(ct: Container) -> None:
    """Let a frozen CT go on; nothing where it is not frozen."""
    path = ct_dir(ct)
    try:
        if is_frozen(ct):
            cgroup.write(path, "cgroup.freeze", 0)
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise


def is_frozen(ct: Container) -> bool:
    try:
        return cgroup.read(ct_dir(ct), "cgroup.freeze") == "1"
    except OSError:
        return False


def pids(ct: Container) -> list[int]:
    """Return the CT's processes as the node counts them, those that were brought in included."""
    return _pids(ct_dir(ct))


def cpus(ct: Container) -> set[int]:
    """Return the CPUs that the CT may use."""
    version, path = limit_dir(ct, "cpuset")
    if not version:
        return os.sched_getaffinity(0)
    try:
        text = cgroup.read(path, "cpuset.effective_cpus" if version == 1 else "cpuset.cpus.effective")
    except OSError:
        return os.sched_getaffinity(0)
    found: set[int] = set()
    for word in text.split(","):
        first, _, last = word.partition("-")
        if first.isdecimal():
            found.update(range(int(first), int(last or first) + 1))
    return found


def kill_all(ct: Container, timeout_s: float = 10.0) -> None:
    """Kill every process of the CT, those in a fork bomb too, and wait until they have gone."""
    path = ct_dir(ct)
    if not path or not os.path.isdir(path):
        return
    try:
        if "populated 0" in cgroup.read(path, "cgroup.events"):
            return
        cgroup.write(path, "cgroup.kill", 1)
    except FileNotFoundError:  # before Linux 5.14: no cgroup.kill
        _kill_by_signal(path)
    _wait_event(path, "populated 0", timeout_s)


def remove(ct: Container) -> None:
    """Remove the CT's cgroups.

    Raises:
        VzError: a process that cannot be killed is still in one (33).
    """
    own = ct_dir(ct)
    for path in [*_v1_dirs(ct), *([own] if own else [])]:
        try:
            cgroup.remove(path)
        except OSError as exc:
            raise VzError(f"Unable to remove cgroup {path}: {exc.strerror}", ExitCode.STOP_ERROR) from exc


def _v1_places(ct: Container) -> list[tuple[str, str]]:
    """Return (mount, the CT's directory there) of each version 1 hierarchy."""
    places = cgroup.hierarchies()
    own = {places.v1[name] for name in V1_OWN if name in places.v1}
    parent = ct.node.cgroup_parent
    for name in V1_ON_DEMAND:
        mount = places.v1.get(name)
        if mount and os.path.isdir(f"{mount}/{parent}/{ct.ctid}"):
            own.add(mount)
    return [
        (mount, f"{mount}/{parent}/{ct.ctid}" if mount in own else f"{mount}/{parent}") for mount in places.v1_mounts
    ]


def _v1_dirs(ct: Container) -> list[str]:
    """Return the version 1 directories that are the CT's alone."""
    shared = ct.node.cgroup_parent
    return [path for mount, path in _v1_places(ct) if path != f"{mount}/{shared}"]


def _make_v1(mount: str, path: str) -> None:
    """Make version 1 cgroup *path*; a cpuset has to be filled before anything can join it."""
    try:
        cgroup.make(path)
    except FileNotFoundError:
        _make_v1(mount, os.path.dirname(path))
        cgroup.make(path)
    if cgroup.hierarchies().v1.get("cpuset") == mount:
        for key in ("cpuset.cpus", "cpuset.mems"):
            _fill(mount, path, key)


def _fill(mount: str, path: str, key: str) -> str:
    """Return *key* of cpuset *path*, filled from above when it is empty: who made a parent may not have come to it."""
    value = cgroup.read(path, key)
    if not value and path != mount:
        value = _fill(mount, os.path.dirname(path), key)
        cgroup.write(path, key, value)
    return value


def _make_v2(places: cgroup.Hierarchies, own: str) -> None:
    """Make ``own`` and ``own/ct`` with the controllers we use switched on down to them."""
    wanted = [name for name in WANTED if name in places.v2]
    parent = os.path.dirname(own)
    try:
        cgroup.make(own)
        missing = _enable(parent, wanted)
    except FileNotFoundError:
        missing = wanted or [""]
    if missing:  # the parent is new, or made by somebody (systemd, an admin) who left controllers out: the whole way
        path = places.unified
        for part in os.path.relpath(own, places.unified).split("/"):
            _enable(path, wanted)
            path = f"{path}/{part}"
            cgroup.make(path)
    _enable(own, wanted)
    cgroup.make(f"{own}/ct")


def _enable(path: str, wanted: list[str]) -> list[str]:
    """Switch the controllers *wanted* on for the children of *path* and return those that the kernel refused.

    One refusal (cpu while real-time tasks live in a group, say) must not cost the others; a limit that needs a
    controller which is not there is refused by its writer.
    """
    if not wanted:
        return []
    enabled = cgroup.read(path, "cgroup.subtree_control").split()
    missing = [name for name in wanted if name not in enabled]
    if not missing:
        return []
    try:
        cgroup.write(path, "cgroup.subtree_control", " ".join(f"+{name}" for name in missing))
        return []
    except OSError:
        pass
    refused = []
    for name in missing:
        try:
            cgroup.write(path, "cgroup.subtree_control", f"+{name}")
        except OSError:
            refused.append(name)
    return refused


def _enter(file: str) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


def _wait_event(path: str, wanted: str, timeout_s: float) -> bool:
    """Wait until cgroup.events of *path* has the line *wanted*; the kernel wakes a poll on it at each change."""
    try:
        fd = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    deadline = time.monotonic() + timeout_s
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while wanted not in os.pread(fd, 4096, 0).decode():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(min(left, 1.0) * 1000)
        return True
    finally:
        os.close(fd)


def _pids(path: str) -> list[int]:
    found: list[int] = []
    for folder, _, _ in os.walk(path):
        try:
            found += [int(word) for word in cgroup.read(folder, "cgroup.procs").split()]
        except OSError:
            continue  # it has gone, or is a threaded one, whose processes are named above it
    return found


def _kill_by_signal(path: str) -> None:
    for _ in range(100):
        left = _pids(path)
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.01)
