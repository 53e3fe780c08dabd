"""Inotify watches on an overlay whose kernel has forgotten the names of what is watched.

criu takes a watched file's handle from /proc/PID/fdinfo.  overlayfs can make one only while the dentry cache has a name
for the inode, and a watch holds the inode alone: after some pressure on memory there is no handle, and criu fails.
Looking the file up again brings the name back, and an open O_PATH descriptor keeps it there.
"""

from __future__ import annotations

import os

from vz.kernel.process import descriptors

# where systemd, D-Bus and their kin watch; the whole tree is walked only for what is not there
FIRST = ("etc", "usr/share/dbus-1", "usr/local/share/dbus-1", "usr/lib/systemd", "var/lib/dbus-1", "var/spool", "root")


def nameless(pids: list[int], device: int) -> set[int]:
    """Return the inodes of file system *device* that processes in *pids* watch and that have no handle."""
    found = set()
    for pid in pids:
        for fd, link in descriptors(pid):
            if link != "anon_inode:inotify":
                continue
            try:
                with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
                    rows = [line.split() for line in file if line.startswith("inotify ") and "fhandle:" not in line]
            except OSError:
                continue
            for row in rows:
                fields = dict(word.split(":", 1) for word in row[1:] if ":" in word)
                number = int(fields["sdev"], 16)  # as the kernel has it: twelve bits of major, twenty of minor
                if os.makedev(number >> 20, number & 0xFFFFF) == device:
                    found.add(int(fields["ino"], 16))
    return found


def pin(root: str, pids: list[int]) -> list[int]:
    """Return descriptors that keep the names of what *pids* watch below the mounted *root*; close them after the dump.

    Usually there is nothing to do: then nothing is opened.
    """
    device = os.stat(root).st_dev
    wanted = nameless(pids, device)
    held: list[int] = []
    for part in (*FIRST, ""):
        if not wanted:
            break
        top = f"{root}/{part}".rstrip("/")
        if not os.path.isdir(top) or os.path.realpath(top) != os.path.realpath(root) + top[len(root) :]:
            continue  # a link of the CT's leads who knows where
        found = _find(top, wanted)
        if found:
            held += found
            wanted = nameless(pids, device)
    return held


def _find(top: str, wanted: set[int]) -> list[int]:
    held: list[int] = []
    left = set(wanted)
    for _, folders, files, at in os.fwalk(top, follow_symlinks=False):
        for name in (".", *folders, *files):
            try:
                inode = os.stat(name, dir_fd=at, follow_symlinks=False).st_ino
                if inode in left:
                    held.append(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at))
                    left.discard(inode)
            except OSError:
                continue
        if not left:
            break
    return held
