"""venet0: one end of a veth pair without bridge, ARP or link-local addresses.

Both ends have one MAC and NOARP, so the kernel never asks for a neighbour, an address works the moment it is there, and
there is nothing to forge.  Host routes lead to it; the node answers ARP and ND for it on its uplinks (proxy).  The
node's side is made by the command, the CT's side by its init before it becomes init, or by a child in its namespace.
"""

from __future__ import annotations

import errno
import time

from vz.config.nodeconfig import NodeConfig
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import rtnetlink as rt
from vz.kernel.netlink import Request
from vz.kernel.network import write_sysctl
from vz.net import claims, table, traffic, uplinks

VENET = "venet0"
GOING_S = 1.0  # how long a link that a dead CT's namespace takes along may be in the way
FAMILIES = uplinks.FAMILIES


def host_index(ctid: int, number: int) -> int:
    """Return the ifindex of the node's end: the kernel heeds the inner one only where this one is given too."""
    return inside_index(ctid, number) - (1 << 29)


def inside_index(ctid: int, number: int) -> int:
    """Return the ifindex of interface *number* of a CT: one that no device of any node has.

    CRIU restores a link with its old index through a socket of the node's network namespace, where the kernel takes a
    device with that index for the one to change (EOPNOTSUPP).  The small numbers are the node's own devices.
    """
    return (1 << 30) + (ctid * 16 + number) % (1 << 29)


def venet_mac(ctid: int) -> str:
    """Return the one MAC of both ends: the same after a restore or on another node."""
    return "00:18:51:" + ":".join(f"{byte:02x}" for byte in (ctid & 0xFFFFFF).to_bytes(3, "big"))


def index_inside(ctid: int) -> int:
    """Return the index of venet0 in the CT's network namespace, which we are in.

    Another than inside_index() where the CT has come here, running, with another id.
    """
    own = inside_index(ctid, 0)
    return own if uplinks.name_of(own) else uplinks.index_of(VENET) or own


def take_mac(ctid: int) -> bytes:
    """Give the CT's side, in its network namespace, the MAC of the node's side: the id, and so the MAC, is a new one.

    Without ARP, each end sends to its own MAC and takes what is for its own.
    """
    with rt.Route() as sock:
        sock.run([rt.link_set(index_inside(ctid), mac=venet_mac(ctid))])
    return b""


def make(sock: rt.Route, ct: Container, init_pid: int) -> None:
    """Make the pair, its node's end up and held to no address yet; one that is left over from a dead CT goes first."""
    device, mac, index = table.host_name(ct.ctid), venet_mac(ct.ctid), host_index(ct.ctid, 0)
    outside = rt.Link(device, mac, index, rt.IFF_NOARP, table.GROUP)
    inside = rt.Link(VENET, mac, inside_index(ct.ctid, 0), rt.IFF_NOARP)
    pair = rt.link_add_veth(outside, inside, init_pid)
    add_pair(sock, ct, device, pair)
    set_up(sock, ct)


def add_pair(sock: rt.Route, ct: Container, name: str, pair: Request) -> None:
    """Carry out *pair*; the CT's own *name* of its last run, whose namespace still lives, makes way."""
    error = sock.attempt([pair])[0]
    deadline = time.monotonic() + GOING_S
    while error is not None and error.errno == errno.EEXIST:
        link = rt.link_get(sock, name)
        if link is not None and (link.group not in table.GROUPS or time.monotonic() > deadline):
            break
        own = name == table.host_name(ct.ctid)  # nobody else's, whatever index a restore has given it
        if link is not None and (own or link.index - host_index(ct.ctid, 0) in range(16)):
            sock.attempt([rt.link_delete(name)])
        elif link is not None:
            time.sleep(0.01)
        error = sock.attempt([pair])[0]
    if error is not None:
        raise error


def set_up(sock: rt.Route, ct: Container) -> None:
    """Bring the node's end up, as ours, whoever made it: after a restore CRIU did."""
    device, index = table.host_name(ct.ctid), uplinks.index_of(table.host_name(ct.ctid))
    settings = rt.link_set(index, mac=venet_mac(ct.ctid), group=table.GROUP, no_address=True)
    sock.run([settings, rt.link_up(index, arp=False)])
    write_sysctl(f"net/ipv4/conf/{device}/forwarding", "1")
    # the kernel's own check of IPv4 sources: they must be what is routed to this device
    write_sysctl(f"net/ipv4/conf/{device}/rp_filter", "1")


def delete_link(sock: rt.Route, name: str) -> None:
    """Delete the node's end *name* of a CT's device; nothing where there is none, or it is somebody else's."""
    link = rt.link_get(sock, name)
    if link is not None and link.group in table.GROUPS:
        sock.attempt([rt.link_delete(name)])


