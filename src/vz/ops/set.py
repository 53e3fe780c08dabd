"""set: change a CT's configuration; live where it runs, in its file with --save."""

from __future__ import annotations

import os

from vz import guest
from vz.config import samples, ubc
from vz.config.conffile import ConfFile
from vz.config.ctconfig import load_ct
from vz.config.merge import merge, merge_addresses
from vz.config.netif import FIELDS, Netif, parse_netif_add
from vz.config.options import BY_ATTR, UBC_KINDS
from vz.config.units import UNLIMITED
from vz.config.values import PARTS_OF_NETFILTER, part_of_netfilter
from vz.container.ct import Container, load, printable
from vz.disk import layout, quota
from vz.errors import BadSyntax, ExitCode, VzError
from vz.net import live
from vz.ops import distscripts, guestfiles, journal, names
from vz.ops.join import edit_in_ct, edit_in_root, open_init
from vz.ops.report import say, say_devices, say_limits, say_netifs, warn
from vz.requests import Change
from vz.resources import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

UBC_ATTRS = frozenset(UBC_KINDS) | {"vm_overcommit"}
IO_ATTRS = frozenset(("ioprio", "iolimit", "iopslimit"))
RESOURCE_ATTRS = (
    UBC_ATTRS | IO_ATTRS | quota.ATTRS | frozenset("cpuunits cpulimit cpus cpumask nodemask devices devnodes".split())
)
RESTART_NAMES = {
    "netfilter": "iptables/netfilter",
    "iptables": "iptables/netfilter",
    "mount_opts": "mount options",
    "disk_quota": "disk quota",
}
UNSAVED_RUNNING = "WARNING: Settings were not saved to config and will be lost after CT restart (use --save flag)"
UNSAVED_STOPPED = "WARNING: Settings were not saved to config (use --save flag)"
NO_CHANGES = "No changes in CT configuration, not saving"
_NO_DEFAULT = frozenset(("ip_addr", "netif", "netdev", "name"))  # absent is empty: vz.conf has no say
_GUEST_FILES = (
    ("hostname", "/etc/hostname", "the host name", ExitCode.BADHOSTNAME),
    ("nameserver", "/etc/resolv.conf", "name servers", ExitCode.BADDNSSRV),
    ("searchdomain", "/etc/resolv.conf", "search domains", ExitCode.BADDNSSEARCH),
)


def set_values(ct: Container, change: Change) -> int:
    """Carry out *change* on *ct*; return the exit status.

    Raises:
        VzError: the documented status of the step that failed; with --save the conf is then untouched.
    """
    if change.is_empty() and change.save:
        say(NO_CHANGES)
        return ExitCode.OK
    check(ct, change)
    running = ct.is_running()
    if change.userpasswd:
        set_password(ct, *change.userpasswd, running)
    values = merged(ct, change)
    if change.applyconfig:
        values = {**from_sample(ct, change.applyconfig), **values}
    if change.applyconfig_map and ct.conf.name:
        lock = names.lock()
        try:
            names.assign(ct.ctid, ct.conf.name)
        finally:
            os.close(lock)
    if not values:
        if change.save and not change.userpasswd:
            say(NO_CHANGES)
        return ExitCode.OK
    if not running and not change.save and RESOURCE_ATTRS & set(values):
        raise VzError("Unable to apply new values: container is not running", ExitCode.VE_NOT_RUNNING)
    check_vswap(ct, values)
    for text in without_effect(ct, values):
        warn(f"WARNING: {text}")
    if running or (change.save and "name" in values):
        with Half(ct, change, values) as half:
            if running:
                set_running(ct, change, values)
                if change.setmode == "restart":
                    half.note()
            finish(ct, change, values, running)
    else:
        if has_tree_limits(ct, values) and ct.is_mounted():
            try:
                apply_quota(ct, values)
            except VzError as exc:
                if not change.force:
                    raise
                warn(str(exc))
        finish(ct, change, values, running)
    return ExitCode.OK


def finish(ct: Container, change: Change, values: dict[str, Any], running: bool) -> None:
    """Save *values*, or say that they are not saved."""
    if "diskspace" in change.values and layout.layout_name(ct) == "ploop":
        from vz.ops import image

        image.resize(ct, change, values["diskspace"][1])
    if change.save:
        save(ct, values)
    else:
        say(UNSAVED_RUNNING if running else UNSAVED_STOPPED)


