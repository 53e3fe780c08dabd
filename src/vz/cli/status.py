"""vzctl status: one line, always status 0."""

from __future__ import annotations

import os

from vz.cli.main import Globals, flags
from vz.config.ctconfig import CTConfig, load_ct
from vz.config.nodeconfig import load_node
from vz.container.ct import Container, find
from vz.errors import InvalidConfig


def run(argv: list[str], options: Globals) -> int:
    """vzctl status CTID"""
    node = load_node()
    ctid = find(argv[0])
    flags(argv[1:], {})
    try:
        conf = load_ct(ctid, node)
    except InvalidConfig:
        conf = CTConfig({}, None)
    ct = Container(ctid, node, conf)
    running = ct.is_running()
    words = [
        "exist" if ct.exists() else "deleted",
        "mounted" if ct.is_mounted() else "unmounted",
        "running" if running else "down",
    ]
    if not running and ct.is_suspended():
        words.append("suspended")
    os.write(1, f"CTID {ctid} {' '.join(words)}\n".encode())
    return 0
