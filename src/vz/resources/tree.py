"""The cgroup2 directories inside a CT, saved and made again around a restore.

CRIU's images hold only groups with processes, but systemd watches its empty slices too; and it leaves the limits of
directories that exist alone.  Saved are paths below ``ct``, owners, and the limit files that the CT itself set.
"""

from __future__ import annotations

import os

from vz.container.ct import Container
from vz.kernel import cgroup
from vz.resources.cgroups import DELEGATED, ct_dir

LIMITS = (
    "cgroup.subtree_control",
    "cpu.weight",
    "cpu.max",
    "memory.min",
    "memory.low",
    "memory.high",
    "memory.max",
    "pids.max",
    "io.weight",
)


def save(ct: Container) -> list[str]:
    """Return a line per directory, top down: ``path uid gid key=value…``.

    Ids are as the CT counts them; ``-`` is an owner that is no user of the CT: the node's root, of what it made there.
    """
    top = f"{ct_dir(ct)}/ct"
    base, size = ct.idmap

    def inside(host_id: int) -> str:
        return str(host_id - base) if base <= host_id < base + size else "-"

    lines = []
    for folder, names, _ in os.walk(top):
        names.sort()
        status = os.stat(folder)
        fields = [
            os.path.relpath(folder, top).replace("\\", "\\134").replace(" ", "\\040"),
            inside(status.st_uid),
            inside(status.st_gid),
        ]
        for key in LIMITS:
            try:
                value = cgroup.read(folder, key)
            except OSError:
                continue
            fields.append(f"{key}={value.replace(' ', ',')}")
        lines.append(" ".join(fields))
    return lines


def recreate(ct: Container, lines: list[str]) -> None:
    """Make the directories of *lines* below the CT's ``ct``, which exists, with their owners.

    Raises:
        ValueError: not what ``save`` returns.
    """
    for folder, _ in _parsed(ct, lines):
        cgroup.make(folder)
    own(ct, lines)


def limit(ct: Container, lines: list[str]) -> None:
    """Switch on the controllers that were on, and set the limits, in the directories that ``recreate`` has made.

    Not before criu has put the CT's init into its own group: it goes by way of ``ct``, where no process may be once a
    controller is on below (EBUSY).  Not after files are opened: systemd watches its memory.events.
    """
    for folder, words in _parsed(ct, lines):
        for word in words[3:]:
            key, _, value = word.partition("=")
            text = value.replace(",", " ")
            if key == "cgroup.subtree_control":
                text = " ".join(f"+{name}" for name in text.split())
            elif words[0] == ".":
                continue  # its limits come from the configuration
            if text:
                try:
                    cgroup.write(folder, key, text)
                except OSError:
                    pass  # a controller that is not enabled here


def own(ct: Container, lines: list[str]) -> None:
    """Give the directories of *lines* to their owners; once more after criu, which gives them the dump's host ids."""
    base, size = ct.idmap

    def outside(ct_id: str) -> int:
        if ct_id == "-":
            return 0
        if not 0 <= int(ct_id) < size:
            raise ValueError(f"{ct_id}: no id of the container")
        return base + int(ct_id)

    for folder, words in _parsed(ct, lines):
        uid, gid = outside(words[1]), outside(words[2])
        for name in DELEGATED:
            os.chown(f"{folder}{name}", uid, gid)


def _parsed(ct: Container, lines: list[str]) -> list[tuple[str, list[str]]]:
    """Return each line as the directory that it means and its words."""
    top = f"{ct_dir(ct)}/ct"
    found = []
    for line in lines:
        words = line.split(" ")
        if len(words) < 3:
            raise ValueError(f"no directory with two owners: {line}")
        path = words[0].replace("\\040", " ").replace("\\134", "\\")
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{path}: outside of the container's cgroup")
        found.append((top if path == "." else f"{top}/{path}", words))
    return found