class Half:
    """``with Half(…)``: the journal says what is touched; a failure inside brings that back to what the conf says."""

    __slots__ = ("_ct", "_facts")

    def __init__(self, ct: Container, change: Change, values: dict[str, Any]) -> None:
        from vz.ops import agree

        self._ct = ct
        self._facts = agree.touched(ct, change, values)

    def __enter__(self) -> Half:
        self.note()
        return self

    def note(self) -> None:
        """Begin the journal, or begin it again: the stop and the start of a restart have their own."""
        journal.begin(self._ct.ctid, "set", **self._facts)

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        ct = self._ct
        if exc is not None:
            from vz.ops import agree

            try:
                for text in agree.agree(load(ct.ctid, ct.node), self._facts):
                    warn(text)
            except (VzError, OSError) as failed:
                if str(failed) != str(exc):  # else it is what failed before, and has changed nothing
                    why = failed.strerror if isinstance(failed, OSError) else failed
                    warn(f"WARNING: the container is not wholly as it was, the next command tries that again: {why}")
                    return
        journal.end(ct.ctid)


def check_vswap(ct: Container, values: dict[str, Any]) -> None:
    """Refuse RAM without swap: a VSwap configuration needs both (28)."""
    if "physpages" in values or "swappages" in values:
        ram = values.get("physpages", ct.conf.physpages)
        if ram and ram[1] < UNLIMITED and values.get("swappages", ct.conf.swappages) is None:
            raise VzError("Error: required UB parameter swap not set", ExitCode.NOTENOUGHUBCPARAMS)


def reset_ub(ct: Container) -> int:
    """Bring the beancounters of the conf into force on a running CT again.

    Raises:
        VzError: it does not run (31), the kernel refused one (1).
    """
    if not ct.is_running():
        raise VzError("Unable to apply new values: container is not running", ExitCode.VE_NOT_RUNNING)
    from vz.resources import ubc_limits

    record, pidfd = open_init(ct)
    os.close(pidfd)
    ubc_limits.change(ct, record, set(ubc.NAMES))
    say("UB limits were set successfully")
    return ExitCode.OK


def without_effect(ct: Container, values: dict[str, Any]) -> list[str]:
    """Return a line for each of *values* that is kept and does nothing in this version."""
    found = []
    if "mount_opts" in values and layout.layout_name(ct) != "ploop":
        found.append("MOUNT_OPTS counts for the ploop layout only: it has no effect on this container")
    if values.get("netfilter") in PARTS_OF_NETFILTER:
        found.append(part_of_netfilter(values["netfilter"]))
    counted = {name for name in ubc.NAMES if name in values}
    if counted:
        found += counted_only(ct, values, counted)
    if layout.layout_name(ct) == "ploop" and {"diskinodes", "quotatime"} & set(values):
        found.append("DISKINODES and QUOTATIME have no effect on a ploop image: its size is its limit")
    if has_tree_limits(ct, values) and not ct.is_mounted():  # else it is refused
        why = quota.check_support(with_values(ct, values))
        if why:
            found.append(f"disk limits are saved, and do not hold on this node: {why}")
    if IO_ATTRS & set(values):
        from vz.resources import blkio

        changed = with_values(ct, {attr: values[attr] for attr in IO_ATTRS & set(values)})
        found += blkio.problems(changed, set(IO_ATTRS & set(values)))
    return found


def with_values(ct: Container, values: dict[str, Any]) -> Container:
    """Return *ct* as it would be with *values* in its conf."""
    changed = Container(ct.ctid, ct.node, load_ct(ct.ctid, ct.node))
    for attr, value in values.items():
        setattr(changed.conf, attr, value)
    return changed


def counted_only(ct: Container, values: dict[str, Any], names: set[str]) -> list[str]:
    """Return a line that names the limits that this kernel only counts, where there are any."""
    from vz.resources.beancounters import not_kept

    idle = not_kept({name: values[name] for name in names})
    return [f"this kernel cannot enforce, only count: {', '.join(idle)}"] if idle else []


