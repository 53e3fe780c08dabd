"""Changes to the network of a running CT: addresses, bridged interfaces and host devices that come, change and go."""

from __future__ import annotations

import errno
import os

from vz.config.netif import Netif
from vz.container.ct import Container
from vz.container.record import Record
from vz.errors import ExitCode, VzError
from vz.kernel import namespaces
from vz.kernel import rtnetlink as rt
from vz.net import claims, connect, netdev, table, venet, veth
from vz.net.connect import Refused, filtered, hold_to_mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "add_addresses",
    "add_netdev",
    "add_netif",
    "addresses",
    "change_netif",
    "delete_addresses",
    "delete_netdev",
    "delete_netif",
]


def addresses(ctid: int) -> list[str]:
    """Return the addresses that a running CT has now."""
    return claims.read_veip(ctid)


def add_addresses(ct: Container, record: Record, addresses: list[str], *, skip_arpdetect: bool = False) -> list[str]:
    """Add *addresses* to a running CT; returns warnings.  VzError 78, 89 or 34: nothing is changed then."""
    probe = connect.begin_probe(ct, addresses, skip=skip_arpdetect)
    warnings = connect.check_probe(ct, probe)
    before = claims.read_veip(ct.ctid)
    device = table.host_name(ct.ctid)
    try:
        with rt.Route() as sock:
            if (device, venet.VENET) not in record.netifs:
                warnings += connect.add_venet(sock, ct, record, addresses, record.init_pid)
            else:
                claims.claim(ct, addresses)
                claims.save_veip(ct.ctid, list(dict.fromkeys(before + addresses)))
                filtered(lambda: table.add_ct(device, addresses), "", ExitCode.CANT_ADDIP)
                with Refused(ExitCode.CANT_ADDIP):
                    venet.route(sock, ct, addresses)
                    venet.answer(sock, ct, addresses)
        with Refused(ExitCode.CANT_ADDIP):
            in_netns(record, lambda: venet.configure_inside(ct.ctid, addresses))
    except VzError:
        delete_addresses(ct, record, [address for address in addresses if address not in before])
        raise
    connect.announce(ct, addresses, probe)
    return warnings


def delete_addresses(ct: Container, record: Record, addresses: list[str]) -> None:
    """Take *addresses* from a running CT; one that it has not is no error.  With the last of them venet0 goes."""
    device = table.host_name(ct.ctid)
    have = claims.read_veip(ct.ctid)
    gone = [address for address in addresses if address in have]
    kept = [address for address in have if address not in gone]
    if not gone:
        return
    with rt.Route() as sock:
        if not kept:
            venet.remove(sock, ct, gone)
            venet.delete_link(sock, device)
            record.netifs = [pair for pair in record.netifs if pair != (device, venet.VENET)]
            record.save()
            return
        filtered(lambda: table.delete_addresses(device, gone), "", ExitCode.CANT_ADDIP)
        venet.unroute(sock, ct, gone)
    with Refused(ExitCode.CANT_ADDIP):
        in_netns(record, lambda: venet.forget_inside(ct.ctid, gone, kept))
    claims.release(ct, gone)
    claims.save_veip(ct.ctid, kept)


def add_netif(ct: Container, record: Record, netif: Netif) -> list[str]:
    """Add a bridged interface to a running CT; returns warnings.  VzError 130: nothing is changed then."""
    with rt.Route() as sock:
        try:
            return connect.add_netif(sock, ct, record, netif, record.init_pid)
        except VzError:
            delete_netif(ct, record, netif)
            raise


def delete_netif(ct: Container, record: Record, netif: Netif) -> None:
    """Remove a bridged interface from a running CT."""
    veth.complete(ct, netif)
    with rt.Route() as sock:
        veth.remove(sock, record, netif.host_ifname)
    record.netifs = [pair for pair in record.netifs if pair != (netif.host_ifname, netif.ifname)]
    record.save()


def change_netif(ct: Container, record: Record, old: Netif, new: Netif) -> list[str]:
    """Bring a running CT's interface from *old* to *new*: it stays, with its addresses; returns warnings.

    Raises:
        VzError: 130.
    """
    veth.complete(ct, old)
    veth.complete(ct, new)
    with Refused(ExitCode.VETH_ERROR), rt.Route() as sock:
        link = rt.link_get(sock, old.host_ifname)
        if link is None:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), old.host_ifname)
        if new.host_ifname != old.host_ifname:
            veth.unfilter(record, old.host_ifname)
            sock.run([rt.link_set(link.index, change=rt.IFF_UP), rt.link_set(link.index, name=new.host_ifname)])
            if old.host_ifname in record.restored:
                record.restored[new.host_ifname] = record.restored.pop(old.host_ifname)
            pair = (old.host_ifname, old.ifname)
            record.netifs = [(new.host_ifname, new.ifname) if found == pair else found for found in record.netifs]
        warnings = hold_to_mac(record, new)
        record.save()
        if new.mac != old.mac:
            in_netns(record, lambda: veth.set_mac_inside(new))
        sock.run([rt.link_set(link.index, mac=veth.port_mac(new))])
        if link.master and new.bridge != old.bridge:
            sock.run([rt.link_set(link.index, master=0)])
        veth.attach_port(sock, ct, new)
    return warnings


def add_netdev(ct: Container, record: Record, name: str) -> None:
    """Move host device *name* into a running CT; VzError 104."""
    with rt.Route() as sock:
        netdev.move_in(sock, record, name)


def delete_netdev(ct: Container, record: Record, name: str) -> list[str]:
    """Take host device *name* back from a running CT; returns warnings.  VzError 104."""
    if name not in record.netdevs:
        return []
    warning = netdev.move_back(record, name)
    record.netdevs.remove(name)
    record.netdev_indexes.pop(name, None)
    record.save()
    if not record.netdevs:
        netdev.unpin(record.ctid)
    return [warning] if warning else []


def in_netns(record: Record, function: Callable[[], None]) -> None:
    """Run *function* in a child in the CT's network namespace; an OSError there is raised here."""
    netns = os.open(f"/proc/{record.init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def inside() -> None:
        namespaces.setns(netns, namespaces.CLONE_NEWNET)
        function()

    try:
        namespaces.run_in_child(inside)
    finally:
        os.close(netns)
