"""vzpid: which CT a process of this node belongs to."""

from __future__ import annotations

import os
import sys

from vz.cli.main import Globals
from vz.config.nodeconfig import load_node
from vz.kernel import cgroup


def run(argv: list[str], options: Globals) -> int:
    """vzpid [-p] PID… | -"""
    with_inner = bool(argv) and argv[0] == "-p"
    words = argv[1:] if with_inner else argv
    if not words:
        sys.stderr.write("Usage: vzpid [-p] <pid> [<pid> ...]\n       vzpid [-p] -\n")
        return 1
    if words == ["-"]:
        words = sys.stdin.read().split()
    parent = load_node().cgroup_parent
    print("Pid\tCT/Pid\tCTID\tName" if with_inner else "Pid\tCTID\tName")
    for word in words:
        if not (word.isascii() and word.isdigit()):
            continue
        found = look(int(word), parent)
        if found is None:
            continue
        ctid, inner, name = found
        print(f"{word}\t{inner}\t{ctid}\t{name}" if with_inner else f"{word}\t{ctid}\t{name}")
    return 0


def look(pid: int, parent: str) -> tuple[int, int, str] | None:
    """Return (CTID, 0 for the node itself; pid inside; name) of process *pid*, None when it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    ctid = 0
    for line in lines:
        if line.startswith("0::"):
            path = _below_mount(line[3:])
            rest = path.removeprefix(f"/{parent}/")
            word = rest.split("/", 1)[0]
            if rest != path and word.isdigit():
                ctid = int(word)
    name = "".join(char if char.isprintable() else "?" for char in fields.get("Name", "?"))
    pids = fields.get("NSpid", str(pid)).split()
    inner = pids[1] if ctid and len(pids) > 1 else str(pid)  # further ones are of namespaces that the CT made itself
    return ctid, int(inner), name


def _below_mount(path: str) -> str:
    """The cgroup file names paths from this process's own cgroup namespace, as the mount does."""
    return path if cgroup.hierarchies().unified else os.path.normpath(path)
