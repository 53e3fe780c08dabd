#!/usr/bin/env python3
"""The cost of a read of the /proc files in one CT of ours and of lxcfs, alternately in one run; see docs/performance.md.

    bench/procfs.py OURS LXCFS [ROUNDS]

OURS: the directory /run/vz/proc/CTID of a running CT; LXCFS: the proc directory of an lxcfs mount.  Prints microseconds
for open, read and close: median and 99th percentile, and the ratio of the medians.  A text is made
anew at most every tenth of a second; the reads are so far apart that ours all are.
"""

from __future__ import annotations

import os
import sys
import time

NAMES = ("meminfo", "swaps", "cpuinfo", "stat", "uptime", "loadavg", "diskstats")


def read_us(path: str) -> float:
    begun = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, 65536):
        pass
    os.close(fd)
    return (time.perf_counter() - begun) * 1e6


def main() -> None:
    ours, lxcfs = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 50
    print(f"{'file':<10}{'ours':>8}{'p99':>8}{'lxcfs':>8}{'p99':>8}{'ratio':>7}")
    for name in NAMES:
        times: dict[str, list[float]] = {ours: [], lxcfs: []}
        for _ in range(rounds):
            time.sleep(0.11)
            for place, taken in times.items():
                taken.append(read_us(f"{place}/{name}"))
        row = []
        for taken in times.values():
            taken.sort()
            row += [taken[len(taken) // 2], taken[len(taken) * 99 // 100]]
        print(f"{name:<10}" + "".join(f"{value:>8.0f}" for value in row) + f"{row[0] / row[2]:>7.1f}")


if __name__ == "__main__":
    main()
