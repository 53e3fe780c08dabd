"""The host's settings that test nodes need raised: put back by the last node, of whichever session, or after a killed one."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# what hundreds of CTs need
SYSCTLS = {
    "fs/inotify/max_user_instances": 65536,
    "fs/inotify/max_user_watches": 1048576,
    "kernel/pid_max": 4194304,
    "kernel/keys/maxkeys": 200000,
    "kernel/pty/max": 65536,
}
NOTE = Path("/run/vz-test-settings")  # what they were, and which nodes hold them
TOP = Path("/proc/sys")


def start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def locked() -> int:
    """Return the note, open and locked."""
    while True:
        fd = os.open(NOTE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if NOTE.exists() and os.path.samestat(os.fstat(fd), NOTE.stat()):
            return fd
        os.close(fd)  # whoever had the lock has removed it


@contextmanager
def noted() -> Iterator[dict[str, dict[str, str]]]:
    """Yield {"saved": {name: value}, "nodes": {name: "pid starttime"}} to change; nobody else does meanwhile."""
    fd = locked()
    try:
        text = os.pread(fd, 1 << 20, 0)
        found = json.loads(text) if text.strip() else {"saved": {}, "nodes": {}}
        for name, owner in list(found["nodes"].items()):
            pid, _, start = owner.partition(" ")
            if start_time(int(pid)) != start:
                del found["nodes"][name]
        yield found
        if found["nodes"]:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(found).encode(), 0)
        else:
            NOTE.unlink()
    finally:
        os.close(fd)


def hold(node: str) -> None:
    """Raise what is too low while *node* lives."""
    with noted() as found:
        found["nodes"][node] = f"{os.getpid()} {start_time(os.getpid())}"
        for name, value in SYSCTLS.items():
            path = TOP / name
            if not path.exists() or int(path.read_text()) >= value:
                continue
            before = path.read_text().strip()
            try:
                path.write_text(str(value))
            except OSError:
                continue
            found["saved"].setdefault(name, before)


def let_go(node: str) -> None:
    """Put everything back if *node* was the last."""
    with noted() as found:
        found["nodes"].pop(node, None)
        if not found["nodes"]:
            for name, value in found["saved"].items():
                (TOP / name).write_text(value)
            found["saved"] = {}
