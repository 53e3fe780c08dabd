"""A CT's network: venet0 (routed), veth (bridged), host devices moved in, and the filter that keeps it honest."""

from __future__ import annotations

from vz.net.attach import (
    add_addresses,
    add_netdev,
    add_netif,
    attach,
    delete_addresses,
    delete_netdev,
    delete_netif,
    detach,
    give_back_devices,
    owner_of,
    restore_host_side,
    usable_addresses,
)

__all__ = [
    "add_addresses",
    "add_netdev",
    "add_netif",
    "attach",
    "delete_addresses",
    "delete_netdev",
    "delete_netif",
    "detach",
    "give_back_devices",
    "owner_of",
    "restore_host_side",
    "usable_addresses",
]