def set_running(ct: Container, change: Change, values: dict[str, Any]) -> None:
    """Bring *values* into force on a running CT, by a restart where one is asked for and needed.

    Raises:
        VzError: the status of the step that failed; 32: --setmode ignore, and a value needs a restart.
    """
    restart_only = sorted(
        attr for attr, value in values.items() if BY_ATTR[attr].applies == "restart" and value != getattr(ct.conf, attr)
    )
    try:
        if restart_only and change.setmode == "ignore":
            text = f"Unable to set {', '.join(map(_restart_name, restart_only))} on a running container"
            raise VzError(text, ExitCode.VE_RUNNING)
        if restart_only and change.setmode == "restart":
            restart(ct, values)
            return
        apply_live(ct, change, values)
    except VzError as exc:
        if not change.save:
            raise
        if not change.force or change.setmode:
            warn("Error: failed to apply some parameters, not saving configuration file!")
            raise
        warn(str(exc))
        warn("WARNING: not everything could be applied now; it is saved and counts from the next start (--force)")
    for attr in restart_only:
        warn(f"Unable to set {_restart_name(attr)} on a running container")
    if restart_only:
        warn(
            "WARNING: Some of the parameters could not be applied to a running container. "
            "Please consider using --setmode option"
        )


def check(ct: Container, change: Change) -> None:
    """Refuse combinations that mean nothing, before anything changes."""
    if change.is_empty():
        raise BadSyntax("set: nothing to set")
    values = change.values
    if "diskspace" in values and layout.layout_name(ct) == "ploop":
        from vz.ops import image

        image.check(save=change.save)
    if values.get("name"):
        names.check_free(ct.ctid, values["name"])
    for attr, key in (("ve_root", "VE_ROOT"), ("ve_private", "VE_PRIVATE")):
        if attr in values and ct.is_running():
            raise VzError(f"Unable to change {key} on a running container", ExitCode.VE_RUNNING)
        if attr in values and ct.is_mounted():
            raise VzError(f"Unable to change {key} on a mounted container (umount first)", ExitCode.FS_MOUNTED)
    for name in [edit["ifname"] for edit in change.netif_edit]:
        if not any(netif.ifname == name for netif in ct.conf.netif or []):
            raise VzError(f"Container has no interface {name}: add it with --netif_add", ExitCode.VETH_ERROR)
    for text in change.netif_add:
        if any(netif.ifname == text.partition(",")[0] for netif in ct.conf.netif or []):
            raise VzError(f"Container has an interface {text.partition(',')[0]} already", ExitCode.VETH_ERROR)


def merged(ct: Container, change: Change) -> dict[str, Any]:
    """Return the new value of every key that changes; lists are added to and taken from what is there."""
    values = dict(change.values)
    if change.ip_add or change.ip_del or change.ip_del_all:
        gone = ["all"] if change.ip_del_all else change.ip_del
        values["ip_addr"] = merge_addresses(ct.conf.ip_addr or [], gone, usable(ct, change.ip_add))
    if change.netif_add or change.netif_del or change.netif_edit:
        values["netif"] = new_netifs(ct, change)
    if change.netdev_add or change.netdev_del:
        kept = [name for name in ct.conf.netdev or [] if name not in change.netdev_del]
        values["netdev"] = list(dict.fromkeys(kept + change.netdev_add))
    for attr in ("capability", "features", "devices", "devnodes"):
        if attr in values:
            values[attr] = merge(attr, getattr(ct.conf, attr), values[attr])
    return values


def usable(ct: Container, addresses: list[str]) -> list[str]:
    """Return *addresses* without the IPv6 ones where the node has IPv6 off; that is said."""
    if ct.node.ipv6:
        return addresses
    for address in addresses:
        if ":" in address:
            warn(f"WARNING: IPv6 is off in /etc/vz/vz.conf: {address} is left out")
    return [address for address in addresses if ":" not in address]


def new_netifs(ct: Container, change: Change) -> list[Netif]:
    """Return NETIF after deletions, additions and edits."""
    netifs = [n for n in ct.conf.netif or [] if "all" not in change.netif_del and n.ifname not in change.netif_del]
    for text in change.netif_add:
        netifs.append(parse_netif_add(text, ct.ctid, _free_number(ct.ctid, netifs)))
    for edit in change.netif_edit:
        netifs = [_edited(netif, edit) if netif.ifname == edit["ifname"] else netif for netif in netifs]
    names_on_host = [netif.host_ifname for netif in netifs if netif.host_ifname]
    for name in names_on_host:
        if names_on_host.count(name) > 1:
            raise VzError(f"Two interfaces of the container would be {name} on the node", ExitCode.VETH_ERROR)
    return netifs


