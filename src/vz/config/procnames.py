"""The files of /proc and /sys that the node's server makes for a CT: their order is part of their node ids."""

from __future__ import annotations

from vz.config.paths import RUN

PLACE = f"{RUN}/proc"  # where the server's file system is mounted, with a directory per CT
LOCK = f"{RUN}/proc.lock"  # held, and with the holder's pid in it, while there is a server
NAMES = ("meminfo", "swaps", "cpuinfo", "stat", "uptime", "loadavg", "diskstats", "vmstat", "cpu_online")
TARGETS = {name: f"/proc/{name}" for name in NAMES} | {"cpu_online": "/sys/devices/system/cpu/online"}
