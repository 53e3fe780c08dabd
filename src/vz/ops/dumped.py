"""What a dump says of itself, and whether this node can bring it back."""

from __future__ import annotations

import os
import time

from vz.container.ct import Container
from vz.container.record import Record
from vz.disk import layout, overlay


def facts(ct: Container, record: Record, serial: str) -> dict[str, str | int]:
    """Return the lines of ``info`` for a dump that is being made."""
    system = os.uname()
    name = layout.layout_name(ct)
    return {
        "serial": serial,
        "ctid": ct.ctid,
        "made": int(time.time()),
        "machine": system.machine,
        "kernel": system.release,
        "idmap_base": record.idmap_base,
        "idmap_count": record.idmap_count,
        "layout": name,
        "digest": overlay.lower_digest(ct.private) if name == "overlay" else "",
        "private": ct.private,
    }
