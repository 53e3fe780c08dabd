"""The stages of a migration, on both nodes: durable before the next step counts on them.

``/var/lib/vzctl/journal/CTID`` says how far it is; on the destination ``/var/lib/vzctl/migrate/ID`` outlives it and
says that the CT has come to stay, until the source has heard of it.  Which node has the CT is decided at one place: it
is the destination's from the moment its journal says MINE, and the source's before.
"""

from __future__ import annotations

import os
import time

from vz.config.paths import STATE
from vz.kernel.files import make_dirs, read_text, sync_directory, write_atomically
from vz.ops import journal

MIGRATE_DIR = f"{STATE}/migrate"
OUT, IN = "migrate", "migrate-in"

# the source's stages
COPYING = "copying"  # nothing has been done to the CT
STOPPING = "stopping"  # it is being stopped, or is stopped
FREEZING = "freezing"  # it is frozen, or dumped and held (online)
HANDOVER = "handover"  # the destination has been told to take it: only that one knows
LEAVING = "leaving"  # it has gone; what is left here is being removed

# the destination's
RECEIVING = "receiving"  # files are coming
ARRIVED = "arrived"  # everything is there; it may be loaded, and frozen
MINE = "mine"  # it has been taken
ABORTING = "aborting"

FORGET_AFTER_S = 90 * 86400


class Log:
    """The journal of one migration on this node: *facts* as they are on disk."""

    __slots__ = ("ctid", "facts", "operation")

    def __init__(self, ctid: int, operation: str, facts: dict[str, str]) -> None:
        self.ctid = ctid
        self.operation = operation
        self.facts = {key: value for key, value in facts.items() if key != "operation"}

    @property
    def stage(self) -> str:
        return self.facts.get("stage", "")

    def at(self, stage: str, **facts: str | int) -> None:
        """Note that *stage* has been reached, with more *facts*; on disk when this returns."""
        self.facts.update({key: str(value) for key, value in facts.items()}, stage=stage)
        journal.hold(self.ctid)  # stop, mount and their kin are parts of it
        journal.write(self.ctid, self.operation, self.facts, durable=True)

    def end(self) -> None:
        journal.finish(self.ctid, durable=True)


def boot_id() -> str:
    """Return what names this boot of the node."""
    return read_text("/proc/sys/kernel/random/boot_id").strip()


def accept(migration: str, ctid: int) -> None:
    """Note for good that *migration* has brought CT *ctid* here."""
    make_dirs(MIGRATE_DIR, 0o700)
    write_atomically(f"{MIGRATE_DIR}/{migration}", f"{ctid}\n".encode(), 0o600)


def accepted(migration: str) -> bool:
    return is_id(migration) and os.path.exists(f"{MIGRATE_DIR}/{migration}")


def forget(migration: str) -> None:
    """The source knows: nobody will ask again.  Those whose source never came back go after three months."""
    if is_id(migration):
        try:
            os.unlink(f"{MIGRATE_DIR}/{migration}")
            sync_directory(MIGRATE_DIR)
        except FileNotFoundError:
            pass
    try:
        names = os.listdir(MIGRATE_DIR)
    except FileNotFoundError:
        return
    for name in names:
        path = f"{MIGRATE_DIR}/{name}"
        if is_id(name) and os.stat(path).st_mtime < time.time() - FORGET_AFTER_S:
            os.unlink(path)


def new_id() -> str:
    return os.urandom(16).hex()


def is_id(word: str) -> bool:
    """Tell whether *word* is what new_id() makes: the other node names files by it."""
    return len(word) == 32 and not set(word) - set("0123456789abcdef")
