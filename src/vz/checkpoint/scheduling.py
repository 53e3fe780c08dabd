"""CPU affinity and I/O priority of a CT's threads, which criu does not carry: a line ``thread cpus ioprio`` each."""

from __future__ import annotations

import os

from vz.checkpoint.processes import inner_id, read_table, thread_ids
from vz.kernel.process import ioprio_get, ioprio_set


def save(pids: list[int], allowed: set[int]) -> list[str]:
    """Return a line for each thread that somebody bound to fewer CPUs than *allowed*, or gave an I/O priority."""
    lines = []
    for pid in pids:
        for tid in thread_ids(pid):
            try:
                cpus = os.sched_getaffinity(tid)
                priority = ioprio_get(tid)
            except OSError:
                continue  # it has gone, or the architecture has no such call
            bound = sorted(cpus) if cpus != allowed and cpus < allowed else []
            if bound or priority:
                lines.append(f"{inner_id(tid)} {','.join(map(str, bound)) or '-'} {priority}")
    return lines


def restore(pids: list[int], lines: list[str]) -> list[str]:
    """Give the threads below *pids* what *lines* say; return a line for each that could not have it."""
    if not lines:
        return []
    wanted = {}
    for line in lines:
        inner, cpus, priority = line.split()
        wanted[int(inner)] = (set() if cpus == "-" else {int(word) for word in cpus.split(",")}, int(priority))
    failed = []
    for pid in read_table(pids):
        for tid in thread_ids(pid):
            number = inner_id(tid)
            if number not in wanted:
                continue
            bound, level = wanted.pop(number)
            try:
                if bound:
                    os.sched_setaffinity(tid, bound)
                if level:
                    ioprio_set(tid, level)
            except OSError as exc:
                failed.append(f"CPU affinity of process {number}: {exc.strerror}")
    return failed
