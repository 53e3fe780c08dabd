"""The stage journal of an operation that takes more than one step: ``/var/lib/vzctl/journal/CTID``.

A small text file, written before the first change and removed after the last.  When a command finds one, its
writer was killed: ``ops/mend.py`` finishes or undoes what it says, and names it.  (A start needs none: its run record
is written first and says how far it came.)
"""

from __future__ import annotations

from vz.config.paths import STATE
from vz.kernel.files import make_dirs, read_text, remove, sync_directory, write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

JOURNAL_DIR = f"{STATE}/journal"


_held: set[int] = set()


def begin(ctid: int, operation: str, **facts: str | int) -> None:
    """Note that *operation* begins on CT *ctid*, with what is needed to finish or undo it; OSError.

    It answers a killed command, so it is not synced: after a power cut the conf, written last and synced, decides.
    """
    if ctid not in _held:
        write(ctid, operation, facts, durable=False)


def write(ctid: int, operation: str, facts: Mapping[str, str | int], *, durable: bool) -> None:
    """As begin(), by whoever holds the journal; a migration's is *durable*, since another node counts on it."""
    lines = [f"operation={operation}"] + [f"{key}={value}" for key, value in facts.items()]
    make_dirs(JOURNAL_DIR, 0o700)
    text = ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
    write_atomically(f"{JOURNAL_DIR}/{ctid}", text, 0o600, durable=durable)


def hold(ctid: int) -> None:
    """Keep the journal of *ctid* for an operation that has others in it: what these note and end does not count."""
    _held.add(ctid)


def let_go(ctid: int) -> None:
    """The journal is nobody's in particular any more; what it says stays."""
    _held.discard(ctid)


def note(ctid: int, operation: str, **facts: str | int) -> None:
    """As begin(), for what must go on without a note too: stopping and removing, on a disk that is full."""
    try:
        begin(ctid, operation, **facts)
    except OSError:
        pass


def end(ctid: int) -> None:
    """Note that the operation has ended, well or undone."""
    if ctid not in _held:
        remove(f"{JOURNAL_DIR}/{ctid}")


def finish(ctid: int, *, durable: bool = False) -> None:
    """As end(), by whoever holds the journal."""
    _held.discard(ctid)
    if remove(f"{JOURNAL_DIR}/{ctid}") and durable:
        sync_directory(JOURNAL_DIR)


def read(ctid: int) -> dict[str, str] | None:
    """Return what the journal of CT *ctid* says, nothing where a power cut has taken that; None without one."""
    try:
        text = read_text(f"{JOURNAL_DIR}/{ctid}")
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def backup_path(ctid: int) -> str:
    """Return where create keeps the conf that it found, until it is done."""
    return f"{JOURNAL_DIR}/{ctid}.conf"
