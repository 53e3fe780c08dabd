"""What has happened to a CT: a line of JSON for each thing that was refused, slowed, killed or failed.

``/var/lib/vzctl/events/CTID`` is appended to by whoever notices; ``vzctl why`` reads it.  It is bounded: beyond
MOST_BYTES it becomes CTID.old, and the one before goes.  ``CTID.seen`` is what the counters were when somebody looked
last (``vz.resources.noticing``).  Nothing depends on any of it, so nothing fails because of it, and nothing is synced.
"""

from __future__ import annotations

import os
import time

from vz.config.paths import STATE
from vz.kernel.files import write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FOLDER = f"{STATE}/events"
MOST_BYTES = 256 << 10
MOST_LINE = 2048
LONGEST_TEXT = 400


def note(ctid: int, kind: str, **facts: Any) -> None:
    """Append an event of *kind*; *facts* are what ``vzctl why --json`` shows; a full disk or none loses it."""
    import json

    event = {"time": round(time.time(), 1), "kind": kind}
    for name, value in facts.items():
        event[name] = value[:LONGEST_TEXT] if isinstance(value, str) else value
    line = json.dumps(event).encode() + b"\n"
    if len(line) > MOST_LINE:
        return
    try:
        _append(f"{FOLDER}/{ctid}", line)
    except OSError:
        pass


def _append(path: str, line: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(FOLDER, 0o700, exist_ok=True)
        fd = os.open(path, flags, 0o600)
    try:
        if os.fstat(fd).st_size > MOST_BYTES:
            os.replace(path, f"{path}.old")  # who appends at this moment does to that
        os.write(fd, line)
    finally:
        os.close(fd)


def read(ctid: int, since: float = 0.0) -> list[dict[str, Any]]:
    """Return the events from *since* (seconds since 1970) on, the oldest first; lines that are none are passed over."""
    import json

    found = []
    for path in (f"{FOLDER}/{ctid}.old", f"{FOLDER}/{ctid}"):
        try:
            with open(path, "rb") as file:
                lines = file.readlines()
        except OSError:
            continue
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # cut by a full disk or a power cut
            if isinstance(event, dict) and isinstance(event.get("time"), (int, float)) and event["time"] >= since:
                found.append(event)
    return sorted(found, key=lambda event: float(event["time"]))


def dump(ctid: int) -> bytes:
    """Return all events as they are in the files, for another node."""
    found = b""
    for suffix in (".old", ""):
        try:
            with open(f"{FOLDER}/{ctid}{suffix}", "rb") as file:
                found += file.read(2 * MOST_BYTES)
        except OSError:
            continue
    return found[-2 * MOST_BYTES :]


def load(ctid: int, text: bytes) -> None:
    """Take what dump() has returned on another node, in place of what there was of an earlier CT; OSError."""
    forget(ctid)
    if text:
        os.makedirs(FOLDER, 0o700, exist_ok=True)
        write_atomically(f"{FOLDER}/{ctid}", text, 0o600)


def forget(ctid: int) -> None:
    """Remove all that is known of CT *ctid*; OSError."""
    for suffix in ("", ".old", ".seen", ".seen.tmp"):
        try:
            os.unlink(f"{FOLDER}/{ctid}{suffix}")
        except FileNotFoundError:
            pass
