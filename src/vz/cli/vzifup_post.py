"""vzifup-post: an interface of the node has come up, and what the node does there for its CTs is done again.

Going down, the kernel forgot the proxy entries of the interface, and with its address the routes that had it as source.
"""

from __future__ import annotations

import os
import sys

from vz.cli.main import Globals
from vz.config.nodeconfig import load_node
from vz.config.paths import RUN, VZ_CONF


def run(argv: list[str], options: Globals) -> int:
    """vzifup-post INTERFACE"""
    if len(argv) != 1 or not argv[0] or argv[0].startswith("-"):
        sys.stderr.write("Usage: vzifup-post INTERFACE\n")
        return 1
    if not os.path.exists(VZ_CONF):
        sys.stderr.write(f"vzifup-post: {VZ_CONF} is not there\n")
        return 1
    if not os.path.isdir(RUN):
        return 0  # no CT has run since this boot
    from vz.errors import VzError
    from vz.net import again

    try:
        again.on_interface_up(load_node(), argv[0])
    except (OSError, VzError) as exc:
        sys.stderr.write(f"vzifup-post: {argv[0]!r}: {getattr(exc, 'strerror', None) or exc}\n")
        return 1
    return 0
