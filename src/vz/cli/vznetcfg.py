"""vznetcfg: set up the node's end of a bridged interface, as vzctl does it when the interface is made."""

from __future__ import annotations

import os
import sys

from vz.cli.main import Globals
from vz.config.netif import Netif
from vz.container.ct import parse_ctid
from vz.errors import VzError
from vz.kernel import rtnetlink as rt
from vz.net import uplinks, veth

USAGE = "Usage: VEID=CTID vznetcfg init veth INTERFACE\n"


def run(argv: list[str], options: Globals) -> int:
    """vznetcfg init veth INTERFACE, with VEID in the environment"""
    if len(argv) != 3 or argv[:2] != ["init", "veth"]:
        sys.stderr.write(USAGE)
        return 1
    name = argv[2]
    try:
        ctid = parse_ctid(os.environ["VEID"]) if os.environ.get("VEID") else 0
        netif = veth.netif_of(ctid, name) if ctid else None
        script = veth.external_script()
        if script:
            veth.run_external(script, ctid, netif or Netif("", host_ifname=name))
            return 0
        index = uplinks.index_of(name)
        if not index:
            raise VzError(f"interface {name!r} is not on this node")
        with rt.Route() as sock:
            if netif is not None and netif.bridge:
                veth.add_to_bridge(sock, index, netif.bridge)
            sock.run([rt.link_up(index)])
    except (OSError, VzError) as exc:
        sys.stderr.write(f"vznetcfg: {getattr(exc, 'strerror', None) or exc}\n")
        return 1
    return 0
