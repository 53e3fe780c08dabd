"""vznetaddbr: put the node's end of a bridged interface on its bridge; made to be EXTERNAL_SCRIPT of vznet.conf."""

from __future__ import annotations

import os
import sys

from vz.cli.main import Globals
from vz.container.ct import parse_ctid
from vz.errors import VzError
from vz.kernel import rtnetlink as rt
from vz.net import uplinks, veth

USAGE = "Usage: VEID=CTID vznetaddbr init veth INTERFACE\n"


def run(argv: list[str], options: Globals) -> int:
    """vznetaddbr init veth INTERFACE, with VEID in the environment"""
    if len(argv) != 3:
        sys.stderr.write(USAGE)
        return 1
    try:
        ctid = parse_ctid(os.environ.get("VEID") or "")
        add(ctid, argv[2])
    except (OSError, VzError) as exc:
        sys.stderr.write(f"vznetaddbr: {getattr(exc, 'strerror', None) or exc}\n")
        return 1
    return 0


def add(ctid: int, name: str) -> None:
    """Put interface *name* of CT *ctid* on its bridge (of the environment, of NETIF, or vmbr0) and bring it up."""
    bridge = os.environ.get("BRIDGE", "")
    if os.environ.get("HNAME") != name:
        netif = veth.netif_of(ctid, name)
        if netif is None:
            raise VzError(f"container {ctid} has no interface whose host_ifname is {name}")
        bridge = netif.bridge
    bridge = bridge or veth.DEFAULT_BRIDGE
    index = uplinks.index_of(name)
    if not index:
        raise VzError(f"interface {name} is not on this node")
    print(f"Adding interface {name} to bridge {bridge} on CT0 for CT{ctid}")
    with rt.Route() as sock:
        veth.add_to_bridge(sock, index, bridge)
        sock.run([rt.link_up(index)])
