"""The packet filter: one nftables table per family of ours, whose sets are keyed by interface name.

A CT is a few set elements, so its cost does not grow with the number of CTs.  ``inet vz``: source addresses of
venet CTs (set look-up by interface and address) and byte counts per interface, which outlive the device.
``bridge vz``: MAC and ARP sender MAC of veth CTs.  The tables are made by the first CT that needs them; the text is
idempotent, so twenty at once do no harm.
"""

from __future__ import annotations

import fcntl
import os

from vz.config.netif import Netif
from vz.config.paths import RUN
from vz.kernel.files import make_dirs
from vz.kernel.network import nft
from vz.kernel.process import spawn

INET = """\
add table inet vz
add set inet vz owners4 { type ifname . ipv4_addr; }
add set inet vz owners6 { type ifname . ipv6_addr; }
add set inet vz sent { type ifname; counter; }
add set inet vz received { type ifname; counter; }
add chain inet vz check
flush chain inet vz check
add rule inet vz check iifname . ip saddr @owners4 accept
add rule inet vz check iifname . ip6 saddr @owners6 accept
add rule inet vz check drop
add chain inet vz from_ct { type filter hook prerouting priority -310; policy accept; }
flush chain inet vz from_ct
add rule inet vz from_ct iifname @sent
add rule inet vz from_ct iifname "vz*" jump check
add chain inet vz to_ct { type filter hook postrouting priority 300; policy accept; }
flush chain inet vz to_ct
add rule inet vz to_ct oifname @received
"""
BRIDGE = """\
add table bridge vz
add set bridge vz filtered { type ifname; }
add set bridge vz macs { type ifname . ether_addr; }
add chain bridge vz check
flush chain bridge vz check
add rule bridge vz check iifname . ether saddr != @macs drop
add rule bridge vz check ether type arp iifname . arp saddr ether != @macs drop
add chain bridge vz from_ct { type filter hook prerouting priority -310; policy accept; }
flush chain bridge vz from_ct
add rule bridge vz from_ct iifname @filtered jump check
"""


def host_name(ctid: int) -> str:
    """Return the name of a CT's venet device on the host."""
    return f"vz{ctid}"


def add_ct(device: str, addresses: list[str]) -> None:
    """Let *device* send from *addresses* only, and count its bytes; OSError with nft's message."""
    lines = [f'add element inet vz {name} {{ "{device}" }}' for name in ("sent", "received")]
    lines += [f'add element inet vz {_owners(a)} {{ "{device}" . {a} }}' for a in addresses]
    _run("inet", INET, lines)


def delete_addresses(device: str, addresses: list[str]) -> None:
    """Take *addresses* away from *device*; an element that is not there is no error."""
    lines = []
    for address in addresses:
        element = f'element inet vz {_owners(address)} {{ "{device}" . {address} }}'
        lines += [f"add {element}", f"delete {element}"]
    if lines:
        _run("inet", INET, lines)


def delete_ct(device: str, addresses: list[str]) -> None:
    """Forget *device* altogether; its byte counts are read before."""
    lines = []
    elements = [f'inet vz {_owners(a)} {{ "{device}" . {a} }}' for a in addresses]
    elements += [f'inet vz {name} {{ "{device}" }}' for name in ("sent", "received")]
    for element in elements:
        lines += [f"add element {element}", f"delete element {element}"]
    _run("inet", INET, lines)


def add_netif(netif: Netif) -> None:
    """Hold a bridged interface to its MAC, unless its mac_filter is off."""
    if not netif.mac_filter:
        return delete_netif(netif)
    name = netif.host_ifname
    _run(
        "bridge",
        BRIDGE,
        [f'add element bridge vz filtered {{ "{name}" }}', f'add element bridge vz macs {{ "{name}" . {netif.mac} }}'],
    )
    return None


def delete_netif(netif: Netif) -> None:
    """Forget a bridged interface."""
    lines = []
    for element in (f'filtered {{ "{netif.host_ifname}" }}', f'macs {{ "{netif.host_ifname}" . {netif.mac} }}'):
        lines += [f"add element bridge vz {element}", f"delete element bridge vz {element}"]
    _run("bridge", BRIDGE, lines)


def byte_counts(device: str) -> tuple[int, int]:
    """Return the bytes that the CT behind *device* has (received, sent); zeros where nothing was counted."""
    counts = []
    for name in ("received", "sent"):
        result = spawn(["nft", "get", "element", "inet", "vz", name, f'{{ "{device}" }}'])
        words = result.stdout.decode("ascii", "replace").split()
        counts.append(int(words[words.index("bytes") + 1]) if "bytes" in words else 0)
    return counts[0], counts[1]


def _owners(address: str) -> str:
    return "owners6" if ":" in address else "owners4"


def _run(family: str, tables: str, lines: list[str]) -> None:
    """Run *lines* as one transaction; make our tables first where this boot has not seen them."""
    script = "\n".join(lines) + "\n"
    mark = f"{RUN}/nft.{family}"
    if os.path.exists(mark):
        try:
            return nft(script)
        except OSError:
            pass  # somebody flushed the ruleset: make the tables again
    make_dirs(RUN, 0o711)
    lock = os.open(f"{RUN}/nft.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        nft(tables + script)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    finally:
        os.close(lock)
