"""The NETIF key: bridged interfaces as ``ifname=…,bridge=…,mac=…,host_ifname=…,host_mac=…,mac_filter=on;…``."""

from __future__ import annotations

from vz.config.units import parse_interface, parse_mac

FIELDS = ("ifname", "bridge", "mac", "host_ifname", "host_mac", "mac_filter")


class Netif:
    """One bridged interface: names on both sides, addresses on both sides, its bridge, and whether MACs are checked."""

    __slots__ = FIELDS

    def __init__(
        self, ifname: str, bridge: str = "", mac: str = "", host_ifname: str = "", host_mac: str = "", mac_filter: bool = True
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


def parse_netifs(text: str) -> list[Netif]:
    """Return the interfaces of a NETIF value; ValueError names the field that is wrong."""
    found = []
    for entry in text.split(";"):
        if not entry.strip():
            continue
        fields = dict(part.split("=", 1) for part in entry.strip().split(",") if "=" in part)
        if not fields.get("ifname"):
            raise ValueError(f"{entry!r}: ifname is missing")
        netif = Netif(parse_interface(fields["ifname"]))
        if fields.get("bridge"):
            netif.bridge = parse_interface(fields["bridge"])
        if fields.get("host_ifname"):
            netif.host_ifname = parse_interface(fields["host_ifname"])
        if fields.get("mac"):
            netif.mac = parse_mac(fields["mac"])
        if fields.get("host_mac"):
            netif.host_mac = parse_mac(fields["host_mac"])
        netif.mac_filter = fields.get("mac_filter", "on") != "off"
        found.append(netif)
    return found


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

    *taken* counts the CT's interfaces: the host's name is ``veth<CTID>.<n>``.
    """
    words = text.split(",")
    if not 1 <= len(words) <= 5:
        raise ValueError(f"{text!r}: ifname[,mac,host_ifname,host_mac,bridge]")
    words += [""] * (5 - len(words))
    netif = Netif(parse_interface(words[0]))
    netif.mac = parse_mac(words[1]) if words[1] else make_mac()
    netif.host_ifname = parse_interface(words[2] or f"veth{ctid}.{taken}")
    if words[3]:
        netif.host_mac = parse_mac(words[3])
    else:
        netif.host_mac = netif.mac if words[1] else make_mac()
    if words[4]:
        netif.bridge = parse_interface(words[4])
    return netif


def make_mac() -> str:
    """Return a random address with OpenVZ's prefix 00:18:51."""
    import os

    return "00:18:51:" + ":".join(f"{byte:02X}" for byte in os.urandom(3))
