"""Bytes that a CT has received and sent, over all its runs: ``/var/lib/vzctl/traffic/CTID``."""

from __future__ import annotations

from vz.config.paths import STATE
from vz.kernel.files import make_dirs, read_text, write_atomically
from vz.net import table

TRAFFIC_DIR = f"{STATE}/traffic"


def stored(ctid: int) -> tuple[int, int]:
    """Return (received, sent) of the CT's earlier runs, in bytes."""
    try:
        words = read_text(f"{TRAFFIC_DIR}/{ctid}").split()
    except OSError:
        return 0, 0
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(w.isdecimal() for w in words) else (0, 0)


def total(ctid: int) -> tuple[int, int]:
    """Return (received, sent) of all runs, the present one included."""
    before, now = stored(ctid), table.byte_counts(table.host_name(ctid))
    return before[0] + now[0], before[1] + now[1]


def fold(ctid: int, device: str) -> None:
    """Add what *device* has counted to the stored sums; the caller removes the counters next."""
    received, sent = table.byte_counts(device)
    before = stored(ctid)
    make_dirs(TRAFFIC_DIR, 0o700)
    write_atomically(
        f"{TRAFFIC_DIR}/{ctid}", f"{before[0] + received} {before[1] + sent}\n".encode(), 0o600, durable=False
    )
