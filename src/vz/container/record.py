"""The record of a running CT: what the kernel cannot tell, in ``/run/vz/CTID/record``.

Text, one ``key=value`` a line; ``external``, ``netif``, ``mac``, ``restored``, ``rlimit`` and ``netdev`` lines repeat.
Dump, restore, exec and stop derive everything from the configuration and this file.  It is written before the first
thing is made (``init_pid=0``), so a killed start leaves a trace that the next command can follow; ``stage`` says how
far it came.
"""

from __future__ import annotations

import os

from vz.config.paths import RUN
from vz.kernel.files import make_dirs, read_text, write_atomically
from vz.kernel.process import starttime

# stages: nothing of the CT's has run; its init may run and the start's last steps are missing; no init but a script's
STARTING, RELEASED, SCRIPT = "starting", "released", "script"


class External:
    """A mount that came from the host: *target* is its place in the CT, *source* its place on the host."""

    __slots__ = ("key", "source", "target")

    def __init__(self, key: str, source: str, target: str) -> None:
        self.key = key
        self.source = source
        self.target = target


class Record:
    __slots__ = (
        "ctid",
        "externals",
        "idmap_base",
        "idmap_count",
        "init_path",
        "init_pid",
        "init_start",
        "macs",
        "netdev_indexes",
        "netdevs",
        "netifs",
        "restored",
        "rlimits",
        "root",
        "stage",
        "started_at",
    )

    def __init__(self, ctid: int) -> None:
        self.ctid = ctid
        self.init_pid = 0  # as the host sees it; 0: not started yet
        self.init_start = 0  # clock ticks since boot: tells a reused pid
        self.started_at = 0  # seconds since the epoch
        self.idmap_base = 0
        self.idmap_count = 0
        self.stage = ""  # "": the start was finished
        self.root = ""
        self.init_path = ""
        self.externals: list[External] = []
        self.netifs: list[tuple[str, str]] = []  # (name on the host, name inside)
        self.macs: dict[str, str] = {}  # name on the host of a bridged interface: the MAC that it is held to
        self.restored: dict[str, int] = {}  # name on the host of a bridged interface that criu made: its index there
        self.rlimits: dict[int, int] = {}  # RLIMIT_ number: the hard limit of all its processes
        self.netdevs: list[str] = []  # host devices moved in
        self.netdev_indexes: dict[str, int] = {}  # their indexes inside: a CT may rename what it was given

    def is_alive(self) -> bool:
        """Tell whether init runs; a zombie does not."""
        return self.init_pid > 0 and self.init_start > 0 and starttime(self.init_pid) == self.init_start

    def text(self) -> str:
        """Return the record as it is written."""
        lines = [
            f"stage={self.stage}",
            f"init_pid={self.init_pid}",
            f"init_start={self.init_start}",
            f"started_at={self.started_at}",
            f"idmap_base={self.idmap_base}",
            f"idmap_count={self.idmap_count}",
            f"root={self.root}",
            f"init_path={self.init_path}",
        ]
        lines += [f"external={item.key} {_quote(item.source)} {_quote(item.target)}" for item in self.externals]
        lines += [f"netif={outside} {inside}" for outside, inside in self.netifs]
        lines += [f"mac={outside} {mac}" for outside, mac in self.macs.items()]
        lines += [f"restored={outside} {index}" for outside, index in self.restored.items()]
        lines += [f"rlimit={number} {hard}" for number, hard in self.rlimits.items()]
        lines += [f"netdev={name} {self.netdev_indexes.get(name, 0)}" for name in self.netdevs]
        return "\n".join(lines) + "\n"

    def save(self) -> None:
        """Write the record; its directory is made.  Nothing is synced: a reboot ends what it describes."""
        folder = f"{RUN}/{self.ctid}"
        if not os.path.isdir(folder):
            make_dirs(RUN, 0o711)
            make_dirs(folder, 0o700)
        write_atomically(f"{folder}/record", self.text().encode("utf-8", "surrogateescape"), 0o600, durable=False)


def load_record(ctid: int) -> Record | None:
    """Return the record of CT *ctid*; None when it has none or an unreadable one (the CT counts as stopped)."""
    try:
        text = read_text(f"{RUN}/{ctid}/record")
    except OSError:
        return None
    return parse_record(ctid, text)


def parse_record(ctid: int, text: str) -> Record | None:
    """Return the record that *text* is; None for an unreadable one."""
    record = Record(ctid)
    try:
        for line in text.splitlines():
            _take(record, line)
    except ValueError:
        return None
    return record


def _take(record: Record, line: str) -> None:
    key, _, value = line.partition("=")
    if key in ("init_pid", "init_start", "started_at", "idmap_base", "idmap_count"):
        if not (value.isascii() and value.isdigit() and len(value) < 20):
            raise ValueError(line)
        setattr(record, key, int(value))
    elif key in ("root", "init_path", "stage"):
        setattr(record, key, value)
    elif key == "external":
        name, source, target = value.split(" ")
        record.externals.append(External(name, _unquote(source), _unquote(target)))
    elif key == "netif":
        outside, _, inside = value.partition(" ")
        record.netifs.append((outside, inside))
    elif key == "mac":
        outside, _, mac = value.partition(" ")
        record.macs[outside] = mac
    elif key == "restored":
        outside, _, index = value.partition(" ")
        record.restored[outside] = int(index)
    elif key == "rlimit":
        number, _, hard = value.partition(" ")
        record.rlimits[int(number)] = int(hard)
    elif key == "netdev":
        name, _, index = value.partition(" ")
        record.netdevs.append(name)
        if index.isascii() and index.isdigit() and int(index):
            record.netdev_indexes[name] = int(index)


def _quote(path: str) -> str:
    return path.replace("\\", "\\134").replace(" ", "\\040").replace("\n", "\\012")


def _unquote(text: str) -> str:
    return text.replace("\\012", "\n").replace("\\040", " ").replace("\\134", "\\")
