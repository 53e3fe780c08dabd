"""The processes of a CT as the node's /proc shows them: who is who, who belongs to the tree of init, who does not."""

from __future__ import annotations

import os

from vz.container.ct import printable


class Process:
    """One process: pids on the node and inside, its parent on the node, its name, and who traces it (0: nobody)."""

    __slots__ = ("inner", "name", "pid", "ppid", "state", "threads", "tracer")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.inner = 0
        self.ppid = 0
        self.name = "?"
        self.state = "?"
        self.threads = 1
        self.tracer = 0

    @property
    def label(self) -> str:
        """How a message names it."""
        inside = f"{self.inner} inside, " if self.inner else ""
        return f"process {printable(self.name)} ({inside}pid {self.pid} on the node)"


def read_table(pids: list[int]) -> dict[int, Process]:
    """Return the processes with *pids* that are still there; see proc(5), /proc/PID/status."""
    found = {}
    for pid in pids:
        process = read_process(pid)
        if process is not None:
            found[pid] = process
    return found


def read_process(pid: int) -> Process | None:
    """Return process *pid*; None when there is none (any more)."""
    try:
        fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 16384).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(fd)
    process = Process(pid)
    for line in text.split("\n"):
        key, _, value = line.partition(":")
        value = value.strip()
        if key == "Name":
            process.name = value
        elif key == "State":
            process.state = value[:1]
        elif key == "PPid":
            process.ppid = int(value)
        elif key == "TracerPid":
            process.tracer = int(value)
        elif key == "NSpid":
            process.inner = int(value.split()[-1])
        elif key == "Threads":
            process.threads = int(value)
    return process


def in_vfork(pids: list[int]) -> int:
    """Return a frozen process with a thread that waits in vfork(2) for a child to execute its program; 0: none.

    criu cannot stop it before the child goes on, which is frozen too.  All others sleep interruptibly while frozen by
    cgroup version 2.
    """
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                fd = os.open(f"/proc/{pid}/task/{thread}/stat", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if os.read(fd, 512).rpartition(b") ")[2].startswith(b"D"):
                        return pid
                finally:
                    os.close(fd)
        except OSError:
            continue  # it has ended
    return 0


class Calls:
    """Which system call the code of a stopped thread makes, for threads of *pids* by their tid inside the CT."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids
        self.threads: dict[int, int] = {}

    def before(self, tid: int, ip: int) -> int:
        """Return the number that the instructions before address *ip* of thread *tid* call with; 0: not to be seen.

        As glibc's wrappers have it: "mov $NUMBER, %eax; syscall".
        """
        if not self.threads:
            self.threads = _threads(self.pids)
        try:
            fd = os.open(f"/proc/{self.threads.get(tid, 0)}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            code = os.pread(fd, 7, ip - 7)
        except OSError:
            return 0
        finally:
            os.close(fd)
        return int.from_bytes(code[1:5], "little") if code[:1] == b"\xb8" and code[5:] == b"\x0f\x05" else 0


def _threads(pids: list[int]) -> dict[int, int]:
    """Return {tid inside: tid on the node} of all threads of *pids*."""
    found = {}
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                process = read_process(int(thread))
                if process is not None:
                    found[process.inner] = int(thread)
        except OSError:
            continue  # it has ended
    return found


def outsiders(table: dict[int, Process], init_pid: int) -> list[Process]:
    """Return the processes that do not descend from init: entered from the node, they would be lost."""
    inside = {init_pid}
    found = []
    for process in table.values():
        path = []
        at = process.pid
        while at not in inside and at in table and at not in path:
            path.append(at)
            at = table[at].ppid
        if at in inside:
            inside.update(path)
        elif process.state != "Z":
            found.append(process)
    return found


def thread_ids(pid: int) -> list[int]:
    """Return the ids of the threads of *pid*."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def inner_id(tid: int) -> int:
    """Return the id that thread *tid* has in its own pid namespace, 0 when it is gone."""
    process = read_process(tid)
    return process.inner if process is not None else 0
