"""Connecting a CT's network namespace at start, all at once, and taking it down.

The order at start: what can be refused is refused; the filter knows the CT before its device is there; the device, its
routes and its answers on the uplinks; the CT's own side last, by its init.  ``detach`` looks for each thing where it
would be, since a killed command may have left any part of it.
"""

from __future__ import annotations

from vz.config.netif import Netif
from vz.config.paths import VZ_CONF
from vz.container.ct import Container
from vz.container.record import Record
from vz.errors import ExitCode, VzError
from vz.kernel import rtnetlink as rt
from vz.kernel.network import device_address, device_exists, read_sysctl
from vz.net import claims, table, traffic, uplinks, venet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vz.config.nodeconfig import NodeConfig
    from vz.net.neighbours import Probe

UNFILTERED_VENET = (
    "WARNING: this kernel has no nftables for IP: IPv6 source addresses are not checked, bytes are not counted"
)
UNFILTERED_VETH = "WARNING: this kernel has no nftables for bridges: MAC addresses of veth devices are not checked"


def begin_probe(ct: Container, addresses: list[str], *, skip: bool = False) -> Probe | None:
    """Ask the neighbours whether one of *addresses* is theirs; None where they are not to be asked."""
    return None if skip else ask_neighbours(ct.node, addresses)


def ask_neighbours(
    node: NodeConfig, addresses: list[str], *, known: frozenset[bytes] = frozenset(), wait_s: float = 0.0
) -> Probe | None:
    """As begin_probe(), without a CT; answers from a MAC in *known* do not count, and they may take *wait_s*."""
    if not addresses or node.skip_arpdetect:
        return None
    from vz.net.neighbours import Probe

    with rt.Route() as sock:
        found = uplinks.pairs(node, uplinks.chosen(sock, node), addresses)
    questions = [(device.name, device.own_address(address), address) for device, address in found]
    return Probe(questions, known=known, wait_s=wait_s)


def check_probe(ct: Container, probe: Probe | None) -> list[str]:
    """Return a warning per address that a neighbour has; VzError (78) for the first with ERROR_ON_ARPFAIL."""
    warnings = []
    for address, mac in (probe.answers() if probe is not None else {}).items():
        text = f"Address {address} is in use by another host: {mac} answered"
        if ct.node.error_on_arpfail:
            raise VzError(text, ExitCode.IP_INUSE)
        warnings.append(f"WARNING: {text}")
    return warnings


def announce(ct: Container, addresses: list[str], probe: Probe | None = None) -> None:
    """Tell the neighbours where *addresses* are now; nobody waits for it."""
    if not addresses:
        return
    from vz.net.neighbours import announce_later

    with rt.Route() as sock:
        found = uplinks.pairs(ct.node, uplinks.chosen(sock, ct.node), addresses)
    if found:
        announce_later([(device.name, a) for device, a in found], probe.take_socket() if probe is not None else None)


def hand_in(ct: Container, packets: bytes) -> None:
    """Hand the running CT the *packets* that have been caught for it, see late.py."""
    from vz.net import late

    device = table.host_name(ct.ctid)
    if packets and device_exists(device):
        late.hand_in(device, device_address(device), packets)


def attach(ct: Container, init_pid: int, record: Record, probe: Probe | None = None) -> list[str]:
    """Make the node's side of all of the CT's interfaces while its init waits.

    Returns warnings: what this kernel cannot do, what a neighbour has.

    Raises:
        VzError: an address is in use (78), not available (89) or cannot be added (34), veth 130, a host device 104.
    """
    addresses = ct.addresses()
    configured = [address.partition("/")[0] for address in ct.conf.ip_addr or []]
    warnings = [f"WARNING: IPv6 is off in {VZ_CONF}: {a} is left out" for a in configured if _is_left_out(ct, a)]
    with rt.Route() as sock:
        if addresses:
            warnings += add_venet(sock, ct, record, addresses, init_pid, probe)
        for netif in ct.conf.netif or []:
            warnings += add_netif(sock, ct, record, netif, init_pid)
        if ct.conf.netdev:
            from vz.net import netdev

            for name in ct.conf.netdev:
                netdev.move_in(sock, record, name)
    return warnings


def _is_left_out(ct: Container, address: str) -> bool:
    return ":" in address and not ct.node.ipv6 and address != "::"


def inside_step(ct: Container) -> Callable[[], None]:
    """Return what the CT's init does for its network, in its namespace, once the node's side is made.

    To be called before it is launched: in the CT's root there is nothing of ours to import.
    """
    addresses, ctid = ct.addresses(), ct.ctid
    return lambda: venet.configure_inside(ctid, addresses) if addresses else None


def add_venet(
    sock: rt.Route, ct: Container, record: Record, addresses: list[str], init_pid: int, probe: Probe | None = None
) -> list[str]:
    """Make the node's side of venet0 with *addresses*; returns warnings.

    The answers to *probe* are looked at when all is made that harms nobody.
    """
    device = table.host_name(ct.ctid)
    record.netifs.append((device, venet.VENET))
    record.save()  # before anything is made: who clears up after us looks there
    claims.claim(ct, addresses)
    claims.save_veip(ct.ctid, addresses)
    traffic.begin(ct.ctid)
    warnings = filtered(lambda: table.add_ct(device, addresses), UNFILTERED_VENET, ExitCode.CANT_ADDIP)
    if read_sysctl("net/ipv6/conf/all/forwarding") == "0" and any(":" in address for address in addresses):
        warnings.append("WARNING: net.ipv6.conf.all.forwarding=0: only the node reaches the container by IPv6")
    with Refused(ExitCode.CANT_ADDIP):
        venet.make(sock, ct, init_pid)
        warnings += check_probe(ct, probe)
        venet.route(sock, ct, addresses)
        venet.answer(sock, ct, addresses)
    return warnings


