"""What criu leaves behind of a network namespace, saved at a dump and put back at the restore, message by message.

Routes in tables other than main and local, permanent and proxy neighbours, and traffic control (queueing disciplines,
classes, filters) of the CT's own devices and of its devices on the node: the kernel's answer to a dump request is
nearly the request that makes the same again; see rtnetlink(7).  The packet filter is ``net/firewall.py``.
"""

from __future__ import annotations

import _socket
import os
import struct

from vz.kernel.namespaces import CLONE_NEWNET, run_in_child, setns
from vz.kernel.netlink import NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Netlink, Request, attribute, attribute_list
from vz.kernel.network import read_sysctl, write_sysctl
from vz.kernel.rtnetlink import route_without_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NETLINK_ROUTE = 0
ADDR_GEN_MODE = 0  # among the message types of the entries: a sysctl in place of a message
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTM_NEWQDISC, RTM_GETQDISC = 36, 38
RTM_NEWTCLASS, RTM_GETTCLASS = 40, 42
RTM_NEWTFILTER, RTM_GETTFILTER = 44, 46
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RTM_F_CLONED = 0x200
RTA_CACHEINFO, RTA_TABLE = 12, 15
NUD_PERMANENT, NTF_PROXY = 0x80, 0x08
NDA_DST, NDA_LLADDR = 1, 2
TCA_KIND, TCA_OPTIONS, TCA_RATE, TCA_STAB, TCA_CHAIN = 1, 2, 5, 8, 11
TCA_HTB_INIT = 2
FLAGS = {b"u32\0": 11, b"flower\0": 22, b"bpf\0": 9, b"matchall\0": 3}
WITH_CLASSES = frozenset((b"htb\0", b"hfsc\0", b"drr\0", b"qfq\0"))
TC_KEPT = frozenset((TCA_KIND, TCA_OPTIONS, TCA_RATE, TCA_STAB, TCA_CHAIN))
_RTMSG = struct.Struct("=8BI")
_NDMSG = struct.Struct("=BBHiHBB")
_TCMSG = struct.Struct("=BBHiIII")
ROUNDS = 4  # a route may need another one first, a class its parent


class Saved:
    """Requests that make again what was there: (name of the kind, message type, body)."""

    __slots__ = ("entries",)

    def __init__(self, entries: list[tuple[str, int, bytes]] | None = None) -> None:
        self.entries = entries or []

    def dump(self) -> bytes:
        """Return this as the contents of a file."""
        return b"".join(f"{name} {kind} {len(body)}\n".encode() + body for name, kind, body in self.entries)

    @classmethod
    def parse(cls, data: bytes) -> Saved:
        """Return what dump() made; ValueError for anything else."""
        entries = []
        while data:
            head, _, data = data.partition(b"\n")
            name, kind, size = head.decode("ascii").split(" ")
            if len(data) < int(size):
                raise ValueError("cut short")
            entries.append((name, int(kind), data[: int(size)]))
            data = data[int(size) :]
        return cls(entries)


def save(init_pid: int, devices: list[str]) -> Saved:
    """Return what is worth carrying of the namespace of *init_pid*, and of its *devices* on the node."""
    saved = Saved.parse(in_netns(init_pid, lambda: Saved(_save_inside()).dump()))
    with Netlink(NETLINK_ROUTE) as route:
        for device in devices:
            try:
                index = _socket.if_nametoindex(device)
            except OSError:
                continue
            saved.entries += [(f"node:{device}", kind, body) for _, kind, body in _traffic_control(route, {index})]
    return saved


def restore_inside(init_pid: int, saved: Saved) -> list[str]:
    """Put back what belongs into the namespace of *init_pid*; return a line for each thing that could not be.

    To be called before the devices' other ends are up: a device makes its link-local address when it gets a carrier.
    """
    modes = {name.partition(":")[2]: body for name, kind, body in saved.entries if kind == ADDR_GEN_MODE}
    entries = [entry for entry in saved.entries if entry[1] != ADDR_GEN_MODE and not entry[0].startswith("node:")]
    if not entries and not modes:
        return []

    def inside() -> bytes:
        lines = []
        for name, mode in modes.items():
            try:
                write_sysctl(f"net/ipv6/conf/{name}/addr_gen_mode", mode.decode("ascii"))
            except OSError as exc:
                lines.append(f"addr_gen_mode of {name}: {exc.strerror}")
        return "\n".join(lines + (_replay(entries) if entries else [])).encode()

    return in_netns(init_pid, inside).decode("utf-8", "replace").splitlines()


