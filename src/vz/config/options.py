"""Every configuration key of a CT, declared once: its flags, parser, stored form and when it takes effect.

The file reader, ``create`` and ``set``, ``vzlist``, the man pages' tables and the shell completion all come from
here; words of the command line that are no keys are in ``actions``.
"""

from __future__ import annotations

from vz.config import units, values
from vz.config.netif import format_netifs, parse_netifs
from vz.config.units import UNLIMITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RESOURCES = "resources"  # what brings an option that is not there yet; until then the command line refuses it
PLOOP = "ploop"
NEVER = "never"


class Option:
    """One key: *attr* names it in CTConfig, *flags* on the command line; *parse* raises ValueError.

    *applies* tells when a new value counts: ``live``, ``restart`` (at the next start), ``saved`` (no part in a
    running CT), ``stopped`` (refused while it runs), ``create``.  A list or dictionary is *multi*: given twice, the
    values add up.  *set* parses the command line where that differs from a file.
    """

    __slots__ = ("applies", "attr", "flags", "format", "help", "key", "later", "multi", "parse", "set", "value")

    def __init__(
        self,
        attr: str,
        key: str,
        flags: str,
        parse: Callable[[str], Any],
        value: str,
        help: str,
        applies: str = "live",
        *,
        form: Callable[[Any], str] = str,
        set: Callable[[str], Any] | None = None,
        later: str = "",
        multi: bool = False,
    ) -> None:
        self.attr = attr
        self.key = key
        self.flags = tuple(flags.split())
        self.parse = parse
        self.set = set or parse
        self.format = form
        self.value = value
        self.help = help
        self.applies = applies
        self.later = later
        self.multi = multi


def _list_of(parse: Callable[[str], str]) -> Callable[[str], list[str]]:
    return lambda text: [parse(word) for word in text.split()]


def _ubc(kind: str, low: int = 0) -> Callable[[str], tuple[int, int]]:
    def parse(text: str) -> tuple[int, int]:
        value = units.parse_ubc(text, kind)
        if min(value) < low:
            raise ValueError(f"{text!r} is less than {low}")
        return value

    return parse


def _number(low: int = 0, high: int = UNLIMITED) -> Callable[[str], int]:
    return lambda text: units.parse_count(text, low, high)


_UBC_ROWS = (  # attr, flags, kind, help
    ("kmemsize", "--kmemsize -k", "bytes", "Kernel memory."),
    ("lockedpages", "--lockedpages -l", "pages", "Memory locked by mlock(2)."),
    ("privvmpages", "--privvmpages", "pages", "Private address space."),
    ("shmpages", "--shmpages", "pages", "Shared memory and tmpfs."),
    ("numproc", "--numproc -p", "items", "Processes and threads; the limit holds."),
    ("physpages", "--physpages", "pages", "Memory; --ram sets it to 0:N."),
    ("vmguarpages", "--vmguarpages", "pages", "Memory allocation guarantee."),
    ("oomguarpages", "--oomguarpages", "pages", "Out-of-memory guarantee."),
    ("numtcpsock", "--numtcpsock", "items", "TCP sockets."),
    ("numflock", "--numflock -f", "items", "File locks."),
    ("numpty", "--numpty -t", "items", "Pseudo-terminals; 1024."),
    ("numsiginfo", "--numsiginfo -i", "items", "Queued signals."),
    ("tcpsndbuf", "--tcpsndbuf", "bytes", "TCP send buffers."),
    ("tcprcvbuf", "--tcprcvbuf -b", "bytes", "TCP receive buffers."),
    ("othersockbuf", "--othersockbuf", "bytes", "Buffers of other sockets."),
    ("dgramrcvbuf", "--dgramrcvbuf", "bytes", "Datagram receive buffers."),
    ("numothersock", "--numothersock", "items", "Sockets other than TCP."),
    ("dcachesize", "--dcachesize -x", "bytes", "Directory entries held in memory."),
    ("numfile", "--numfile -n", "items", "Open files."),
    ("avnumproc", "--avnumproc", "items", "Average number of processes."),
    ("numiptent", "--numiptent -e", "items", "Netfilter rules; 16 at least."),
    ("swappages", "--swappages", "pages", "Swap; --swap sets it to 0:N."),
)
UBC_KINDS = {row[0]: row[2] for row in _UBC_ROWS}

_yes_no = units.parse_yes_no
_yes = units.format_yes_no

