"""After a set that failed or was killed half-way: what it has touched of a running CT is brought to what its conf says.

``touched`` is written into the journal before the first change.  ``agree`` takes each of those things away, however
much of it there is, and makes it anew where the conf has it; so it can be done again, and it does not matter whether
the conf was saved before or after the kill.
"""

from __future__ import annotations

from vz.config import ubc
from vz.config.netif import FIELDS, Netif
from vz.container.ct import Container
from vz.container.record import Record
from vz.disk import quota
from vz.kernel import rtnetlink as rt
from vz.net import claims, connect, live, netdev, table, uplinks, venet, veth
from vz.ops import devnodes, distscripts, names
from vz.ops.join import open_init
from vz.requests import Change
from vz.resources import devices, limits, ubc_limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, str]

GUEST_ATTRS = frozenset(("hostname", "nameserver", "searchdomain", "ip_addr"))


def touched(ct: Container, change: Change, values: dict[str, Any]) -> Facts:
    """Return, for the journal, what carrying out *change* may touch; *ct* is as its conf says."""
    found = {"attrs": " ".join(sorted(values))}
    if "name" in values:
        found["names"] = "/".join(name for name in (ct.conf.name, values["name"]) if name)
    if "ip_addr" in values:
        added = [address.partition("/")[0] for address in change.ip_add]
        had = live.addresses(ct.ctid)
        gone = [address for address in had if change.ip_del_all or address in change.ip_del]
        found["addresses"] = " ".join(dict.fromkeys(added + gone))
    if "netif" in values:
        before, after = ct.conf.netif or [], values["netif"]
        for netif in before + after:
            veth.complete(ct, netif)
        sides = [netif for netif in before + after if netif not in before or netif not in after]
        found["netifs"] = " ".join(f"{netif.ifname}/{netif.host_ifname}/{netif.mac}" for netif in sides)
    if "netdev" in values:
        found["netdevs"] = " ".join(set(ct.conf.netdev or []) ^ set(values["netdev"]))
    if "devnodes" in values:
        before_nodes = set(devices.node_names(ct))
        old, ct.conf.devnodes = ct.conf.devnodes, values["devnodes"]
        found["devnodes"] = " ".join(before_nodes ^ set(devices.node_names(ct)))
        ct.conf.devnodes = old
    return found


def agree(ct: Container, facts: Facts) -> list[str]:
    """Bring what *facts* names to the conf of *ct*, which runs or not; return warnings.

    Raises:
        VzError: as set, for what cannot be brought there.
    """
    try:
        return _running(ct, facts) if ct.is_running() else []
    finally:
        if facts.get("names"):
            names.agree(ct.ctid, ct.conf.name or "", facts["names"].split("/"))


def _running(ct: Container, facts: Facts) -> list[str]:
    warnings: list[str] = []
    record, pidfd = open_init(ct)
    attrs = set(facts.get("attrs", "").split())
    if attrs & limits.ATTRS:
        limits.apply(ct, attrs & limits.ATTRS)
    counters = attrs & {*ubc.NAMES, "vm_overcommit"}
    if counters:
        ubc_limits.change(ct, record, counters)
    if attrs & quota.ATTRS and not quota.check_support(ct):
        quota.change(ct)
    if attrs & {"devices", "devnodes"}:
        devices.apply(ct)
    if facts.get("devnodes"):
        devnodes.renew(ct, record, pidfd, facts["devnodes"].split())
    if facts.get("addresses"):
        _addresses(ct, record, facts["addresses"].split())
    if facts.get("netifs"):
        warnings += _netifs(ct, record, [text.split("/") for text in facts["netifs"].split()])
    for name in facts.get("netdevs", "").split():
        warnings += _netdev(ct, record, name)
    if attrs & GUEST_ATTRS:
        from vz.ops.set import apply_guest

        values = {attr: getattr(ct.conf, attr) for attr in attrs if attr in GUEST_ATTRS}
        apply_guest(ct, pidfd, values)
        distscripts.at_set(ct, values, facts.get("addresses", "").split())
    return warnings


def _addresses(ct: Container, record: Record, half: list[str]) -> None:
    """Take the addresses *half* from the CT, from every place where one may be, and add those that it is to have."""
    device = table.host_name(ct.ctid)
    have = claims.read_veip(ct.ctid)
    kept = [address for address in have if address not in half]
    wanted = [address for address in ct.addresses() if address in half]
    with rt.Route() as sock:
        if kept:
            connect.filtered(lambda: table.delete_addresses(device, half), "", 0)
            venet.unroute(sock, ct, half)
            live.in_netns(record, lambda: venet.forget_inside(ct.ctid, half, kept))
            claims.release(ct, half)
            claims.save_veip(ct.ctid, kept)
        else:
            venet.remove(sock, ct, list(dict.fromkeys(have + half)))
            venet.delete_link(sock, device)
            record.netifs = [pair for pair in record.netifs if pair != (device, venet.VENET)]
            record.save()
    if wanted:
        live.add_addresses(ct, record, wanted, skip_arpdetect=True)
    now = claims.read_veip(ct.ctid)
    claims.save_veip(ct.ctid, [a for a in ct.addresses() if a in now] + [a for a in now if a not in ct.addresses()])


def _netifs(ct: Container, record: Record, sides: list[list[str]]) -> list[str]:
    """Bring the interfaces of *sides*, each [name inside, name on the node, MAC], before and after, to the conf."""
    warnings: list[str] = []
    wanted = {netif.ifname: netif for netif in ct.conf.netif or []}
    fresh = []
    with rt.Route() as sock:
        for ifname in dict.fromkeys(side[0] for side in sides):
            mine = [side for side in sides if side[0] == ifname]
            netif = wanted.get(ifname)
            for _, host, mac in mine:
                veth.unfilter(record, host)
                connect.filtered(lambda host=host, mac=mac: table.delete_netif(host, mac), "", 0)  # type: ignore[misc]
            there = [host for _, host, _ in mine if rt.link_get(sock, host) is not None]
            record.netifs = [pair for pair in record.netifs if pair[1] != ifname]
            if netif is not None and there and len(mine) > 1:  # changed in place: it keeps what it has inside
                record.netifs.append((there[0], ifname))
                other = Netif(**{field: getattr(netif, field) for field in FIELDS})
                other.host_ifname, other.mac, other.bridge = there[0], "-", "-"
                warnings += live.change_netif(ct, record, other, netif)
                continue
            for host in there:
                venet.delete_link(sock, host)
            record.save()
            if netif is not None:
                fresh.append(netif)
        for netif in fresh:  # when those that go no longer have its number
            warnings += connect.add_netif(sock, ct, record, netif, record.init_pid)
    return warnings


def _netdev(ct: Container, record: Record, name: str) -> list[str]:
    """Bring host device *name* to where the conf says it is; return warnings."""
    wanted, here = name in (ct.conf.netdev or []), bool(uplinks.index_of(name))
    warning = ""
    if wanted == here or not wanted:
        record.netdevs = [other for other in record.netdevs if other != name]
        record.netdev_indexes.pop(name, None)
    if wanted and here:
        live.add_netdev(ct, record, name)
    elif not wanted and not here and netdev.is_pinned(ct.ctid):
        warning = netdev.move_back(record, name)
    record.save()
    if not record.netdevs:
        netdev.unpin(ct.ctid)
    return [warning] if warning else []