def _free_number(ctid: int, netifs: list[Netif]) -> int:
    """Return the least number that no name on the node made up for the CT has; see parse_netif_add."""
    taken = {netif.host_ifname for netif in netifs}
    return next(n for n in range(len(netifs) + 1) if not {f"veth{ctid}.{n}", f"v{ctid}.{n}"} & taken)


def _edited(netif: Netif, fields: dict[str, Any]) -> Netif:
    return Netif(**{**{field: getattr(netif, field) for field in FIELDS}, **fields})


def from_sample(ct: Container, name: str) -> dict[str, Any]:
    """Return the values of sample *name*, identity left out; VzError (109) when it cannot be had."""
    conf = samples.read_sample(name, ExitCode.APPLY_CONFIG_ERROR)
    parsed = load_ct(ct.ctid, ct.node, conf=conf)
    found = {}
    for key in conf.keys():
        option = next((option for option in BY_ATTR.values() if option.key == key), None)
        if option is not None and key not in samples.KEPT and getattr(parsed, option.attr) is not None:
            found[option.attr] = getattr(parsed, option.attr)
    found["origin_sample"] = name
    return found


def apply_live(ct: Container, change: Change, values: dict[str, Any]) -> None:
    """Bring a running CT to *values*, those that have a live part."""
    old = {attr: getattr(ct.conf, attr) for attr in values}
    for attr, value in values.items():
        setattr(ct.conf, attr, value)
    record, pidfd = open_init(ct)
    if has_tree_limits(ct, values):
        apply_quota(ct, {})
    resource_attrs = RESOURCE_ATTRS & set(values) - quota.ATTRS
    if resource_attrs:
        if resource_attrs - UBC_ATTRS:
            limits.apply(ct, set(resource_attrs - UBC_ATTRS))
        if resource_attrs & UBC_ATTRS:
            from vz.resources import ubc_limits

            ubc_limits.change(ct, record, set(resource_attrs & UBC_ATTRS))
        say_limits(values)
    if {"devices", "devnodes"} & set(values):
        from vz.resources import devices

        say_devices()
        devices.apply(ct)
    if "devnodes" in values:
        from vz.ops import devnodes

        devnodes.sync(ct, record, pidfd)
    if "ip_addr" in values:
        _apply_addresses(ct, record, change)
    if "netif" in values:
        _apply_netifs(ct, record, old["netif"] or [], values["netif"])
    for name in change.netdev_del:
        _warn_all(live.delete_netdev(ct, record, name))
    for name in change.netdev_add:
        live.add_netdev(ct, record, name)
    if {"hostname", "nameserver", "searchdomain", "ip_addr"} & set(values):
        apply_guest(ct, pidfd, values)
        distscripts.at_set(ct, values, old.get("ip_addr") or [])


def has_tree_limits(ct: Container, values: dict[str, Any]) -> bool:
    """Tell whether *values* has limits that the quota of the node's file system keeps."""
    return bool(quota.ATTRS & set(values)) and layout.layout_name(ct) != "ploop"


def apply_quota(ct: Container, values: dict[str, Any]) -> None:
    """Bring the disk limits of a mounted CT to its conf with *values* in it.  VzError: 62."""
    text = quota.change(with_values(ct, values) if values else ct)
    if text:
        warn(f"WARNING: {text}")


def _warn_all(texts: list[str]) -> None:
    for text in texts:
        warn(text)


def _apply_addresses(ct: Container, record: Any, change: Change) -> None:
    """Take and add addresses: from and to those that it has, which may be others than its conf says."""
    had = live.addresses(ct.ctid)
    gone = [address for address in had if change.ip_del_all or address in change.ip_del]
    added = [address.partition("/")[0] for address in change.ip_add if ct.node.ipv6 or ":" not in address]
    fresh = [address for address in dict.fromkeys(added) if address not in had or address in gone]
    if gone:
        say(f"Deleting IP address(es): {' '.join(gone)}")
        live.delete_addresses(ct, record, gone)
    if fresh:
        say(f"Adding IP address(es): {' '.join(fresh)}")
        _warn_all(live.add_addresses(ct, record, fresh, skip_arpdetect=change.skip_arpdetect))


def _apply_netifs(ct: Container, record: Any, before: list[Netif], after: list[Netif]) -> None:
    say_netifs([netif.ifname for netif in after])
    present = {netif.ifname: netif for netif in before}
    for name in present.keys() - {netif.ifname for netif in after}:
        live.delete_netif(ct, record, present[name])
    for netif in after:
        old = present.get(netif.ifname)
        if old is None:
            _warn_all(live.add_netif(ct, record, netif))
        elif old != netif:
            _warn_all(live.change_netif(ct, record, old, netif))


