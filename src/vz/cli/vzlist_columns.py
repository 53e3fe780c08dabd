"""The columns of vzlist(8): name, header, printf width, and where each value comes from."""

from __future__ import annotations

import os

from vz.config.paths import STATE
from vz.container.ct import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vz.disk.quota import Usage
    from vz.resources.beancounters import Reading

UNLIMITED = 9223372036854775807

UBC = (
    ("kmemsize", "KMEMSIZE"), ("lockedpages", "LOCKEDP"), ("privvmpages", "PRIVVMP"), ("shmpages", "SHMP"),
    ("numproc", "NPROC"), ("physpages", "PHYSP"), ("vmguarpages", "VMGUARP"), ("oomguarpages", "OOMGUARP"),
    ("numtcpsock", "NTCPSOCK"), ("numflock", "NFLOCK"), ("numpty", "NPTY"), ("numsiginfo", "NSIGINFO"),
    ("tcpsndbuf", "TCPSNDB"), ("tcprcvbuf", "TCPRCVB"), ("othersockbuf", "OTHSOCKB"), ("dgramrcvbuf", "DGRAMRB"),
    ("numothersock", "NOTHSOCK"), ("dcachesize", "DCACHESZ"), ("numfile", "NFILE"), ("numiptent", "NIPTENT"),
    ("swappages", "SWAPP"),
)  # fmt: skip
UBC_NAMES = frozenset(name for name, _ in UBC)
PARTS = {"m": 1, "b": 2, "l": 3, "f": 4}
DISK = {"diskspace": "DSPACE", "diskinodes": "DINODES"}

# name: (header, width; negative is left-aligned)
BASE: tuple[tuple[str, str, int], ...] = (
    ("ctid", "CTID", 10), ("veid", "CTID", 10), ("vpsid", "CTID", 10),
    ("private", "PRIVATE", -32), ("root", "ROOT", -32),
    ("mount_opts", "MOUNT_OPTS", -16), ("origin_sample", "ORIGIN_SAMPLE", -32), ("hostname", "HOSTNAME", -32),
    ("name", "NAME", -32), ("smart_name", "SMARTNAME", 10), ("description", "DESCRIPTION", -32),
    ("ostemplate", "OSTEMPLATE", -32), ("ip", "IP_ADDR", -15), ("nameserver", "NAMESERVER", -15),
    ("searchdomain", "SEARCHDOMAIN", -15), ("status", "STATUS", -9),
    *((name, header, 10) for name, header in UBC),
    ("diskspace", "DSPACE", 10), ("diskinodes", "DINODES", 10), ("laverage", "LAVERAGE", 14), ("uptime", "UPTIME", 15),
    ("cpulimit", "CPULIM", 7), ("cpuunits", "CPUUNI", 7), ("cpus", "CPUS", 5), ("ioprio", "IOP", 3),
    ("iolimit", "IOLIMIT", 10), ("iopslimit", "IOPS", 4), ("onboot", "ONBOOT", 6), ("bootorder", "BOOTORDER", 10),
    ("layout", "LAYOUT", -6), ("features", "FEATURES", -15), ("vswap", "VSWAP", 5), ("disabled", "DISABL", 6),
    ("vm_overcommit", "VM_OVC", 6), ("netfilter", "NETFILTER", -9), ("capability", "CAPABILITY", -15),
)  # fmt: skip
BY_NAME = {name: (header, width) for name, header, width in BASE}
LISTS = frozenset(("ip", "nameserver", "searchdomain"))


def find(field: str) -> tuple[str, int] | None:
    """Return (header, width) of *field*, with its part (``numproc.l``) where it has one; None when there is none."""
    name, dot, part = field.partition(".")
    if name not in BY_NAME:
        return None
    header, width = BY_NAME[name]
    if not dot:
        return header, width
    if (name in UBC_NAMES and part in PARTS) or (name in DISK and part in ("s", "h")):
        return f"{header}.{part.upper()}", width
    return None


def listed() -> list[tuple[str, str]]:
    """Return (name, header) of every column, those of the parts too, in the order of the table."""
    found = []
    for name, header, _ in BASE:
        parts = "mblf" if name in UBC_NAMES else "sh" if name in DISK else ""
        found.append((name, header))
        found += [(f"{name}.{part}", f"{header}.{part.upper()}") for part in parts]
    return found


