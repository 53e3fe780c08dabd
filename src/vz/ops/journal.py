"""The stage journal of operations that build or remove a CT: ``/var/lib/vzctl/journal/CTID``.

A small text file, written before the first change and removed after the last.  When a command finds one, its
writer was killed: what it says is finished or undone, and named.
"""

from __future__ import annotations

import os

from vz.config.paths import STATE
from vz.container import ids
from vz.container.ct import Container
from vz.kernel.files import make_dirs, read_text, sync_directory, write_atomically
from vz.ops.report import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

JOURNAL_DIR = f"{STATE}/journal"


def begin(ctid: int, operation: str, **facts: str | int) -> None:
    """Note that *operation* begins on CT *ctid*, with what is needed to finish or undo it.

    It answers a killed command, so it is not synced: after a power cut the conf, written last and synced, decides.
    """
    write(ctid, operation, facts, durable=False)


def write(ctid: int, operation: str, facts: Mapping[str, str | int], *, durable: bool) -> None:
    """As begin(); a migration's is *durable*, since another node counts on it."""
    lines = [f"operation={operation}"] + [f"{key}={value}" for key, value in facts.items()]
    make_dirs(JOURNAL_DIR, 0o700)
    text = ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
    write_atomically(f"{JOURNAL_DIR}/{ctid}", text, 0o600, durable=durable)


def end(ctid: int, *, durable: bool = False) -> None:
    """Note that the operation has ended, well or undone."""
    try:
        os.unlink(f"{JOURNAL_DIR}/{ctid}")
    except FileNotFoundError:
        return
    if durable:
        sync_directory(JOURNAL_DIR)


def read(ctid: int) -> dict[str, str]:
    """Return what the journal of CT *ctid* says; empty when there is none."""
    try:
        text = read_text(f"{JOURNAL_DIR}/{ctid}")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def mend(ct: Container) -> None:
    """Undo a killed create, finish a killed destroy, do either for others; nothing when there is no journal.

    Raises:
        VzError: a migration was interrupted at the one moment when only the other node knows, and it cannot be asked.
    """
    facts = read(ct.ctid)
    if not facts:
        return
    operation = facts.get("operation")
    if operation == "create":
        say("An earlier create of this container was interrupted: undoing it")
        undo_create(ct.ctid, facts)
        ct.forget_record()
    elif operation == "destroy":
        say("An earlier destroy of this container was interrupted: finishing it")
        from vz.ops.destroy import finish

        finish(ct.ctid, facts)
    elif operation == "set":
        say("An earlier set of this container was interrupted: applying its configuration again")
        if ct.is_running():
            from vz.resources import limits

            limits.apply(ct, set())
    elif operation in ("migrate", "migrate-in"):
        from vz.ops.migrate import mend as migration

        return migration.mend(ct, facts)  # which ends it, or says why it cannot
    elif operation == "chkpnt":
        from vz.ops import chkpnt

        chkpnt.mend(ct, facts, say)
    elif operation == "restore":
        from vz.ops import restore

        restore.mend(ct, facts, say)
    end(ct.ctid)


def undo_create(ctid: int, facts: dict[str, str]) -> None:
    """Remove what create had made: the private area under either name, a fresh conf, the id range, the name link."""
    from vz.ops.trash import discard

    base, count = facts.get("id_base", ""), facts.get("id_count", str(ids.RANGE))
    ticket = (int(base), int(count), ctid) if base.isdecimal() and int(base) else None
    for key in ("area", "private"):
        path = facts.get(key, "")
        if path and os.path.isdir(path):
            discard(path, ticket)
            ticket = None
    for key in ("conf", "link"):
        path = facts.get(key, "")
        if path:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
    if ticket:
        ids.release(*ticket)
