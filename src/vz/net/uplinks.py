"""The node's devices on which neighbours ask for the addresses of CTs: NEIGHBOUR_DEVS, proxy entries, their sysctls."""

from __future__ import annotations

import _socket

from vz.config.nodeconfig import NodeConfig
from vz.kernel.netlink import Request
from vz.kernel.network import device_flags, read_sysctl, write_sysctl
from vz.kernel.rtnetlink import RT_SCOPE_LINK, Route, addresses, pack, proxy_add, proxy_delete

IFF_UP, IFF_BROADCAST, IFF_LOOPBACK, IFF_NOARP, IFF_SLAVE = 0x1, 0x2, 0x8, 0x80, 0x800
FAMILIES = (_socket.AF_INET, _socket.AF_INET6)


class Uplink:
    """A device with its own addresses, as (address, prefix length)."""

    __slots__ = ("addresses", "index", "name")

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name
        self.addresses: list[tuple[str, int]] = []

    def covers(self, address: str) -> bool:
        """Tell whether *address* is in a subnet of this device."""
        return any(_in_subnet(address, own, length) for own, length in self.addresses)

    def own_address(self, address: str) -> str:
        """Return this device's address nearest to *address*, of its family; "" when it has none."""
        family = [(own, length) for own, length in self.addresses if (":" in own) == (":" in address)]
        near = [own for own, length in family if _in_subnet(address, own, length)]
        return near[0] if near else family[0][0] if family else ""


def uplinks(sock: Route) -> list[Uplink]:
    """Return the devices that are up, speak ARP and have an address beyond the link.

    Looked for by their addresses: the node's ends of CTs' devices have none, so their number does not matter.
    """
    found: dict[int, Uplink] = {}
    for family in FAMILIES:
        for index, scope, address, length in addresses(sock, family):
            if scope >= RT_SCOPE_LINK:
                continue
            if index not in found:
                try:
                    found[index] = Uplink(index, _socket.if_indextoname(index))
                except OSError:
                    continue  # gone since
            found[index].addresses.append((address, length))
    return [uplink for uplink in found.values() if _speaks_arp(uplink.name)]


def chosen(sock: Route, node: NodeConfig) -> list[Uplink]:
    """Return the devices that NEIGHBOUR_DEVS names: ``list:…``, or all of them."""
    wanted = node.neighbour_devs
    if not wanted.startswith("list:"):
        return uplinks(sock)
    known = {uplink.name: uplink for uplink in uplinks(sock)}
    listed = []
    for name in wanted[5:].replace(",", " ").split():
        try:
            listed.append(known.get(name) or Uplink(_socket.if_nametoindex(name), name))
        except OSError:
            continue  # not there now; vzifup-post sees to it when it comes
    return listed


def pairs(node: NodeConfig, devices: list[Uplink], addresses: list[str]) -> list[tuple[Uplink, str]]:
    """Return (device, address) for each that goes together; with ``detect`` those of one subnet only."""
    detect = node.neighbour_devs == "detect"
    return [(device, a) for a in addresses for device in devices if not detect or device.covers(a)]


def answer_for(found: list[tuple[Uplink, str]]) -> list[Request]:
    """Return what makes the node answer for these addresses, and set the devices to do it at once.

    The kernel puts such answers off by up to 0.8 s (proxy_delay, for networks where many proxies would all answer).
    """
    for name, v6 in {(device.name, ":" in address) for device, address in found}:
        settings = [(f"net/ipv{6 if v6 else 4}/neigh/{name}/proxy_delay", "0")]
        if v6:
            settings.append((f"net/ipv6/conf/{name}/proxy_ndp", "1"))
        for path, value in settings:
            if read_sysctl(path) not in (value, ""):
                write_sysctl(path, value)
    return [proxy_add(device.index, address) for device, address in found]


def no_answer_for(devices: list[Uplink], addresses: list[str]) -> list[Request]:
    """Return what ends it, on every device that might have been one."""
    return [proxy_delete(device.index, address) for address in addresses for device in devices]


def _speaks_arp(name: str) -> bool:
    if name.startswith("veth") and name[4:5].isdigit():  # the node's end of a CT's interface
        return False
    try:
        flags = device_flags(name)
    except OSError:
        return False
    return flags & (IFF_UP | IFF_BROADCAST | IFF_LOOPBACK | IFF_NOARP | IFF_SLAVE) == IFF_UP | IFF_BROADCAST


def _in_subnet(address: str, own: str, length: int) -> bool:
    family, packed = pack(address)
    other, own_packed = pack(own)
    shift = len(packed) * 8 - length
    return family == other and int.from_bytes(packed, "big") >> shift == int.from_bytes(own_packed, "big") >> shift


def name_of(index: int) -> str:
    """Return the name of the device with *index*, "" when there is none."""
    try:
        return _socket.if_indextoname(index)
    except OSError:
        return ""


def index_of(name: str) -> int:
    """Return the index of device *name*, 0 when there is none."""
    try:
        return _socket.if_nametoindex(name)
    except OSError:
        return 0
