"""The NETIF key: bridged interfaces as ``ifname=…,bridge=…,mac=…,host_ifname=…,host_mac=…,mac_filter=on;…``."""

from __future__ import annotations

import os

from vz.config.units import parse_interface, parse_mac

FIELDS = ("ifname", "bridge", "mac", "host_ifname", "host_mac", "mac_filter")


class Netif:
    """One bridged interface: names on both sides, addresses on both sides, its bridge, and whether MACs are checked."""

    __slots__ = FIELDS

    def __init__(
        self,
        ifname: str,
        bridge: str = "",
        mac: str = "",
        host_ifname: str = "",
        host_mac: str = "",
        mac_filter: bool = True,
    ) -> None:
        self.ifname = ifname
        self.bridge = bridge
        self.mac = mac
        self.host_ifname = host_ifname
        self.host_mac = host_mac
        self.mac_filter = mac_filter

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Netif) and format_netifs([self]) == format_netifs([other])

    def __hash__(self) -> int:
        return hash(self.ifname)

    def __repr__(self) -> str:
        return f"Netif({format_netifs([self])})"


def parse_netifs(text: str) -> list[Netif]:
    """Return the interfaces of a NETIF value.

    Raises:
        ValueError: names the entry and what is wrong with it: an unknown or repeated field, a bad name or address,
            an interface named twice.
    """
    found: list[Netif] = []
    for entry in text.split(";"):
        if entry.strip():
            netif = _parse_entry(entry.strip())
            if any(other.ifname == netif.ifname for other in found):
                raise ValueError(f"{netif.ifname} is there twice")
            found.append(netif)
    return found


def _parse_entry(entry: str) -> Netif:
    fields: dict[str, str] = {}
    for part in entry.split(","):
        name, equals, value = part.strip().partition("=")
        if not part.strip():
            continue
        if name not in FIELDS or not equals or name in fields:
            raise ValueError(f"{entry!r}: {name!r} is not a field, or is there twice")
        fields[name] = value
    if not fields.get("ifname"):
        raise ValueError(f"{entry!r}: ifname is missing")
    netif = Netif(parse_interface(fields["ifname"]))
    for name, parse in (
        ("bridge", parse_interface),
        ("host_ifname", parse_interface),
        ("mac", parse_mac),
        ("host_mac", parse_mac),
    ):
        if fields.get(name):
            setattr(netif, name, parse(fields[name]))
    netif.mac_filter = parse_on_off(fields.get("mac_filter", "on"))
    return netif


def parse_on_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"{text!r} is neither on nor off")
    return text == "on"


def format_netifs(netifs: list[Netif]) -> str:
    """Return the stored form, MACs in upper case."""
    entries = []
    for netif in netifs:
        parts = [f"ifname={netif.ifname}"]
        for field in ("bridge", "mac", "host_ifname", "host_mac"):
            value = getattr(netif, field)
            if value:
                parts.append(f"{field}={value}")
        parts.append(f"mac_filter={'on' if netif.mac_filter else 'off'}")
        entries.append(",".join(parts))
    return ";".join(entries)


def parse_netif_add(text: str, ctid: int, taken: int) -> Netif:
    """Return the interface that ``--netif_add ifname[,mac,host_ifname,host_mac,bridge]`` asks for, the rest made up.

    *taken* counts the CT's interfaces: see host_ifname.
    """
    words = text.split(",")
    if not 1 <= len(words) <= 5:
        raise ValueError(f"{text!r}: ifname[,mac,host_ifname,host_mac,bridge]")
    words += [""] * (5 - len(words))
    netif = Netif(parse_interface(words[0]))
    netif.mac = parse_mac(words[1]) if words[1] else make_mac()
    netif.host_ifname = parse_interface(words[2] or host_ifname(ctid, taken))
    if words[3]:
        netif.host_mac = parse_mac(words[3])
    else:
        netif.host_mac = netif.mac if words[1] else make_mac()
    if words[4]:
        netif.bridge = parse_interface(words[4])
    return netif


def make_mac() -> str:
    """Return a random address with OpenVZ's prefix 00:18:51."""
    return "00:18:51:" + ":".join(f"{byte:02X}" for byte in os.urandom(3))


def moved_ifname(name: str, old: int, new: int) -> str:
    """Return what the node's interface *name* of CT *old* is called when that is CT *new*; the admin's names stay."""
    number = name.rpartition(".")[2]
    own = number.isascii() and number.isdigit() and name == host_ifname(old, int(number))
    return host_ifname(new, int(number)) if own else name


def host_ifname(ctid: int, number: int) -> str:
    """Return the node's name of a CT's interface: ``veth<CTID>.<n>``, or with ``v`` where that is too long."""
    name = f"veth{ctid}.{number}"
    return name if len(name) <= 15 else f"v{ctid}.{number}"


def made_mac(seed: str) -> str:
    """Return an address with the same prefix that is always the same for *seed*: for a NETIF that gives none."""
    value = 0xCBF29CE484222325
    for byte in seed.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF  # FNV-1a
    return "00:18:51:" + ":".join(f"{byte:02X}" for byte in (value >> 40).to_bytes(3, "big"))