def add_netif(sock: rt.Route, ct: Container, record: Record, netif: Netif, init_pid: int) -> list[str]:
    """Make a bridged interface; returns warnings.  VzError 130."""
    from vz.net import veth

    veth.complete(ct, netif)
    record.netifs.append((netif.host_ifname, netif.ifname))
    if not netif.mac_filter:
        record.save()
    warnings = hold_to_mac(record, netif)  # before the device is there
    with Refused(ExitCode.VETH_ERROR):
        veth.make(sock, ct, netif, init_pid)
    return warnings


def hold_to_mac(record: Record, netif: Netif) -> list[str]:
    """Set the filter for an interface as its mac_filter says, the record first; returns warnings."""
    from vz.net import veth

    veth.unfilter(record, netif.host_ifname)
    if not netif.mac_filter:
        return []
    record.macs[netif.host_ifname] = netif.mac
    record.save()
    warnings = filtered(lambda: table.add_netif(netif), UNFILTERED_VETH, ExitCode.VETH_ERROR)
    if warnings:
        del record.macs[netif.host_ifname]
        record.save()
    return warnings


def detach(ct: Container, record: Record) -> list[str]:
    """Take down the node's side of a CT that is stopping or dead; every step may have been done before.

    The node's ends of its devices go with its network namespace, some milliseconds later or when nobody holds that any
    more; until then nothing leads to them and the filter lets nothing through.  Waiting for it takes 20 ms.
    Returns warnings about host devices that did not come back.
    """
    warnings: list[str] = []
    if record.netdevs:
        from vz.net import netdev

        warnings = netdev.give_back(record)
    device = table.host_name(ct.ctid)
    if (device, venet.VENET) in record.netifs:
        with rt.Route() as sock:
            venet.remove(sock, ct, list(dict.fromkeys(claims.read_veip(ct.ctid) + ct.addresses())))
    if record.macs or record.restored:
        from vz.net import veth

        for name in list(record.macs):
            veth.unfilter(record, name)
        veth.remove_restored(record)
    table.let_go()
    return warnings


def restore_host_side(
    ct: Container, record: Record, addresses: list[str] | None = None, probe: Probe | None = None
) -> list[str]:
    """After a restore, which leaves the peers down and bare: up, routes and filter, at once.

    *addresses* are those of venet0; None: as the configuration says.  Returns warnings.  VzError as ``attach``.
    """
    addresses = ct.addresses() if addresses is None else addresses
    device = table.host_name(ct.ctid)
    warnings: list[str] = []
    bridged: dict[str, str] = {}
    with rt.Route() as sock:
        if (device, venet.VENET) in record.netifs:
            claims.save_veip(ct.ctid, addresses)
            traffic.begin(ct.ctid)
            warnings += filtered(lambda: table.add_ct(device, addresses), UNFILTERED_VENET, ExitCode.CANT_ADDIP)
            with Refused(ExitCode.CANT_ADDIP):
                venet.set_up(sock, ct)
                warnings += check_probe(ct, probe)
                venet.route(sock, ct, addresses)
                venet.answer(sock, ct, addresses)
        for netif in ct.conf.netif or []:
            from vz.net import veth

            veth.complete(ct, netif)
            bridged |= {name: host for host, name in record.netifs if host == netif.host_ifname}
            index = uplinks.index_of(netif.host_ifname)
            if not index:
                warnings.append(f"WARNING: interface {netif.ifname} was not in the dump: it comes with the next start")
                continue
            record.restored[netif.host_ifname] = index
            warnings += hold_to_mac(record, netif)
            with Refused(ExitCode.VETH_ERROR):
                sock.run([rt.link_set(index, mac=veth.port_mac(netif), group=table.PORT_GROUP)])
                veth.attach_port(sock, ct, netif)
    record.save()
    announce(ct, addresses, probe)
    if bridged:
        veth.announce(record.init_pid, bridged)
    return warnings


class Refused:
    """``with Refused(code)``: what the kernel refuses becomes the VzError that names it."""

    __slots__ = ("_code",)

    def __init__(self, code: int) -> None:
        self._code = code

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, OSError):
            what = f" ({exc.filename})" if exc.filename else ""
            raise VzError(f"Unable to set up the network: {exc.strerror}{what}", self._code) from exc


def filtered(action: Callable[[], None], warning: str, code: int) -> list[str]:
    """Do *action* on the packet filter; a kernel that has no such filter is a warning, anything else a failure."""
    try:
        action()
    except OSError as exc:
        if exc.filename == "nft":
            raise VzError("nft is needed for a container's network: install nftables", code) from exc
        if "not supported" in str(exc.strerror):
            return [warning]
        raise VzError(f"Unable to set up the packet filter: {exc.strerror}", code) from exc
    return []
