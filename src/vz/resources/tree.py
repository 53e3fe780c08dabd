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
    """Return a line per directory, top down: ``path uid gid key=value…`` with ids as the CT counts them."""
    top = f"{ct_dir(ct)}/ct"
    base = ct.idmap[0]
    lines = []
    for folder, names, _ in os.walk(top):
        names.sort()
        status = os.stat(folder)
        fields = [
            os.path.relpath(folder, top).replace("\\", "\\134").replace(" ", "\\040"),
            str(status.st_uid - base),
            str(status.st_gid - base),
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
    """Make the directories of *lines* below the CT's ``ct``, which exists, with owners and limits."""
    top = f"{ct_dir(ct)}/ct"
    base = ct.idmap[0]
    for line in lines:
        words = line.split(" ")
        path = words[0].replace("\\040", " ").replace("\\134", "\\")
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{path}: outside of the container's cgroup")
        folder = top if path == "." else f"{top}/{path}"
        cgroup.make(folder)
        if path == ".":
            continue  # its limits come from the configuration
        for name in DELEGATED:
            os.chown(f"{folder}{name}", int(words[1]) + base, int(words[2]) + base)
        for word in words[3:]:
            key, _, value = word.partition("=")
            text = value.replace(",", " ")
            if key == "cgroup.subtree_control":
                text = " ".join(f"+{name}" for name in text.split())
            if text:
                try:
                    cgroup.write(folder, key, text)
                except OSError:
                    pass  # a controller that is not enabled here