def configure_inside(ctid: int, addresses: list[str]) -> None:
    """Make the CT's side, in its network namespace: the addresses, and one default route per family."""
    index = index_inside(ctid)
    with rt.Route() as sock:
        requests = [rt.link_set(index, no_address=True), rt.link_up(index, arp=False)]
        requests += [rt.address_add(index, address) for address in addresses]
        requests += [rt.default_route(index, family) for family in FAMILIES if of_family(addresses, family)]
        sock.run(requests)


def forget_inside(ctid: int, gone: list[str], kept: list[str]) -> None:
    """Take addresses away on the CT's side, and the default route of a family that has none left."""
    index = index_inside(ctid)
    with rt.Route() as sock:
        requests = [rt.address_delete(index, address) for address in gone]
        requests += [
            rt.default_route_delete(index, family)
            for family in FAMILIES
            if of_family(gone, family) and not of_family(kept, family)
        ]
        sock.attempt(requests)  # the CT's root may have done it


def route(sock: rt.Route, ct: Container, addresses: list[str]) -> None:
    """Lead *addresses* to the CT.

    Raises:
        VzError: the address is the node's own (89); it is routed elsewhere and FORCE_ROUTE is not on (34).
    """
    index = uplinks.index_of(table.host_name(ct.ctid))
    source = source_address(sock, ct.node) if ct.node.ve_route_src_dev else ""
    for address in addresses:
        check_not_local(sock, address)
    requests = [
        rt.route_add(index, address, replace=ct.node.force_route, source="" if ":" in address else source)
        for address in addresses
    ]
    for address, error in zip(addresses, sock.attempt(requests), strict=True):
        if error is not None and error.errno == errno.EEXIST and rt.route_get(sock, address).index != index:
            raise VzError(
                f"Unable to add a route to {address}: the node has one; FORCE_ROUTE=yes in vz.conf replaces it",
                ExitCode.CANT_ADDIP,
            )
        if error is not None and error.errno != errno.EEXIST:
            raise error


def check_not_local(sock: rt.Route, address: str) -> None:
    """Raise VzError (89) when *address* is one of the node's own: nothing for it would ever reach a CT."""
    try:
        kind = rt.route_get(sock, address).kind
    except OSError:
        return  # no route at all: nobody has it
    if kind in (rt.RTN_LOCAL, rt.RTN_BROADCAST):
        what = "the node's own" if kind == rt.RTN_LOCAL else "the broadcast address of a network of the node"
        raise VzError(f"Address {address} is not available: it is {what}", ExitCode.IP_NA)


def source_address(sock: rt.Route, node: NodeConfig) -> str:
    """Return the address of VE_ROUTE_SRC_DEV that the node's packets to the CT come from; VzError (34)."""
    name = node.ve_route_src_dev
    for uplink_index, _, address, _ in rt.addresses(sock, FAMILIES[0]):
        if uplink_index == uplinks.index_of(name):
            return address
    raise VzError(f"VE_ROUTE_SRC_DEV: device {name} has no IPv4 address, or is not there", ExitCode.CANT_ADDIP)


def answer(sock: rt.Route, ct: Container, addresses: list[str]) -> None:
    """Make the node answer for *addresses* on its uplinks."""
    found = uplinks.pairs(ct.node, uplinks.chosen(sock, ct.node), addresses)
    sock.run(uplinks.answer_for(found))


def unroute(sock: rt.Route, ct: Container, addresses: list[str]) -> None:
    """End routes and answers for *addresses*; those that another CT has got meanwhile are left alone."""
    mine = claims.owned(ct, addresses)
    index = uplinks.index_of(table.host_name(ct.ctid))
    requests = [rt.route_delete(index, address) for address in addresses if index]
    sock.attempt(requests + uplinks.no_answer_for(uplinks.chosen(sock, ct.node) if mine else [], mine))


def remove(sock: rt.Route, ct: Container, addresses: list[str]) -> None:
    """Take down the node's side but for the device itself: counts are kept, routes, answers and filter go."""
    device = table.host_name(ct.ctid)
    try:
        traffic.fold(ct.ctid)
    except OSError:
        pass  # a full disk: the CT goes all the same, and what it has sent since its start is not counted
    unroute(sock, ct, addresses)
    try:
        table.delete_ct(device, addresses)
    except OSError:
        pass  # a kernel without nftables
    claims.release(ct, addresses)
    claims.save_veip(ct.ctid, [])


def of_family(addresses: list[str], family: int) -> bool:
    """Tell whether one of *addresses* is of *family*."""
    return any((":" in address) == (family == FAMILIES[1]) for address in addresses)
