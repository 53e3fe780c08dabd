"""Bytes that a CT has received and sent, over all its runs: ``/var/lib/vzctl/traffic/CTID``.

One line: received, sent, and 1 while the counts of the filter are in these sums already, so that a killed stop adds
none twice.
"""

from __future__ import annotations

from vz.config.paths import STATE
from vz.kernel.files import make_dirs, read_text, write_atomically
from vz.net import table

TRAFFIC_DIR = f"{STATE}/traffic"


def stored(ctid: int) -> tuple[int, int, bool]:
    """Return (received, sent) as far as they are summed up, in bytes, and whether the filter's counts are in them."""
    try:
        words = read_text(f"{TRAFFIC_DIR}/{ctid}").split()
    except OSError:
        return 0, 0, False
    if len(words) != 3 or not all(word.isdecimal() for word in words):
        return 0, 0, False
    return int(words[0]), int(words[1]), words[2] == "1"


def total(ctid: int) -> tuple[int, int]:
    """Return (received, sent) of all runs, the present one included."""
    received, sent, folded = stored(ctid)
    now = (0, 0) if folded else table.byte_counts(table.host_name(ctid))
    return received + now[0], sent + now[1]


def begin(ctid: int) -> None:
    """Note that the filter counts anew."""
    received, sent, folded = stored(ctid)
    if folded:
        _store(ctid, received, sent, False)


def fold(ctid: int) -> None:
    """Add what the filter has counted to the sums; the caller removes the counters next."""
    received, sent, folded = stored(ctid)
    if not folded:
        now = table.byte_counts(table.host_name(ctid))
        _store(ctid, received + now[0], sent + now[1], True)


def _store(ctid: int, received: int, sent: int, folded: bool) -> None:
    make_dirs(TRAFFIC_DIR, 0o700)
    text = f"{received} {sent} {int(folded)}\n"
    write_atomically(f"{TRAFFIC_DIR}/{ctid}", text.encode(), 0o600, durable=False)
