"""Connecting a CT's network namespace, all at once at start and piece by piece for a running CT.

venet0 is one end of a veth pair without bridge, ARP or link-local addresses: both ends have one MAC and NOARP, so the
kernel never asks for a neighbour, an address works the moment it is there, and there is nothing to forge.  Host
routes lead to it; the node answers ARP and ND for it on its uplinks (proxy).
"""

from __future__ import annotations

import os

from vz.config.netif import Netif
from vz.config.paths import RUN, STATE
from vz.container.ct import Container
from vz.container.record import Record
from vz.errors import ExitCode, VzError
from vz.kernel.files import make_dirs, read_text, write_atomically
from vz.kernel.network import device_exists, ip_batch, read_sysctl, write_sysctl
from vz.net import table, traffic
from vz.net.announce import announce, uplinks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

VENET = "venet0"
IP_DIR = f"{RUN}/ip"
VEIP_DIR = f"{STATE}/veip"
UNFILTERED_VENET = (
    "WARNING: this kernel has no nftables for IP: IPv6 source addresses are not checked, bytes are not counted"
)
UNFILTERED_VETH = "WARNING: this kernel has no nftables for bridges: MAC addresses of veth devices are not checked"
PORT_MAC = "FE:FF:FF:FF:FF:FF"


def usable_addresses(ct: Container) -> list[str]:
    """Return the CT's addresses without masks; see Container.addresses."""
    return ct.addresses()


