"""The packet filter: one nftables table per family of ours, whose sets are keyed by interface name.

A CT is a few set elements, so its cost does not grow with the number of CTs.  ``inet vz``: source addresses of venet
CTs (every device of GROUP must send from an address of its own) and byte counts per interface, which outlive the
device.  ``bridge vz``: the MAC of veth CTs, in the frame and in what they claim by ARP and ND; router advertisements
and redirects are not theirs to send.  nft(8) makes the tables when they are not there; elements go by nfnetlink.
"""

from __future__ import annotations

import errno
import fcntl
import os

from vz.config.netif import Netif, moved_ifname
from vz.config.paths import RUN
from vz.kernel.files import make_dirs
from vz.kernel.nfnetlink import Element, Netfilter, change, counted_bytes, ifname
from vz.kernel.process import in_background
from vz.kernel.rtnetlink import mac_bytes, pack

# of the node's end of every venet device: what is to be checked is known by it, whatever the admin's devices are named
GROUP = 0x767A
PORT_GROUP = 0x767B  # of the node's end of every bridged one: no rule asks for it, but what is removed must be ours
GROUPS = (GROUP, PORT_GROUP)
INET = f"""\
add table inet vz
add set inet vz owners4 {{ type ifname . ipv4_addr; }}
add set inet vz owners6 {{ type ifname . ipv6_addr; }}
add set inet vz sent {{ type ifname; counter; }}
add set inet vz received {{ type ifname; counter; }}
add chain inet vz check
flush chain inet vz check
add rule inet vz check iifname . ip saddr @owners4 return
add rule inet vz check iifname . ip6 saddr @owners6 return
add rule inet vz check drop
add chain inet vz from_ct {{ type filter hook prerouting priority -310; policy accept; }}
flush chain inet vz from_ct
add rule inet vz from_ct iifgroup {GROUP} jump check
add rule inet vz from_ct iifname @sent
add chain inet vz to_ct {{ type filter hook postrouting priority 300; policy accept; }}
flush chain inet vz to_ct
add rule inet vz to_ct oifname @received
"""
# An ND message is its fixed part and at most one option: the sender's MAC (type 1 or 2), or in a solicitation for
# duplicate address detection a nonce (type 14, RFC 7527).  With more of them a forged one could hide behind the first.
BRIDGE = """\
add table bridge vz
add set bridge vz filtered { type ifname; }
add set bridge vz macs { type ifname . ether_addr; }
add set bridge vz nd_macs { typeof iifname . @th,208,48; }
add chain bridge vz check_nd
flush chain bridge vz check_nd
add rule bridge vz check_nd icmpv6 type nd-router-solicit ip6 length 8 return
add rule bridge vz check_nd icmpv6 type nd-router-solicit ip6 length 16 @th,64,16 0x0101 \
iifname . @th,80,48 @nd_macs return
add rule bridge vz check_nd icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 length 24 return
add rule bridge vz check_nd icmpv6 type nd-neighbor-solicit ip6 length 32 @th,192,16 0x0101 \
iifname . @th,208,48 @nd_macs return
add rule bridge vz check_nd icmpv6 type nd-neighbor-solicit ip6 length 32 @th,192,16 0x0e01 return
add rule bridge vz check_nd icmpv6 type nd-neighbor-advert ip6 length 32 @th,192,16 0x0201 \
iifname . @th,208,48 @nd_macs return
add rule bridge vz check_nd drop
add chain bridge vz check
flush chain bridge vz check
add rule bridge vz check iifname . ether saddr != @macs drop
add rule bridge vz check ether type arp iifname . arp saddr ether != @macs drop
add rule bridge vz check icmpv6 type { 133-137 } jump check_nd
add chain bridge vz from_ct { type filter hook prerouting priority -310; policy accept; }
flush chain bridge vz from_ct
add rule bridge vz from_ct iifname @filtered jump check
"""
TABLES = {"inet": INET, "bridge": BRIDGE}

_sock: Netfilter | None = None