def restore_outside(saved: Saved, names: dict[str, str]) -> list[str]:
    """Put back traffic control on the CT's devices on the node; return a line for each thing that could not be.

    *names* has the present names of those that were called otherwise.
    """
    lines = []
    for device in dict.fromkeys(name[5:] for name, _, _ in saved.entries if name.startswith("node:")):
        try:
            index = _socket.if_nametoindex(names.get(device, device))
        except OSError:
            continue
        entries = [
            ("tc", kind, body[:4] + struct.pack("=i", index) + body[8:])
            for name, kind, body in saved.entries
            if name == f"node:{device}"
        ]
        lines += [f"{line} of {device}" for line in _replay(entries)]
    return lines


def in_netns(pid: int, function: Callable[[], bytes]) -> bytes:
    """Return what *function* returns in a child that is in the network namespace of process *pid*."""
    netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:

        def inside() -> bytes:
            setns(netns, CLONE_NEWNET)
            return function()

        return run_in_child(inside)
    finally:
        os.close(netns)


def _save_inside() -> list[tuple[str, int, bytes]]:
    found = _link_local_modes()
    with Netlink(NETLINK_ROUTE) as route:
        for family in (_socket.AF_INET, _socket.AF_INET6):
            found += _routes(route, family)
            found += _neighbours(route, family)
        found += _traffic_control(route, {index for index, _ in _socket.if_nameindex()})
    return found


def _link_local_modes() -> list[tuple[str, int, bytes]]:
    """Return how devices make their link-local address, where that is another way than the kernel's usual one."""
    found = []
    for name in [name for _, name in _socket.if_nameindex()]:
        mode = read_sysctl(f"net/ipv6/conf/{name}/addr_gen_mode")
        if mode.isdecimal() and mode != "0":
            found.append((f"device:{name}", ADDR_GEN_MODE, mode.encode()))
    return found


def _routes(route: Netlink, family: int) -> list[tuple[str, int, bytes]]:
    found = []
    for body in _dump(route, RTM_GETROUTE, _RTMSG.pack(family, *[0] * 8)):
        fields = _RTMSG.unpack_from(body)
        table, flags = fields[4], fields[8]
        for kind, value in attribute_list(body[_RTMSG.size :]):
            if kind == RTA_TABLE:
                table = int.from_bytes(value, "little")
        if table in (0, RT_TABLE_MAIN, RT_TABLE_LOCAL) or flags & RTM_F_CLONED:
            continue  # criu has the main one, the kernel makes the local one
        found.append(("route", RTM_NEWROUTE, route_without_state(body, (RTA_CACHEINFO,))))
    return found


def _neighbours(route: Netlink, family: int) -> list[tuple[str, int, bytes]]:
    found = []
    for proxy in (0, NTF_PROXY):
        for body in _dump(route, RTM_GETNEIGH, _NDMSG.pack(family, 0, 0, 0, 0, proxy, 0)):
            of, _, _, index, state, flags, _ = _NDMSG.unpack_from(body)
            if of != family or bool(flags & NTF_PROXY) != bool(proxy) or not (proxy or state & NUD_PERMANENT):
                continue
            kept = [part for part in attribute_list(body[_NDMSG.size :]) if part[0] in (NDA_DST, NDA_LLADDR)]
            head = _NDMSG.pack(family, 0, 0, index, 0 if proxy else NUD_PERMANENT, flags, 0)
            found.append(("neighbour", RTM_NEWNEIGH, head + _packed(kept)))
    return found


