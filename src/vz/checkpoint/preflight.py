"""What a dump of a running CT would stumble over, by process and file, before anything is frozen.

Everything is read from the node's /proc; nothing of the CT's own file systems is opened.  What cannot be seen from
there (a connection that nobody has accepted yet, say) is left to criu and a second try.
"""

from __future__ import annotations

import os

from vz.checkpoint import sockets, terminals
from vz.checkpoint.processes import Process, outsiders, read_table
from vz.container.ct import printable
from vz.container.record import Record
from vz.kernel.mountinfo import mount_id
from vz.kernel.process import descriptors

NAMESPACES = {
    "pid": "runs in a pid namespace of its own",
    "uts": "has a host name of its own (uts namespace)",
    "ipc": "has an ipc namespace of its own",
    "user": "runs in a user namespace of its own",
    "time": "has clocks of its own (time namespace)",
}
ENGINE = "stop the program, most likely a container engine or a sandbox; features nesting:off keeps them out"
# link texts of descriptors that criu cannot dump: a prefix, what it is, the way out
DESCRIPTORS = (
    ("anon_inode:[io_uring]", "io_uring", "set it to use AIO (MariaDB: innodb_use_native_aio=0), or stop it"),
    ("anon_inode:io_uring", "io_uring", "set it to use AIO (MariaDB: innodb_use_native_aio=0), or stop it"),
    ("anon_inode:bpf", "a BPF program or map", "stop it"),
    ("anon_inode:[bpf", "a BPF program or map", "stop it"),
    ("anon_inode:btf", "BPF type information", "stop it"),
    ("anon_inode:[userfaultfd]", "userfaultfd", "stop it"),
    ("anon_inode:[fanotify]", "fanotify marks, which would be lost", "stop it, and start it again after the restore"),
    ("anon_inode:[perf_event]", "a performance counter", "stop the profiler"),
    ("anon_inode:[landlock-ruleset]", "a Landlock rule set", "stop it"),
    ("anon_inode:kvm", "a virtual machine", "shut the machine down"),
    ("anon_inode:[kvm", "a virtual machine", "shut the machine down"),
    ("anon_inode:dma", "a buffer of a device", "stop it"),
    ("/secretmem", "secret memory", "stop it"),
)
PROC_SOURCE = "vzproc"  # as kernel/fuse.py mounts it; a CT has no /dev/fuse to make another
FILE_SYSTEMS = {
    "fuse": "stop what serves it and unmount it",
    "nfs": "unmount it",
    "nfs4": "unmount it",
    "cifs": "unmount it",
    "ceph": "unmount it",
    "9p": "unmount it",
    "hugetlbfs": "unmount it",
}
# character devices whose open descriptors criu carries: (major, minor), None for any minor
DEVICES = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (1, 11), (5, 0), (5, 2), (10, 200)}
PTS_MAJORS = range(136, 144)


def look(record: Record, pids: list[int]) -> tuple[list[str], int]:
    """Return (a line for each thing that would fail, the size of the largest unlinked file that is open)."""
    table = read_table(pids)
    found = [
        f"network device {printable(n)} is lent to the container: set --netdev_del it first" for n in record.netdevs
    ]
    found += [_entered(process) for process in outsiders(table, record.init_pid)]
    reference = {name: _namespace(record.init_pid, name) for name in NAMESPACES}
    seen_mounts: set[str] = set()
    mount_ids: set[int] = set()
    ghost_bytes = 0
    for process in table.values():
        if process.state == "Z":
            continue
        found += _tracing(process, table)
        for name, words in NAMESPACES.items():
            other = _namespace(process.pid, name)
            if other and other != reference[name]:
                found.append(f"{process.label} {words}: {ENGINE}")
        mounts = _namespace(process.pid, "mnt")
        if mounts and mounts not in seen_mounts:
            seen_mounts.add(mounts)
            rows = _mountinfo(process.pid)
            mount_ids |= _mount_ids(rows)
            found += [line for line in _mounts(process, rows) if line not in found]
    for process in table.values():
        lines, largest = _descriptors(process, mount_ids)
        found += lines
        ghost_bytes = max(ghost_bytes, largest)
    for tty in terminals.stray(list(table)):
        label = table[tty.pid].label
        found.append(
            f"{label} has /dev/tty open (descriptor {tty.fd}), and nobody has that terminal otherwise: stop it"
        )
    return found, ghost_bytes


def entered(record: Record, pids: list[int]) -> list[str]:
    """Return a line for each process that came in from the node and would be lost."""
    return [_entered(process) for process in outsiders(read_table(pids), record.init_pid)]


def _entered(process: Process) -> str:
    return (
        f"{process.label} was brought in by vzctl exec, enter or the like and would be lost: "
        "let it end, or start it as a service of the container"
    )


