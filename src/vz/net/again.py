"""Doing again what an interface of the node lost when it was down: routes, answers, announcements of running CTs."""

from __future__ import annotations

import errno
import os

from vz.config.nodeconfig import NodeConfig
from vz.config.paths import RUN
from vz.container.record import load_record
from vz.kernel import rtnetlink as rt
from vz.net import table, uplinks, venet
from vz.net.claims import read_veip


def on_interface_up(node: NodeConfig, name: str) -> None:
    """Make the entries for all running CTs on interface *name*; nothing where it is none of NEIGHBOUR_DEVS.

    Raises:
        OSError: what the kernel refuses; VE_ROUTE_SRC_DEV has no address (VzError).
    """
    with rt.Route() as sock:
        devices = [device for device in uplinks.chosen(sock, node) if device.name == name]
        source_device = name == node.ve_route_src_dev
        if not devices and not source_device:
            return
        source = venet.source_address(sock, node) if node.ve_route_src_dev else ""
        found: list[tuple[uplinks.Uplink, str]] = []
        routes = []
        for ctid in running():
            addresses = read_veip(ctid)
            index = uplinks.index_of(table.host_name(ctid))
            routes += [
                rt.route_add(index, a, replace=True, source="" if ":" in a else source) for a in addresses if index
            ]
            found += uplinks.pairs(node, devices, addresses)
        for error in sock.attempt(routes + uplinks.answer_for(found)):
            if error is not None and error.errno not in (errno.EEXIST, errno.ENODEV):  # ENODEV: stopped meanwhile
                raise error
    if found:
        from vz.net.neighbours import announce

        announce([(device.name, address) for device, address in found])


def running() -> list[int]:
    """Return the ids of the CTs that run."""
    ids = sorted(int(name) for name in os.listdir(RUN) if name.isdecimal())
    return [ctid for ctid in ids if (record := load_record(ctid)) is not None and record.is_alive()]
