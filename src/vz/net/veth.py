"""Bridged interfaces (NETIF): a veth pair whose node's end is a port of a bridge, held to its MAC by the filter.

EXTERNAL_SCRIPT of /etc/vz/vznet.conf, where there is one, does what is done with the node's end in place of that.
"""

from __future__ import annotations

import _socket
import os
import time

from vz.config.netif import Netif, host_ifname, made_mac
from vz.config.paths import ETC
from vz.container.ct import Container
from vz.container.record import Record
from vz.errors import ExitCode, VzError
from vz.kernel import rtnetlink as rt
from vz.net import table, uplinks, venet

VZNET_CONF = f"{ETC}/vznet.conf"
DEFAULT_BRIDGE = "vmbr0"
PORT_MAC = "FE:FF:FF:FF:FF:FF"
SCRIPT_LIMIT_S = 300.0
FORWARDING, FORWARDING_S = 3, 65.0  # BR_STATE_FORWARDING of if_bridge.h; longest forward delay of IEEE 802.1D, twice


def complete(ct: Container, netif: Netif) -> None:
    """Fill in what a hand-written NETIF leaves open."""
    netifs = ct.conf.netif or []
    number = next((number for number, other in enumerate(netifs) if other.ifname == netif.ifname), 0)
    netif.host_ifname = netif.host_ifname or host_ifname(ct.ctid, number)
    netif.mac = netif.mac or made_mac(f"{ct.ctid}.{netif.ifname}")
    netif.host_mac = netif.host_mac or netif.mac


def port_mac(netif: Netif) -> str:
    """Return the MAC of the node's end: a bridge keeps what is for a port's own, so it must not be the CT's."""
    return netif.host_mac if netif.host_mac != netif.mac else PORT_MAC


def make(sock: rt.Route, ct: Container, netif: Netif, init_pid: int) -> None:
    """Make the pair and see to the node's end; VzError (130) from the external script."""
    link = rt.link_get(sock, netif.host_ifname)
    first = venet.host_index(ct.ctid, 0)
    # a number of the CT's own that is free, or that of the link that has to make way
    free = (number for number in range(1, 16) if not uplinks.name_of(first + number))
    number = link.index - first if link is not None and link.index - first in range(1, 16) else next(free, 0)
    outer, inner = (first + number, venet.inside_index(ct.ctid, number)) if number else (0, 0)
    outside = rt.Link(netif.host_ifname, port_mac(netif), outer, group=table.PORT_GROUP)
    inside = rt.Link(netif.ifname, netif.mac, inner)
    venet.add_pair(sock, ct, netif.host_ifname, rt.link_add_veth(outside, inside, init_pid))
    attach_port(sock, ct, netif)


def set_mac_inside(netif: Netif) -> None:
    """Give the CT's end its MAC, in the CT's network namespace."""
    with rt.Route() as sock:
        sock.run([rt.link_set(uplinks.index_of(netif.ifname), mac=netif.mac)])


def attach_port(sock: rt.Route, ct: Container, netif: Netif) -> None:
    """Put the node's end on its bridge and up, or let the external script do with it what it does."""
    index = uplinks.index_of(netif.host_ifname)
    script = external_script()
    if script:
        return run_external(script, ct.ctid, netif)
    if netif.bridge:
        add_to_bridge(sock, index, netif.bridge)
    sock.run([rt.link_up(index)])
    return None


def add_to_bridge(sock: rt.Route, index: int, bridge: str) -> None:
    """Make link *index* a port of *bridge*, without addresses of its own; VzError (130): there is no such bridge."""
    master = uplinks.index_of(bridge)
    if not master:
        raise VzError(f"Bridge {bridge} is not on this node", ExitCode.VETH_ERROR)
    sock.run([rt.link_set(index, no_address=True), rt.link_set(index, master=master)])


def netif_of(ctid: int, name: str) -> Netif | None:
    """Return the entry of CT *ctid*'s NETIF whose interface is *name* on the node; None when there is none.

    Raises:
        VzError: there is no such CT (14), or its conf cannot be used (85).
    """
    from vz.config.nodeconfig import load_node
    from vz.container.ct import load

    ct = load(ctid, load_node())
    netifs: list[Netif] = ct.conf.netif or []
    for netif in netifs:
        complete(ct, netif)
        if netif.host_ifname == name:
            return netif
    return None