def _tracing(process: Process, table: dict[int, Process]) -> list[str]:
    if not process.tracer:
        return []
    tracer = table.get(process.tracer)
    by = f"by {tracer.label}" if tracer is not None else f"from the node, by process {process.tracer}"
    return [f"{process.label} is traced {by}: detach the debugger"]


def _namespace(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{name}")
    except OSError:
        return ""


def _mountinfo(pid: int) -> list[list[str]]:
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return [line.split() for line in file]
    except OSError:
        return []


def _mount_ids(rows: list[list[str]]) -> set[int]:
    return {int(row[0]) for row in rows}


def _mounts(process: Process, rows: list[list[str]]) -> list[str]:
    """Return the mounts in the namespace of *process* that criu cannot make again, and queues that are in use."""
    root = next((row[2] for row in rows if row[4] == "/"), "")
    found = []
    for row in rows:
        kind, target = row[row.index("-") + 1], printable(row[4].replace("\\040", " "))
        name = kind.partition(".")[0]
        where = f"mount of {kind} on {target} (seen by {process.label})"
        if kind == "overlay" and row[2] != root:
            found.append(f"{where}: overlay mounts inside cannot be restored: stop the container engine, or unmount it")
        elif kind == "fuse" and row[row.index("-") + 2] == PROC_SOURCE:
            continue  # of the node's own server: external to the dump
        elif name in FILE_SYSTEMS and kind != "fusectl":
            found.append(f"{where} cannot be carried: {FILE_SYSTEMS[name]}")
        elif kind == "mqueue" and row[4] == "/dev/mqueue":
            found += _queues(process)
    return found


def _queues(process: Process) -> list[str]:
    """Return the POSIX message queues that there are; only where /dev/mqueue is one, never through a link."""
    from vz.kernel.openat import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

    try:
        root = os.open(f"/proc/{process.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        folder = openat2(root, "dev/mqueue", os.O_RDONLY | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    except OSError:
        return []
    finally:
        os.close(root)
    try:
        names = os.listdir(folder)
    finally:
        os.close(folder)
    return [f"POSIX message queue /{printable(name)} exists: end what uses it and remove it" for name in names]


def _descriptors(process: Process, mount_ids: set[int]) -> tuple[list[str], int]:
    """Return (a line for each kind of descriptor that cannot be dumped, the size of the largest unlinked file).

    *mount_ids*: of all mounts in the CT's mount namespaces.
    """
    found: dict[str, None] = {}
    largest = 0
    for fd, link in descriptors(process.pid):
        path = f"/proc/{process.pid}/fd/{fd}"
        try:
            if link.startswith("socket:"):
                words = _socket(process.pid, fd)
                if words:
                    found[f"{process.label} has {words} open (descriptor {fd}): stop it"] = None
            elif link.startswith("/dev/") and not link.endswith("(deleted)"):
                words = _device(path)
                if words:
                    found[f"{process.label} has {words} {printable(link)} open (descriptor {fd}): stop it"] = None
            elif link.endswith(" (deleted)") and not link.startswith(("/memfd:", "/dev/zero", "/SYSV")):
                largest = max(largest, os.stat(path).st_size)
            elif link.startswith("/") and not link.endswith(" (deleted)") and _has_gone(process, fd, mount_ids):
                found[
                    f"{process.label} has {printable(link)} open (descriptor {fd}) on a mount that has gone, with a "
                    "service that was restarted, say: end or restart it (where that was logind: a session from before)"
                ] = None
            for prefix, what, way in DESCRIPTORS:
                if what and link.startswith(prefix):
                    found[f"{process.label} uses {what} (descriptor {fd}): {way}"] = None
                    break
        except OSError:
            continue
    return list(found), largest


def _has_gone(process: Process, fd: int, mount_ids: set[int]) -> bool:
    """Tell whether the mount of a descriptor is in no mount namespace; some may be younger than *mount_ids*."""
    number = mount_id(fd, process.pid)
    return number not in mount_ids and number not in _mount_ids(_mountinfo(process.pid))


def _device(path: str) -> str:
    """Return what kind of device is open at *path*, "" for one that criu carries and for what is none."""
    import stat

    status = os.stat(path)
    if stat.S_ISBLK(status.st_mode):
        return "block device"
    if not stat.S_ISCHR(status.st_mode):
        return ""
    number = os.major(status.st_rdev), os.minor(status.st_rdev)
    return "" if number in DEVICES or number[0] in PTS_MAJORS else "device"


def _socket(pid: int, fd: int) -> str:
    sock = sockets.open_socket(pid, fd)
    if sock is None:
        return ""
    try:
        return sockets.refused(sock)
    finally:
        sock.close()
