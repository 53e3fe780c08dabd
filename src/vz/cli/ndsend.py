"""ndsend: tell all IPv6 neighbours by an unsolicited advertisement that an address is here."""

from __future__ import annotations

import _socket
import sys

from vz.cli.main import Globals
from vz.net.neighbours import announce

USAGE, SYSTEM = 1, 2


def run(argv: list[str], options: Globals) -> int:
    """ndsend ADDRESS INTERFACE"""
    if len(argv) != 2 or argv[0].startswith("-"):
        sys.stderr.write("Usage: ndsend ADDRESS INTERFACE   (example: ndsend 2001:db8::1 eth0)\n")
        return USAGE
    try:
        address = _socket.inet_ntop(_socket.AF_INET6, _socket.inet_pton(_socket.AF_INET6, argv[0]))
    except (OSError, ValueError):
        sys.stderr.write(f"ndsend: {argv[0]!r} is not an IPv6 address\n")
        return USAGE
    try:
        announce([(argv[1], address)])
    except OSError as exc:
        sys.stderr.write(f"ndsend: {argv[1]!r}: {exc.strerror}\n")
        return SYSTEM
    return 0