class Row:
    """One CT as vzlist sees it: values are asked for by name and read when they are."""

    __slots__ = ("_disk", "_disk_read", "_reading", "ct", "running", "status")

    def __init__(self, ct: Container) -> None:
        self.ct = ct
        self._reading: Reading | None = None
        self._disk: Usage | None = None
        self._disk_read = False
        self.running = ct.is_running()
        if self.running:
            self.status = "running"
        elif ct.is_mounted():
            self.status = "mounted"
        else:
            self.status = "suspended" if ct.is_suspended() else "stopped"

    def value(self, name: str) -> Any:
        """Return the value of base column *name* in its own type; None for "not available"."""
        ct, conf = self.ct, self.ct.conf
        if name in ("ctid", "veid", "vpsid"):
            return ct.ctid
        if name in ("private", "root"):
            return getattr(ct, name)
        if name == "status":
            return self.status
        if name == "smart_name":
            return conf.name or ct.ctid
        if name == "ip":
            return self._addresses()
        if name == "layout":
            if conf.conf is not None and not conf.conf.get("VE_LAYOUT"):
                from vz.disk.layout import layout_name

                return layout_name(ct)  # what its files show
            return (conf.ve_layout or "simfs").partition(":")[0]
        if name == "vswap":
            limit = conf.physpages
            return bool(limit and limit[1] < UNLIMITED)
        if name in ("hostname", "name", "ostemplate"):  # as text: no option table for the default columns
            return ct.conf.values.get(name.upper()) or None
        if name == "uptime":
            return self._uptime()
        if name == "laverage":
            return self._load() if self.running else None
        if name in UBC_NAMES:
            return self._ubc(name)
        if name in DISK:
            return self.disk(name)[0]
        if name in LISTS:
            return getattr(conf, name) or []
        if name in ("cpulimit", "cpuunits") and self.running:
            from vz.resources import usage

            found = usage.cpu(ct)
            if found is not None:
                return found[name == "cpuunits"]
        if name in ("iolimit", "iopslimit") and self.running:
            from vz.resources import blkio

            value = blkio.current(ct)[name == "iopslimit"]
            return value if value or name.upper() in conf.values else None
        return getattr(conf, name)

    def _addresses(self) -> list[str]:
        text = self.ct.conf.values.get("IP_ADDR", "").split()
        if not self.running:
            return text
        try:
            with open(f"{STATE}/veip/{self.ct.ctid}", encoding="ascii") as file:
                return file.read().split()[::-1]
        except OSError:
            return []

    def _uptime(self) -> float:
        record = self.ct.record()
        if not self.running or record is None:
            return 0.0
        with open("/proc/uptime", encoding="ascii") as file:
            up = float(file.read().split()[0])
        return max(0.0, up - record.init_start / os.sysconf("SC_CLK_TCK"))

    def disk(self, name: str) -> tuple[int | None, tuple[int, int] | None]:
        """Return (held, (soft, hard)) of diskspace in KiB or of diskinodes; None for what is not known.

        The limits are those in force where there are some, else the conf's.
        """
        if not self._disk_read:
            from vz.disk import quota

            self._disk, self._disk_read = quota.usage(self.ct), True
        limits = getattr(self.ct.conf, name) if name.upper() in self.ct.conf.values else None
        if self._disk is None:
            return None, limits
        held, force = self._disk.part(name)
        return held, force if any(force) else limits

    def _load(self) -> list[float] | None:
        return None  # needs somebody who samples

    def _ubc(self, name: str) -> tuple[int, int, int, int, int]:
        """Return (held, maxheld, barrier, limit, failcnt)."""
        if self.running:
            if name == "numproc":  # a default column: cgroups alone know it, its maximum too
                from vz.resources import usage

                held, maxheld, failed = usage.counter(self.ct, name)
                limit = usage.numproc_limit(self.ct)
                return (
                    held,
                    maxheld,
                    UNLIMITED if limit is None else limit,
                    UNLIMITED if limit is None else limit,
                    failed,
                )
            return self.reading().counter(name).fields()
        value = getattr(self.ct.conf, name) if name.upper() in self.ct.conf.values else None
        barrier, limit = value or (UNLIMITED, UNLIMITED)
        return 0, 0, barrier, limit, 0

    def reading(self) -> Reading:
        """Return the CT's beancounters, read once."""
        if self._reading is None:
            from vz.resources.beancounters import Reading

            self._reading = Reading(self.ct)
        return self._reading

    def keep(self) -> None:
        """Write down the maxima of what was read."""
        if self._reading is not None:
            self._reading.keep()