GENERAL = (
    Option(
        "onboot",
        "ONBOOT",
        "--onboot",
        _yes_no,
        "yes|no",
        "Start when the node boots.",
        "saved",
        form=_yes,
    ),
    Option(
        "bootorder",
        "BOOTORDER",
        "--bootorder",
        values.parse_signed,
        "N",
        "Order at boot: higher first, unset last; reversed at shutdown.",
        "saved",
    ),
    Option("disabled", "DISABLED", "--disabled", _yes_no, "yes|no", "Refuse to start.", "saved", form=_yes),
    Option(
        "stop_timeout_s",
        "STOP_TIMEOUT",
        "--stop-timeout",
        _number(0, 86400 * 7),
        "SECONDS",
        "How long a stopping CT has until it is killed; 0: the node's default.",
        "saved",
    ),
    Option("name", "NAME", "--name", units.parse_name, "NAME", "A name to use in place of the id.", "saved"),
    Option("description", "DESCRIPTION", "--description", units.parse_text, "TEXT", "What the CT is for.", "saved"),
    Option(
        "ostemplate",
        "OSTEMPLATE",
        "--ostemplate",
        units.parse_template,
        "NAME",
        "OS template it is made from.",
        "saved",
        set=units.parse_word,
    ),
    Option(
        "origin_sample", "ORIGIN_SAMPLE", "", units.parse_text, "NAME", "Sample configuration last applied.", "saved"
    ),
    Option(
        "ve_root",
        "VE_ROOT",
        "--root",
        units.parse_path,
        "PATH",
        "Where the root is mounted; may hold $VEID.",
        "stopped",
    ),
    Option(
        "ve_private",
        "VE_PRIVATE",
        "--private",
        units.parse_path,
        "PATH",
        "Where the files are kept; may hold $VEID.",
        "stopped",
    ),
    Option(
        "ve_layout",
        "VE_LAYOUT",
        "--layout --ve_layout --velayout",
        values.parse_layout,
        "overlay|simfs|ploop",
        "How the files are kept.",
        "create",
    ),
    Option(
        "mount_opts",
        "MOUNT_OPTS",
        "--mount_opts",
        units.parse_text,
        "OPTIONS",
        "Mount options of a ploop image; without effect on other layouts.",
        "restart",
    ),
    Option(
        "local_uid",
        "LOCAL_UID",
        "--local_uid",
        _number(0, 4294901760),
        "ID",
        "First host id of the CT's own range; 0: taken from the node's pool.",
        "create",
        set=values.set_first_id,
    ),
    Option(
        "local_gid",
        "LOCAL_GID",
        "--local_gid",
        _number(0, 4294901760),
        "ID",
        "The same number as LOCAL_UID.",
        "create",
        set=values.set_first_id,
    ),
    Option(
        "local_uid_count", "LOCAL_UID_COUNT", "", _number(65536, 1 << 30), "N", "Length of that range; 65536.", "create"
    ),
)

NETWORK = (
    Option(
        "ip_addr",
        "IP_ADDR",
        "",
        _list_of(units.parse_own_address),
        "ADDR[/MASK] ...",
        "Addresses of venet0; --ipadd and --ipdel change them.",
        form=values.join,
        multi=True,
    ),
    Option("hostname", "HOSTNAME", "--hostname", units.parse_hostname, "NAME", "Host name inside."),
    Option(
        "nameserver",
        "NAMESERVER",
        "--nameserver",
        values.parse_nameservers,
        "ADDR|inherit",
        "DNS servers; inherit: the node's own, but for loopback addresses.",
        form=values.join,
        multi=True,
    ),
    Option(
        "searchdomain",
        "SEARCHDOMAIN",
        "--searchdomain",
        _list_of(units.parse_domain),
        "NAME|inherit",
        "DNS search domains; inherit: the node's own.",
        form=values.join,
        multi=True,
    ),
    Option(
        "netif",
        "NETIF",
        "",
        parse_netifs,
        "ifname=NAME,...;...",
        "Bridged interfaces; --netif_add, --netif_del and --ifname change them.",
        form=format_netifs,
    ),
    Option(
        "netdev",
        "NETDEV",
        "",
        _list_of(units.parse_host_device),
        "NAME ...",
        "Host devices moved into the CT; --netdev_add and --netdev_del change them.",
        form=values.join,
    ),
    Option(
        "netfilter",
        "NETFILTER",
        "--netfilter",
        values.parse_netfilter,
        "disabled|stateless|stateful|full",
        "Whether its programs may set packet filters of its own (iptables, nft, conntrack and the like). No kernel "
        "can withhold a part of them: stateless and stateful are kept, and give what full, the default, gives.",
        "restart",
    ),
    Option(
        "iptables",
        "IPTABLES",
        "--iptables",
        values.parse_iptables,
        "MODULES",
        "Old form of NETFILTER.",
        "restart",
    ),
)

UBC = tuple(
    Option(
        attr,
        attr.upper(),
        flags,
        _ubc(kind, 16 if attr == "numiptent" else 0),
        "BARRIER[:LIMIT]",
        text,
        form=units.format_ubc,
    )
    for attr, flags, kind, text in _UBC_ROWS
)

MEMORY = (
    Option(
        "vm_overcommit",
        "VM_OVERCOMMIT",
        "--vm_overcommit",
        values.parse_float,
        "FACTOR",
        "PRIVVMPAGES as a multiple of RAM and swap, where that is not set.",
        form=values.format_float,
    ),
    Option(
        "meminfo",
        "MEMINFO",
        "--meminfo",
        values.parse_meminfo,
        "none|pages:N|privvmpages:N",
        "What /proc/meminfo shows.",
        later=RESOURCES,
    ),
)