def apply_guest(ct: Container, pidfd: int, values: dict[str, Any]) -> None:
    """Bring the CT's own files, and its host name, to its configuration.

    Raises:
        VzError: what was asked for could not be written: 70 host name, 72 name servers, 73 search domains.
    """
    config = guestfiles.guest_config(ct)

    def edit() -> bytes:
        if "hostname" in values and config.hostname:
            from vz.kernel.namespaces import sethostname

            sethostname(config.hostname.encode())
        return "\n".join(guest.configure(config)).encode("utf-8", "surrogateescape")

    for line in edit_in_ct(ct, pidfd, edit).decode("utf-8", "replace").splitlines():
        for attr, path, what, code in _GUEST_FILES:
            if attr in values and line.startswith(f"{path}:"):
                raise VzError(f"Unable to set {what}: {printable(line)}", code)
        warn(f"WARNING: {printable(line)}")


def save(ct: Container, values: dict[str, Any]) -> None:
    """Write *values* to the CT's conf; VzError (139)."""
    conf = ct.conf.conf
    if conf is None:
        warn(f"WARNING: {ct.conf_path} does not exist: it is made anew")
        conf = ConfFile(ct.conf_path)
    old_name = conf.get("NAME") or ""
    changed = put(conf, values)
    if changed and not conf.get("VE_LAYOUT") and os.path.isdir(ct.private):
        conf.set("VE_LAYOUT", layout.layout_name(ct))
    lock = names.lock() if "name" in values else -1
    try:
        name = values.get("name") or ""
        fresh = bool(name) and (name != old_name or names.owner_of(name) != ct.ctid)  # the link may have been lost
        if fresh:  # a link counts once the conf says the same
            names.assign(ct.ctid, name)
        try:
            if changed:
                conf.save(ct.conf_path)
        except OSError as exc:
            raise VzError(f"Unable to save {ct.conf_path}: {exc.strerror}", ExitCode.CONFIG_SAVE_ERROR) from exc
        if lock >= 0 and old_name and name != old_name:
            names.remove_link(ct.ctid, old_name)
    finally:
        if lock >= 0:
            os.close(lock)
    if fresh:
        say(f"Name {name} assigned")
    say(f"CT configuration saved to {ct.conf_path}" if changed else NO_CHANGES)


def put(conf: ConfFile, values: dict[str, Any]) -> bool:
    """Put *values* by attribute into *conf*; tell whether any of them is new."""
    changed = False
    for attr, value in values.items():
        option = BY_ATTR[attr]
        text = option.format(value)
        if (conf.get(option.key) or "" if attr in _NO_DEFAULT else conf.get(option.key)) != text:
            conf.set(option.key, text)
            changed = True
    return changed


def restart(ct: Container, values: dict[str, Any]) -> None:
    """Stop the CT and start it with *values* in its configuration, which is not saved yet."""
    from vz.ops.start import start
    from vz.ops.stop import stop

    conf = ct.conf.conf.copy(ct.conf_path) if ct.conf.conf is not None else ConfFile(ct.conf_path)
    put(conf, values)
    stop(ct)
    start(Container(ct.ctid, ct.node, load_ct(ct.ctid, ct.node, conf=conf)))


def set_password(ct: Container, user: str, password: str, running: bool) -> None:
    """Set the password of *user*; a stopped CT is mounted for it.  VzError (74)."""

    from vz.kernel.namespaces import ChildFailed
    from vz.ops import mount

    if running and distscripts.set_password(ct, user, password):
        return
    try:
        hashed = guest.hash_password(password)

        def edit() -> None:
            guest.set_password(user, hashed)

        if running:
            _, pidfd = open_init(ct)
            edit_in_ct(ct, pidfd, lambda: edit())
            return
        mount.borrow_root(ct, lambda: _edit(ct, edit))
    except (ChildFailed, OSError) as exc:
        raise VzError(f"Unable to set the password of {printable(user)}: {exc}", ExitCode.CHANGEPASS) from exc


def _edit(ct: Container, edit: Callable[[], None]) -> None:
    edit_in_root(ct, edit)


def _restart_name(attr: str) -> str:
    return RESTART_NAMES.get(attr, attr)