def attach(ct: Container, init_pid: int, record: Record) -> list[str]:
    """Make all of the CT's interfaces while its init waits; no process is run where it has none.

    Returns warnings: what this kernel cannot do.

    Raises:
        VzError: an address is in use (78) or cannot be added (34), veth 130, a host device 104.
    """
    addresses = usable_addresses(ct)
    netifs = ct.conf.netif or []
    netdevs = ct.conf.netdev or []
    if not (addresses or netifs or netdevs):
        return []
    host: list[str] = []
    inside: list[str] = []
    if addresses:
        claim(ct, addresses)
        save_veip(ct, addresses)  # before anything is made: who clears up after us looks there
        device = table.host_name(ct.ctid)
        host += venet_lines(ct, init_pid)
        inside += [f"link set {VENET} arp off addrgenmode none", f"link set {VENET} up"]
        inside += inside_lines(addresses)
        record.netifs.append((device, VENET))
    for netif in netifs:
        complete(ct, netif)
        host += veth_lines(ct, netif, init_pid)
        record.netifs.append((netif.host_ifname, netif.ifname))
    for name in netdevs:
        if not device_exists(name):
            raise VzError(f"Network device {name} is not on this node", ExitCode.NETDEV_ERROR)
        host.append(f"link set {name} netns {init_pid}")
        record.netdevs.append(name)
    if addresses:
        host += host_route_lines(ct, table.host_name(ct.ctid), addresses)
    record.save()
    code = ExitCode.CANT_ADDIP if addresses else ExitCode.VETH_ERROR if netifs else ExitCode.NETDEV_ERROR
    _run(host, None, code)
    if inside:
        netns = os.open(f"/proc/{init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _run(inside, netns, code)
        finally:
            os.close(netns)
    warnings = finish_host_side(ct, addresses) if addresses else []
    for netif in netifs:
        warnings += filtered(lambda: table.add_netif(netif), UNFILTERED_VETH, code)
    return warnings


def filtered(action: Callable[[], None], warning: str, code: int) -> list[str]:
    """Do *action* on the packet filter; a kernel that has no such filter is a warning, anything else a failure."""
    try:
        action()
    except FileNotFoundError as exc:
        raise VzError("nft is needed for a container's network: install nftables", code) from exc
    except OSError as exc:
        if "not supported" in str(exc.strerror):
            return [warning]
        raise VzError(f"Unable to set up the packet filter: {exc.strerror}", code) from exc
    return []


def claim(ct: Container, addresses: list[str]) -> None:
    """Mark *addresses* as this CT's; VzError (78) when another running CT has one."""
    make_dirs(IP_DIR, 0o711)
    for address in addresses:
        path = f"{IP_DIR}/{address}"
        for _ in range(3):
            try:
                os.symlink(str(ct.ctid), path)
                break
            except FileExistsError:
                try:
                    owner = os.readlink(path)
                except OSError:
                    continue
                if owner == str(ct.ctid):
                    break
                if _runs(owner):
                    raise VzError(f"Address {address} is in use by container {owner}", ExitCode.IP_INUSE) from None
                os.unlink(path)


def release(ct: Container, addresses: list[str]) -> None:
    """Give up *addresses* that are marked as this CT's."""
    for address in addresses:
        path = f"{IP_DIR}/{address}"
        try:
            if os.readlink(path) == str(ct.ctid):
                os.unlink(path)
        except OSError:
            pass


def owner_of(address: str) -> int:
    """Return the running CT that has *address*, 0 for none."""
    try:
        owner = os.readlink(f"{IP_DIR}/{address}")
    except OSError:
        return 0
    return int(owner) if _runs(owner) else 0


def venet_lines(ct: Container, init_pid: int) -> list[str]:
    device, mac = table.host_name(ct.ctid), venet_mac(ct.ctid)
    return [
        f"link add name {device} index {host_index(ct.ctid, 0)} address {mac} type veth "
        f"peer name {VENET} index {inside_index(ct.ctid, 0)} address {mac} netns {init_pid}",
        f"link set {device} arp off addrgenmode none up",
    ]


def inside_index(ctid: int, number: int) -> int:
    """Return the ifindex of interface *number* of a CT: one that no device of any node has.

    CRIU restores a link with its old index through a socket of the node's network namespace, where the kernel takes a
    device with that index for the one to change (EOPNOTSUPP).  The small numbers are the node's own devices.
    """
    return (1 << 30) + (ctid * 16 + number) % (1 << 29)


def host_index(ctid: int, number: int) -> int:
    """Return the ifindex of the node's end: the kernel heeds the inner one only where this one is given too."""
    return inside_index(ctid, number) - (1 << 29)


def venet_mac(ctid: int) -> str:
    """Return the one MAC of both ends: the same after a restore or on another node."""
    return "00:18:51:" + ":".join(f"{byte:02x}" for byte in (ctid & 0xFFFFFF).to_bytes(3, "big"))


def inside_lines(addresses: list[str]) -> list[str]:
    """Return the CT's side: the addresses, and one default route per family."""
    lines = [
        f"addr replace {a}/{128 if ':' in a else 32} dev {VENET}" + (" nodad" if ":" in a else "") for a in addresses
    ]
    if any(":" not in a for a in addresses):
        lines.append(f"route replace 0.0.0.0/0 dev {VENET}")
    if any(":" in a for a in addresses):
        lines.append(f"route replace ::/0 dev {VENET}")
    return lines


def host_route_lines(ct: Container, device: str, addresses: list[str]) -> list[str]:
    """Return the node's side: a host route per address, and proxy entries on the uplinks."""
    lines = [f"route replace {a}/{128 if ':' in a else 32} dev {device}" for a in addresses]
    for uplink in uplinks(ct.node.text("NEIGHBOUR_DEVS", "all")):
        lines += [f"neigh replace proxy {a} dev {uplink}" for a in addresses]
    return lines


def veth_lines(ct: Container, netif: Netif, init_pid: int) -> list[str]:
    """Return the lines that make a bridged interface."""
    number = 1 + sum(map(ord, netif.ifname)) % 15
    taken = [1 + sum(map(ord, other.ifname)) % 15 for other in ct.conf.netif or [] if other.ifname != netif.ifname]
    outer = inner = ""
    if number not in taken:
        outer, inner = f"index {host_index(ct.ctid, number)} ", f"index {inside_index(ct.ctid, number)} "
    # a bridge keeps what is for a port's own MAC: the node's end must not share the CT's
    host_mac = netif.host_mac if netif.host_mac != netif.mac else PORT_MAC
    lines = [
        f"link add name {netif.host_ifname} {outer}address {host_mac} type veth "
        f"peer name {netif.ifname} {inner}address {netif.mac} netns {init_pid}"
    ]
    if netif.bridge:
        lines.append(f"link set {netif.host_ifname} master {netif.bridge}")
    return [*lines, f"link set {netif.host_ifname} up"]


def complete(ct: Container, netif: Netif) -> None:
    """Fill in what a hand-written NETIF leaves open."""
    from vz.config.netif import make_mac

    netif.host_ifname = netif.host_ifname or f"veth{ct.ctid}.0"
    netif.mac = netif.mac or make_mac()
    netif.host_mac = netif.host_mac or netif.mac


def finish_host_side(ct: Container, addresses: list[str]) -> list[str]:
    """Filter, forwarding and announcements; returns warnings."""
    device = table.host_name(ct.ctid)
    warnings = filtered(lambda: table.add_ct(device, addresses), UNFILTERED_VENET, ExitCode.CANT_ADDIP)
    write_sysctl(f"net/ipv4/conf/{device}/forwarding", "1")
    # the kernel's own check of IPv4 sources: they must be what is routed to this device
    write_sysctl(f"net/ipv4/conf/{device}/rp_filter", "1")
    has_v6 = any(":" in a for a in addresses)
    for uplink in uplinks(ct.node.text("NEIGHBOUR_DEVS", "all")):
        if has_v6 and read_sysctl(f"net/ipv6/conf/{uplink}/proxy_ndp") == "0":
            write_sysctl(f"net/ipv6/conf/{uplink}/proxy_ndp", "1")
        for address in addresses:
            try:
                announce(uplink, address)
            except OSError:
                pass  # a device that takes no frames now: its neighbours will ask
    return warnings


def save_veip(ct: Container, addresses: list[str]) -> None:
    make_dirs(VEIP_DIR, 0o755)
    write_atomically(f"{VEIP_DIR}/{ct.ctid}", "".join(f"{a}\n" for a in addresses).encode(), durable=False)


def read_veip(ctid: int) -> list[str]:
    try:
        return read_text(f"{VEIP_DIR}/{ctid}").split()
    except OSError:
        return []


def detach(ct: Container, record: Record) -> None:
    """Take down the node's side of a CT that is stopping or dead; every step may have been done before."""
    if not record.netifs:
        return
    device = table.host_name(ct.ctid)
    addresses = list(dict.fromkeys(read_veip(ct.ctid) + usable_addresses(ct)))
    if (device, VENET) in record.netifs:
        traffic.fold(ct.ctid, device)
        _run_quietly([f"link del {device}"] if device_exists(device) else [])
        for uplink in uplinks(ct.node.text("NEIGHBOUR_DEVS", "all")):
            _run_quietly([f"neigh del proxy {a} dev {uplink}" for a in addresses])
        try:
            table.delete_ct(device, addresses)
        except OSError:
            pass
        release(ct, addresses)
    for netif in ct.conf.netif or []:
        if (netif.host_ifname, netif.ifname) in record.netifs:
            _run_quietly([f"link del {netif.host_ifname}"] if device_exists(netif.host_ifname) else [])
            try:
                table.delete_netif(netif)
            except OSError:
                pass
    for path in (f"{VEIP_DIR}/{ct.ctid}",):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def give_back_devices(record: Record, netns_fd: int) -> None:
    """Move host devices out of the CT's network namespace *netns_fd*, which the caller holds, to our own."""
    for name in record.netdevs:
        try:
            ip_batch([f"link set {name} netns {os.getpid()}"], netns_fd=netns_fd)
        except OSError:
            pass  # gone, or given back already


def restore_host_side(ct: Container, record: Record) -> None:
    """After a restore, which leaves the peers down and bare: up, routes and filter, at once."""
    addresses = usable_addresses(ct)
    lines = []
    if addresses:
        device = table.host_name(ct.ctid)
        lines += [f"link set {device} arp off addrgenmode none address {venet_mac(ct.ctid)} up"]
        lines += host_route_lines(ct, device, addresses)
    for netif in ct.conf.netif or []:
        lines += [
            f"link set {netif.host_ifname} address {netif.host_mac if netif.host_mac != netif.mac else PORT_MAC} up"
        ]
        if netif.bridge:
            lines.append(f"link set {netif.host_ifname} master {netif.bridge}")
    _run(lines, None, ExitCode.CANT_ADDIP)
    if addresses:
        save_veip(ct, addresses)
        finish_host_side(ct, addresses)


def add_addresses(ct: Container, record: Record, addresses: list[str]) -> None:
    """Add *addresses* to a running CT.  VzError 78 or 34."""
    claim(ct, addresses)
    save_veip(ct, list(dict.fromkeys(read_veip(ct.ctid) + addresses)))
    device = table.host_name(ct.ctid)
    fresh = (device, VENET) not in record.netifs
    if fresh:
        record.netifs.append((device, VENET))
        record.save()
        _run(venet_lines(ct, record.init_pid), None, ExitCode.CANT_ADDIP)
    inside = [f"link set {VENET} arp off addrgenmode none", f"link set {VENET} up"] if fresh else []
    with_netns(record, [*inside, *inside_lines(addresses)], ExitCode.CANT_ADDIP)
    _run(host_route_lines(ct, device, addresses), None, ExitCode.CANT_ADDIP)
    finish_host_side(ct, read_veip(ct.ctid))


def delete_addresses(ct: Container, record: Record, addresses: list[str]) -> None:
    """Take *addresses* from a running CT; one that it has not is no error."""
    device = table.host_name(ct.ctid)
    present = [a for a in addresses if a in read_veip(ct.ctid)]
    if not present:
        return
    filtered(lambda: table.delete_addresses(device, present), "", ExitCode.CANT_ADDIP)
    for address in present:
        _run_quietly([f"route del {address}/{128 if ':' in address else 32} dev {device}"])
        for uplink in uplinks(ct.node.text("NEIGHBOUR_DEVS", "all")):
            _run_quietly([f"neigh del proxy {address} dev {uplink}"])
        with_netns(record, [f"addr del {address}/{128 if ':' in address else 32} dev {VENET}"], 0)
    release(ct, present)
    save_veip(ct, [a for a in read_veip(ct.ctid) if a not in present])


def add_netif(ct: Container, record: Record, netif: Netif) -> None:
    """Add a bridged interface to a running CT; VzError 130."""
    complete(ct, netif)
    record.netifs.append((netif.host_ifname, netif.ifname))
    record.save()
    _run(veth_lines(ct, netif, record.init_pid), None, ExitCode.VETH_ERROR)
    filtered(lambda: table.add_netif(netif), "", ExitCode.VETH_ERROR)


def delete_netif(ct: Container, record: Record, netif: Netif) -> None:
    """Remove a bridged interface from a running CT."""
    if device_exists(netif.host_ifname):
        _run([f"link del {netif.host_ifname}"], None, ExitCode.VETH_ERROR)
    filtered(lambda: table.delete_netif(netif), "", ExitCode.VETH_ERROR)
    record.netifs = [pair for pair in record.netifs if pair != (netif.host_ifname, netif.ifname)]
    record.save()


def add_netdev(ct: Container, record: Record, name: str) -> None:
    """Move host device *name* into a running CT; VzError 104."""
    if not device_exists(name):
        raise VzError(f"Network device {name} is not on this node", ExitCode.NETDEV_ERROR)
    record.netdevs.append(name)
    record.save()
    _run([f"link set {name} netns {record.init_pid}"], None, ExitCode.NETDEV_ERROR)


def delete_netdev(ct: Container, record: Record, name: str) -> None:
    """Take host device *name* back from a running CT; VzError 104."""
    with_netns(record, [f"link set {name} netns {os.getpid()}"], ExitCode.NETDEV_ERROR)
    record.netdevs = [other for other in record.netdevs if other != name]
    record.save()


def with_netns(record: Record, lines: list[str], code: int) -> None:
    """Run *lines* in the CT's network namespace; with *code* 0 a refusal is passed over."""
    netns = os.open(f"/proc/{record.init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if code:
            _run(lines, netns, code)
        else:
            try:
                ip_batch(lines, netns_fd=netns)
            except OSError:
                pass
    finally:
        os.close(netns)


def _runs(owner: str) -> bool:
    from vz.container.record import load_record

    record = load_record(int(owner)) if owner.isdecimal() else None
    return record is not None and record.is_alive()


def _run(lines: list[str], netns_fd: int | None, code: int) -> None:
    if not lines:
        return
    try:
        ip_batch(lines, netns_fd=netns_fd)
    except FileNotFoundError as exc:
        raise VzError("ip is needed for a container's network: install iproute2", code) from exc
    except OSError as exc:
        what = f" ({exc.filename})" if exc.filename else ""
        raise VzError(f"Unable to set up the network: {exc.strerror}{what}", code) from exc


def _run_quietly(lines: list[str]) -> None:
    if lines:
        try:
            ip_batch(lines)
        except OSError:
            pass