CPU = (
    Option("cpuunits", "CPUUNITS", "--cpuunits", _number(8, 500000), "N", "Weight among the CTs; 1000 is usual."),
    Option("cpuweight", "CPUUWEIGHT", "--cpuweight", _number(), "N", "Other form of CPUUNITS.", later=RESOURCES),
    Option(
        "cpulimit",
        "CPULIMIT",
        "--cpulimit",
        values.parse_cpulimit,
        "N|N%",
        "CPU time at most, in per cent of one CPU (N%: of the node); 0: no limit.",
    ),
    Option("cpus", "CPUS", "--cpus", _number(0, 8192), "N", "How many CPUs it has; 0: all."),
    Option("cpumask", "CPUMASK", "--cpumask", values.parse_cpumask, "LIST|auto|all", "CPUs it runs on."),
    Option("nodemask", "NODEMASK", "--nodemask", values.parse_nodemask, "LIST|all", "Memory nodes it uses."),
)

DISK = (
    Option(
        "disk_quota",
        "DISK_QUOTA",
        "--diskquota",
        _yes_no,
        "yes|no",
        "Whether disk limits hold; yes.",
        "restart",
        form=_yes,
    ),
    Option(
        "diskspace",
        "DISKSPACE",
        "--diskspace",
        values.parse_diskspace,
        "SOFT[:HARD]",
        "Disk space, in KiB. Of a ploop image the second is its size. Else above SOFT only for QUOTATIME, above HARD "
        "never: that takes a file system with project quota (docs/quota.md).",
        form=values.format_pair,
        set=values.set_diskspace,
    ),
    Option(
        "diskinodes",
        "DISKINODES",
        "--diskinodes",
        values.parse_pair,
        "SOFT[:HARD]",
        "Number of files, directories, links and the like, in the same way.",
        form=values.format_pair,
        set=values.set_diskinodes,
    ),
    Option(
        "quotatime",
        "QUOTATIME",
        "--quotatime",
        _number(),
        "SECONDS",
        "For how long a CT may be above its soft limits; 0, the default: not at all. The kernel keeps one number for "
        "all CTs of a file system.",
    ),
    Option(
        "quotaugidlimit",
        "QUOTAUGIDLIMIT",
        "--quotaugidlimit",
        _number(),
        "N",
        "Users and groups with quotas inside; 0: none.",
        "restart",
        later=RESOURCES,
    ),
    Option("ioprio", "IOPRIO", "--ioprio", _number(0, 7), "0-7", "Disk I/O priority; 4."),
    Option(
        "iolimit",
        "IOLIMIT",
        "--iolimit",
        values.parse_iolimit,
        "N",
        "Disk bytes a second (command line: a bare number is MB); 0: no limit.",
        set=values.set_iolimit,
    ),
    Option(
        "iopslimit",
        "IOPSLIMIT",
        "--iopslimit",
        _number(0, units.INT_MAX),
        "N",
        "Disk operations a second; 0: no limit.",
    ),
)

SECURITY = (
    Option(
        "capability",
        "CAPABILITY",
        "--capability",
        values.parse_capability,
        "NAME:on|off ...",
        "Capabilities its programs may have.",
        "restart",
        form=values.format_capability,
        set=values.set_capability,
        multi=True,
    ),
    Option(
        "features",
        "FEATURES",
        "--features",
        values.parse_features,
        "NAME:on|off ...",
        "Kernel features: nesting:on allows namespaces inside, and no checkpoint can be made then; "
        "compat32:on allows sockets to 32-bit programs (AF_VSOCK ones, too), as a template name such as debian-8-x86 "
        "does; sysfs, sit, ipip, ppp, ipgre and bridge are kept, and what the node's kernel has of them can be used in "
        "any case.",
        "restart",
        form=values.format_switches,
        set=values.set_features,
        multi=True,
    ),
    Option(
        "devices",
        "DEVICES",
        "--devices",
        values.parse_devices,
        "b|c:MAJOR:MINOR|all:[r][w][q]|none",
        "Device numbers it may use.",
        form=values.join,
        multi=True,
    ),
    Option(
        "devnodes",
        "DEVNODES",
        "--devnodes",
        values.parse_devnodes,
        "DEVICE:[r][w][q]|none",
        "Devices of the node put into its /dev.",
        form=values.format_devnodes,
        multi=True,
    ),
)

GROUPS: tuple[tuple[str, tuple[Option, ...]], ...] = (
    ("General", GENERAL),
    ("Network", NETWORK),
    ("CPU", CPU),
    ("Beancounters", UBC),
    ("Memory", MEMORY),
    ("Disk and I/O", DISK),
    ("Devices, features and security", SECURITY),
)
OPTIONS: tuple[Option, ...] = tuple(option for _title, group in GROUPS for option in group)

BY_ATTR = {option.attr: option for option in OPTIONS}
BY_KEY = {option.key: option for option in OPTIONS}
BY_FLAG = {flag: option for option in OPTIONS for flag in option.flags}

# known keys of a CT's conf that are no option here; kept
OTHER_KEYS = frozenset("VEID CONFIGFILE TEMPLATE VETH IPV6 PCI DISTRIBUTION".split())