def _traffic_control(route: Netlink, indexes: set[int]) -> list[tuple[str, int, bytes]]:
    """Return the disciplines that somebody made (they have a handle), their classes and filters, in that order."""
    found: list[tuple[str, int, bytes]] = []
    disciplines = []
    for body in _dump(route, RTM_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0, 0, 0)):
        _, _, _, index, handle, parent, _ = _TCMSG.unpack_from(body)
        if index in indexes and handle >> 16:
            disciplines.append((index, handle, parent))
            found.append(("tc", RTM_NEWQDISC, _tc(body)))
    for index in dict.fromkeys(index for index, _, _ in disciplines):
        classes = {}
        for body in _dump(route, RTM_GETTCLASS, _TCMSG.pack(0, 0, 0, index, 0, 0, 0)):
            if dict(attribute_list(body[_TCMSG.size :])).get(TCA_KIND) in WITH_CLASSES:
                classes[struct.unpack_from("=I", body, 8)[0]] = body
        for handle in sorted(classes, key=lambda handle: _depth(classes, handle)):
            found.append(("tc", RTM_NEWTCLASS, _tc(classes[handle], info=0)))
    for index, handle, _ in disciplines:
        for body in _dump(route, RTM_GETTFILTER, _TCMSG.pack(0, 0, 0, index, 0, handle, 0)):
            of = struct.unpack_from("=I", body, 8)[0]
            kinds = dict(attribute_list(body[_TCMSG.size :]))
            # the first answer for each filter names the filter itself; a hash table 800: comes with the first rule
            if of and TCA_OPTIONS in kinds and not (kinds.get(TCA_KIND) == b"u32\0" and not of & 0xFFFFF):
                found.append(("tc", RTM_NEWTFILTER, _tc(body)))
    return found


def _depth(classes: dict[int, bytes], handle: int) -> int:
    """Return how many classes a class has above it: htb takes one whose parent is missing for a root."""
    depth = 0
    while handle in classes and depth < 16:
        handle = struct.unpack_from("=I", classes[handle], 12)[0]
        depth += 1
    return depth


def _tc(body: bytes, info: int | None = None) -> bytes:
    head = list(_TCMSG.unpack_from(body))
    if info is not None:
        head[6] = info
    elif head[4] & 0xFFFF == 0 and head[5] != 0 and head[6] < 0x10000:
        head[6] = 0  # of a discipline: how many refer to it
    kept = [(kind, value) for kind, value in attribute_list(body[_TCMSG.size :]) if kind & 0x3FFF in TC_KEPT]
    name = dict(kept).get(TCA_KIND, b"")
    kept = [(kind, _options(name, value) if kind & 0x3FFF == TCA_OPTIONS else value) for kind, value in kept]
    return _TCMSG.pack(*head) + _packed(kept)


def _options(name: bytes, options: bytes) -> bytes:
    """Return options as they are taken, where they are told in another way: htb's version, flags that report."""
    if name not in FLAGS and name != b"htb\0":
        return options
    out = []
    for kind, value in attribute_list(options):
        if name == b"htb\0" and kind == TCA_HTB_INIT and int.from_bytes(value[:4], "little") > 0xFFFF:
            value = struct.pack("=I", struct.unpack_from("=I", value)[0] >> 16) + value[4:]
        elif kind == FLAGS.get(name) and len(value) == 4:
            value = struct.pack("=I", struct.unpack("=I", value)[0] & 3)  # skip_hw, skip_sw
        out.append((kind, value))
    return _packed(out)


def _replay(entries: list[tuple[str, int, bytes]]) -> list[str]:
    """Send *entries*; those that fail are tried again after the others.  Returns a line for each that never worked."""
    left = entries
    errors: list[OSError | None] = []
    with Netlink(NETLINK_ROUTE) as route:
        for _ in range(ROUNDS):
            flags = [0 if kind == RTM_NEWTFILTER else NLM_F_REPLACE for _, kind, _ in left]
            requests = [Request(kind, NLM_F_CREATE | flag, body) for (_, kind, body), flag in zip(left, flags)]
            errors = route.attempt(requests)
            again = [entry for entry, error in zip(left, errors) if error is not None]
            if len(again) in (0, len(left)):
                break
            left = again
    lines = [f"{name}: {error.strerror}" for (name, _, _), error in zip(left, errors) if error is not None]
    return list(dict.fromkeys(lines))


def _dump(route: Netlink, kind: int, body: bytes) -> list[bytes]:
    try:
        return route.ask(Request(kind, NLM_F_DUMP, body))
    except OSError:
        return []  # a family or a part that this kernel has not


def _packed(attributes: list[tuple[int, bytes]]) -> bytes:
    return b"".join(attribute(kind, value) for kind, value in attributes)