def external_script() -> str:
    """Return EXTERNAL_SCRIPT of vznet.conf, "" when there is none; VzError (130): it cannot be run."""
    if not os.path.exists(VZNET_CONF):
        return ""
    from vz.config.conffile import ConfFile

    try:
        script = ConfFile.read(VZNET_CONF).get("EXTERNAL_SCRIPT") or ""
    except OSError as exc:
        raise VzError(f"Unable to read {VZNET_CONF}: {exc.strerror}", ExitCode.VETH_ERROR) from exc
    if script and (os.path.basename(script) == "vznetcfg" or not os.access(script, os.X_OK)):
        why = "would call itself" if os.path.basename(script) == "vznetcfg" else "is not an executable file"
        raise VzError(f"{VZNET_CONF}: EXTERNAL_SCRIPT {script} {why}", ExitCode.VETH_ERROR)
    return script


def run_external(script: str, ctid: int, netif: Netif) -> None:
    """Run *script* as ``init veth INTERFACE``; VzError (130) when it fails.

    Its environment has VEID, and of the interface HNAME, VNAME (inside), HMAC, VMAC and BRIDGE: with ``set`` the conf
    does not know it yet.
    """
    from vz.kernel.process import TOOL_ENV, spawn

    device = netif.host_ifname
    argv = [script, "init", "veth", device]
    env = {**TOOL_ENV, "HOME": "/", "VEID": str(ctid), "HNAME": device, "VNAME": netif.ifname}
    env |= {"HMAC": netif.host_mac, "VMAC": netif.mac, "BRIDGE": netif.bridge}
    try:
        result = spawn(argv, env=env, timeout_s=SCRIPT_LIMIT_S)
    except OSError as exc:
        raise VzError(f"Unable to run {script}: {exc.strerror}", ExitCode.VETH_ERROR) from exc
    if result.stdout:
        os.write(1, result.stdout)
    if result.status:
        words = result.stderr.decode("utf-8", "replace").strip().splitlines()
        why = f": {words[0]}" if words else ""
        raise VzError(f"{script} init veth {device} failed with status {result.status}{why}", ExitCode.VETH_ERROR)


def announce(init_pid: int, names: dict[str, str]) -> None:
    """Tell the segments of the CT's interfaces where their addresses are now; nobody waits for it.

    *names*: {name inside: name of the node's end}.  The frames come from inside: that is how the bridges on their way
    learn the port.
    """
    from vz.kernel.namespaces import CLONE_NEWNET, setns
    from vz.kernel.process import in_background
    from vz.net import neighbours

    netns = os.open(f"/proc/{init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def say() -> None:
        for outside in names.values():
            wait_for_port(outside)
        setns(netns, CLONE_NEWNET)
        indexes = {index: name for index, name in _socket.if_nameindex() if name in names}
        with rt.Route() as sock:
            found = [entry for family in (_socket.AF_INET, _socket.AF_INET6) for entry in rt.addresses(sock, family)]
        neighbours.announce_each([(indexes[index], address) for index, _, address, _ in found if index in indexes])

    in_background(say, [netns])


def wait_for_port(device: str) -> None:
    """Wait until the bridge that *device* is a port of passes its frames on; at most FORWARDING_S, or while it is one.

    It learns of the carrier a moment after it is there, and with the spanning tree protocol waits twice 2 to 30 s.
    """
    deadline, pause_s = time.monotonic() + FORWARDING_S, 0.005
    with rt.Route() as sock:
        while time.monotonic() < deadline:
            link = rt.link_get(sock, device)
            if link is None or link.state in (-1, FORWARDING):
                return
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.5)


def remove(sock: rt.Route, record: Record, name: str) -> None:
    """Remove an interface and what the filter knows of it; one that is gone is no error."""
    venet.delete_link(sock, name)
    unfilter(record, name)


def remove_restored(record: Record) -> None:
    """Remove the node's ends that a restore has made: by their index nobody knows them for this CT's afterwards.

    A connection that nobody has closed keeps the dead CT's network namespace, and so the device, for minutes.
    """
    for name, index in record.restored.items():
        if uplinks.index_of(name) == index:
            with rt.Route() as sock:
                venet.delete_link(sock, name)
    record.restored.clear()


def unfilter(record: Record, name: str) -> None:
    """Hold the interface to its MAC no longer."""
    mac = record.macs.pop(name, "")
    if mac:
        try:
            table.delete_netif(name, mac)
        except OSError:
            pass  # a kernel without nftables for bridges