def host_name(ctid: int) -> str:
    """Return the name of a CT's venet device on the host."""
    return f"vz{ctid}"


def moved_name(device: str, old: int, new: int) -> str:
    """Return what the host's *device* of CT *old* is called when that is CT *new*; names of the admin's stay."""
    if device == host_name(old):
        return host_name(new)
    return moved_ifname(device, old, new)


def add_ct(device: str, addresses: list[str]) -> None:
    """Let *device* send from *addresses* only, and count its bytes; OSError in the kernel's or nft's words."""
    _change("inet", [*_counters(device), *(_owner(device, address) for address in addresses)], [])


def delete_addresses(device: str, addresses: list[str]) -> None:
    """Take *addresses* away from *device*; one that is not there is no error."""
    _take("inet", [_owner(device, address) for address in addresses])


def delete_ct(device: str, addresses: list[str]) -> None:
    """Forget *device* altogether; its byte counts are read before."""
    _take("inet", [*_counters(device), *(_owner(device, address) for address in addresses)])


def add_netif(netif: Netif) -> None:
    """Hold a bridged interface to its MAC."""
    _change("bridge", _netif(netif.host_ifname, netif.mac), [])


def delete_netif(host_ifname: str, mac: str) -> None:
    """Forget a bridged interface."""
    _take("bridge", _netif(host_ifname, mac))


def byte_counts(device: str) -> tuple[int, int]:
    """Return the bytes that the CT behind *device* has (received, sent); zeros where nothing was counted."""
    sent, received = _counters(device)
    counts = []
    for element in (received, sent):
        try:
            counts.append(counted_bytes(_socket(), element))
        except OSError:
            counts.append(0)
    return counts[0], counts[1]


def _socket() -> Netfilter:
    """Return the one socket of this process."""
    global _sock
    if _sock is None:
        _sock = Netfilter()
    return _sock


def let_go() -> None:
    """Close that socket, without the wait that Netfilter speaks of."""
    global _sock
    if _sock is not None:
        in_background(lambda: None, [_sock.detach()])
        _sock = None


def _counters(device: str) -> tuple[Element, Element]:
    name = ifname(device)
    return Element("inet", "vz", "sent", name), Element("inet", "vz", "received", name)


def _owner(device: str, address: str) -> Element:
    return Element("inet", "vz", "owners6" if ":" in address else "owners4", ifname(device), pack(address)[1])


def _netif(device: str, mac: str) -> list[Element]:
    name, address = ifname(device), mac_bytes(mac)
    return [
        Element("bridge", "vz", "macs", name, address),
        Element("bridge", "vz", "nd_macs", name, address),
        Element("bridge", "vz", "filtered", name),
    ]


def _take(family: str, elements: list[Element]) -> None:
    try:
        change(_socket(), [], elements)
    except OSError as exc:
        if exc.errno != errno.ENOENT:  # no table: nothing is in it
            raise


def _change(family: str, put: list[Element], take: list[Element]) -> None:
    """Carry out one transaction; make our table first where it is not there: a new boot, or a flushed ruleset."""
    try:
        return change(_socket(), put, take)
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise
    make_dirs(RUN, 0o711)
    lock = os.open(f"{RUN}/nft.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        from vz.kernel.network import nft

        nft(TABLES[family])
        change(_socket(), _everybody(family) + put, take)
    finally:
        os.close(lock)


def _everybody(family: str) -> list[Element]:
    """Return the elements of all CTs that have a record: somebody may have flushed the node's ruleset."""
    from vz.container.record import load_record
    from vz.net.claims import read_veip

    found: list[Element] = []
    for name in os.listdir(RUN):
        record = load_record(int(name)) if name.isdecimal() else None
        if record is None:
            continue
        device = host_name(record.ctid)
        if family == "bridge":
            for host_ifname, mac in record.macs.items():
                found += _netif(host_ifname, mac)
        elif any(outside == device for outside, _ in record.netifs):
            found += [*_counters(device), *(_owner(device, address) for address in read_veip(record.ctid))]
    return found
