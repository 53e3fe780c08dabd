"""The stage journal of operations that build or remove a CT: ``/var/lib/vzctl/journal/CTID``.

A small text file, written before the first change and removed after the last.  When a command finds one, its
writer was killed: what it says is finished or undone, and named.
"""

from __future__ import annotations

import os

from vz.config.paths import STATE
from vz.container import ids
from vz.container.ct import Container
from vz.kernel.files import make_dirs, read_text, write_atomically
from vz.ops.report import say

JOURNAL_DIR = f"{STATE}/journal"


def begin(ctid: int, operation: str, **facts: str | int) -> None:
    """Note that *operation* begins on CT *ctid*, with what is needed to finish or undo it."""
    lines = [f"operation={operation}"] + [f"{key}={value}" for key, value in facts.items()]
    make_dirs(JOURNAL_DIR, 0o700)
    # not synced: it answers a killed command, and after a power cut the conf, written last and synced, decides
    write_atomically(
        f"{JOURNAL_DIR}/{ctid}", ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"), 0o600, durable=False
    )


def end(ctid: int) -> None:
    """Note that the operation has ended, well or undone."""
    try:
        os.unlink(f"{JOURNAL_DIR}/{ctid}")
    except FileNotFoundError:
        pass


def read(ctid: int) -> dict[str, str]:
    """Return what the journal of CT *ctid* says; empty when there is none."""
    try:
        text = read_text(f"{JOURNAL_DIR}/{ctid}")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def mend(ct: Container) -> None:
    """Undo a killed create, finish a killed destroy; nothing when there is no journal."""
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
            from vz.config import ubc
            from vz.resources import limits, ubc_limits

            limits.apply(ct, set())
            record = ct.record()
            if record is not None:
                ubc_limits.change(ct, record, set(ubc.NAMES))
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
