"""Every configuration key, declared once: its command-line flags, parser, stored form and when it takes effect.

The file reader, ``create`` and ``set``, ``vzlist`` and the man pages' tables all go through ``OPTIONS``.
"""

from __future__ import annotations

from vz.config import units
from vz.config.netif import format_netifs, parse_netifs
from vz.config.units import UNLIMITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RESOURCES = "resources"  # the version that brings an option: it is refused on the command line until then
PLOOP = "ploop"

FEATURES = "sysfs nfs sit ipip ppp ipgre bridge nfsd nesting".split()
# what a user namespace, or Linux itself, can never give a CT
FORBIDDEN_CAPABILITIES = "sys_module sys_rawio sys_time ve_admin mac_admin mac_override audit_control syslog".split()
CAPABILITIES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct "
    "sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control "
    "setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore ve_admin"
).split()


class Option:
    """One key: *attr* names it in CTConfig, *flags* on the command line; *parse* raises ValueError."""

    __slots__ = ("attr", "key", "flags", "parse", "format", "help", "applies", "later", "multi", "value")

    def __init__(
        self,
        attr: str,
        key: str,
        flags: str,
        parse: Callable[[str], Any],
        value: str,
        help: str,
        *,
        form: Callable[[Any], str] = str,
        applies: str = "live",
        later: str = "",
        multi: bool = False,
    ) -> None:
        self.attr = attr
        self.key = key
        self.flags = tuple(flags.split())
        self.parse = parse
        self.format = form
        self.value = value
        self.help = help
        self.applies = applies  # live, restart, saved or create
        self.later = later
        self.multi = multi


def _list_of(parse: Callable[[str], str]) -> Callable[[str], list[str]]:
    return lambda text: [parse(word) for word in text.split()]


def _join(words: list[str]) -> str:
    return " ".join(words)


def parse_switches(text: str, known: list[str]) -> dict[str, bool]:
    """Return {name: on} of ``name:on|off`` words split by commas or blanks, in lower case."""
    found = {}
    for word in text.replace(",", " ").split():
        name, _, state = word.lower().partition(":")
        if name not in known or state not in ("on", "off"):
            raise ValueError(f"{word!r}: NAME:on or NAME:off, with NAME one of {' '.join(known)}")
        found[name] = state == "on"
    return found


def format_switches(value: dict[str, bool], upper: bool = False) -> str:
    return " ".join(f"{name.upper() if upper else name}:{'on' if on else 'off'}" for name, on in value.items())


def parse_capability(text: str) -> dict[str, bool]:
    return parse_switches(text, CAPABILITIES)


def parse_features(text: str) -> dict[str, bool]:
    return parse_switches(text, FEATURES)


def parse_device(text: str) -> str:
    """Return ``b|c:MAJOR:MINOR|all:[r][w][q]`` or ``…:none`` in its stored form."""
    parts = text.split(":")
    if len(parts) != 4 or parts[0] not in ("b", "c"):
        raise ValueError(f"{text!r}: b|c:MAJOR:MINOR|all:[r][w] or none")
    major = units.parse_count(parts[1], 0, 4095)
    if parts[2] != "all":
        units.parse_count(parts[2], 0, 1048575)
    if parts[3] != "none" and (not parts[3] or not set(parts[3]) <= set("rwq")):
        raise ValueError(f"{text!r}: the mode is r, w, rw, q or none")
    if major == 7 and parts[0] == "b":
        raise ValueError("loop devices as a whole are not for a container: grant one with --devnodes")
    return text


def parse_devnodes(text: str) -> list[tuple[str, str]]:
    """Return [(device below /dev, mode)] of ``DEV:[r][w][q]`` words; mode "" takes one away (``DEV:none``)."""
    nodes = []
    for word in text.split():
        name, _, mode = word.rpartition(":")
        bad = not name or name.startswith(("/", ".")) or ".." in name or not name.isprintable()
        if bad or any(char in "\"'$`\\ " for char in name) or (mode != "none" and (not mode or not set(mode) <= set("rwq"))):
            raise ValueError(f"{word!r}: DEVICE:[r][w] or DEVICE:none, with DEVICE below /dev")
        nodes.append((name, "" if mode == "none" else mode))
    return nodes


def format_devnodes(value: list[tuple[str, str]]) -> str:
    return " ".join(f"{name}:{mode or 'none'}" for name, mode in value)


def parse_cpumask(text: str) -> str:
    """Return a CPU or node list such as ``0-3,7``; ``all`` and ``auto`` stay words."""
    if text in ("all", "auto"):
        return text
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = units.parse_count(first, 0, 8191)
        if dash and units.parse_count(last, 0, 8191) < low:
            raise ValueError(f"{text!r} is not a list such as 0-3,7")
    return text


def parse_cpulimit(text: str) -> int:
    """Return per cent of one CPU; ``N%`` is per cent of the whole node."""
    if text.endswith("%"):
        import os

        return units.parse_count(text[:-1], 0, 100) * (os.cpu_count() or 1)
    return units.parse_count(text, 0, 1000000)


def parse_netfilter(text: str) -> str:
    if text not in ("disabled", "stateless", "stateful", "full"):
        raise ValueError(f"{text!r}: disabled, stateless, stateful or full")
    return text


def parse_nameserver(text: str) -> list[str]:
    """Return addresses, or the one word ``inherit``."""
    words = text.split()
    if words == ["inherit"]:
        return words
    return [units.parse_address(word) for word in words if "/" not in word or units.parse_count("x")]


def parse_layout(text: str) -> str:
    if text.partition(":")[0] not in ("simfs", "overlay", "ploop"):
        raise ValueError(f"{text!r}: overlay or simfs")
    return text


def parse_diskspace(text: str) -> tuple[int, int]:
    """Return (soft, hard) in KiB."""
    soft, colon, hard = text.partition(":")
    first = units.parse_size(soft, 1024) // 1024
    return first, units.parse_size(hard, 1024) // 1024 if colon else first


def parse_pair(text: str) -> tuple[int, int]:
    soft, colon, hard = text.partition(":")
    return units.parse_count(soft), units.parse_count(hard if colon else soft)


def format_pair(value: tuple[int, int]) -> str:
    return f"{value[0]}:{value[1]}"


def _iolimit(text: str) -> int:
    return 0 if text == "unlimited" else units.parse_size(text)


def _float(text: str) -> float:
    if not text.replace(".", "", 1).isdigit() or not text.isascii():
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def _ubc(kind: str) -> Callable[[str], tuple[int, int]]:
    return lambda text: units.parse_ubc(text, kind)


def _number(low: int = 0, high: int = UNLIMITED) -> Callable[[str], int]:
    return lambda text: units.parse_count(text, low, high)


def _signed(text: str) -> int:
    return -units.parse_count(text[1:]) if text.startswith("-") else units.parse_count(text)


_UBC = (  # attr, flags, kind, version that brings it, help
    ("kmemsize", "--kmemsize -k", "bytes", RESOURCES, "Kernel memory."),
    ("lockedpages", "--lockedpages -l", "pages", RESOURCES, "Memory locked by mlock(2)."),
    ("privvmpages", "--privvmpages", "pages", RESOURCES, "Private address space."),
    ("shmpages", "--shmpages", "pages", RESOURCES, "Shared memory and tmpfs."),
    ("numproc", "--numproc -p", "items", "", "Processes and threads; the limit is enforced."),
    ("physpages", "--physpages", "pages", RESOURCES, "Memory; set with --ram."),
    ("vmguarpages", "--vmguarpages", "pages", RESOURCES, "Memory allocation guarantee."),
    ("oomguarpages", "--oomguarpages", "pages", RESOURCES, "Out-of-memory guarantee."),
    ("numtcpsock", "--numtcpsock", "items", RESOURCES, "TCP sockets."),
    ("numflock", "--numflock -f", "items", RESOURCES, "File locks."),
    ("numpty", "--numpty -t", "items", RESOURCES, "Pseudo-terminals."),
    ("numsiginfo", "--numsiginfo -i", "items", RESOURCES, "Queued signals."),
    ("tcpsndbuf", "--tcpsndbuf", "bytes", RESOURCES, "TCP send buffers."),
    ("tcprcvbuf", "--tcprcvbuf -b", "bytes", RESOURCES, "TCP receive buffers."),
    ("othersockbuf", "--othersockbuf", "bytes", RESOURCES, "Buffers of other sockets."),
    ("dgramrcvbuf", "--dgramrcvbuf", "bytes", RESOURCES, "Datagram receive buffers."),
    ("numothersock", "--numothersock", "items", RESOURCES, "Sockets other than TCP."),
    ("dcachesize", "--dcachesize -x", "bytes", RESOURCES, "Directory entries held in memory."),
    ("numfile", "--numfile -n", "items", RESOURCES, "Open files."),
    ("avnumproc", "--avnumproc", "items", RESOURCES, "Average number of processes."),
    ("numiptent", "--numiptent -e", "items", RESOURCES, "Netfilter rules."),
    ("swappages", "--swappages", "pages", RESOURCES, "Swap; set with --swap."),
)
UBC_KINDS = {row[0]: row[2] for row in _UBC}

_yes_no = units.parse_yes_no
_form_yes = units.format_yes_no

OPTIONS: tuple[Option, ...] = (
    Option("onboot", "ONBOOT", "--onboot", _yes_no, "yes|no", "Start at boot.", form=_form_yes, applies="saved"),
    Option("bootorder", "BOOTORDER", "--bootorder", _signed, "N", "Order at boot: higher first.", applies="saved"),
    Option("disabled", "DISABLED", "--disabled", _yes_no, "yes|no", "Refuse to start.", form=_form_yes, applies="saved"),
    Option("stop_timeout_s", "STOP_TIMEOUT", "--stop-timeout", _number(0, 86400 * 7), "SECONDS", "Kill a stopping CT after this time; 0: 120.", applies="saved"),
    Option("name", "NAME", "--name", units.parse_text, "NAME", "A name to use in place of the id.", applies="saved"),
    Option("description", "DESCRIPTION", "--description", units.parse_text, "TEXT", "What the CT is for.", applies="saved"),
    Option("ostemplate", "OSTEMPLATE", "--ostemplate", units.parse_words, "NAME", "The OS template it was made from.", applies="saved"),
    Option("origin_sample", "ORIGIN_SAMPLE", "", units.parse_text, "NAME", "The sample configuration last applied.", applies="saved"),
    Option("ve_root", "VE_ROOT", "--root", units.parse_path, "PATH", "Where the root is mounted; may hold $VEID.", applies="stopped"),
    Option("ve_private", "VE_PRIVATE", "--private", units.parse_path, "PATH", "Where the files are kept; may hold $VEID.", applies="stopped"),
    Option("mount_opts", "MOUNT_OPTS", "--mount_opts", units.parse_text, "OPTIONS", "Mount options (ploop layout).", applies="restart"),
    Option("ve_layout", "VE_LAYOUT", "--layout --ve_layout --velayout", parse_layout, "overlay|simfs", "How the files are kept.", applies="create"),
    Option("local_uid", "LOCAL_UID", "--local_uid", _number(0, 4294901760), "ID", "First host id of the CT's own range.", applies="create"),
    Option("local_gid", "LOCAL_GID", "--local_gid", _number(0, 4294901760), "ID", "The same as LOCAL_UID.", applies="create"),
    Option("local_uid_count", "LOCAL_UID_COUNT", "", _number(65536, 1 << 30), "N", "How many ids the range has.", applies="create"),
    Option("ip_addr", "IP_ADDR", "", _list_of(units.parse_address), "ADDR[/MASK] ...", "Addresses of venet0.", form=_join, multi=True),
    Option("hostname", "HOSTNAME", "--hostname", units.parse_hostname, "NAME", "Host name inside."),
    Option("nameserver", "NAMESERVER", "--nameserver", parse_nameserver, "ADDR|inherit", "DNS servers; inherit: the node's.", form=_join, multi=True),
    Option("searchdomain", "SEARCHDOMAIN", "--searchdomain", _list_of(units.parse_hostname), "NAME", "DNS search domains.", form=_join, multi=True),
    Option("netif", "NETIF", "", parse_netifs, "ifname=...", "Bridged interfaces.", form=format_netifs),
    Option("netdev", "NETDEV", "", _list_of(units.parse_interface), "NAME ...", "Host devices moved into the CT.", form=_join),
    Option("netfilter", "NETFILTER", "--netfilter", parse_netfilter, "disabled|stateless|stateful|full", "Netfilter inside; a user namespace gives all of it, see CAPABILITY net_admin.", applies="restart"),
    Option("iptables", "IPTABLES", "--iptables", units.parse_text, "MODULES", "Old form of NETFILTER.", applies="restart"),
    Option("capability", "CAPABILITY", "--capability", parse_capability, "NAME:on|off ...", "Capabilities its programs may have.", form=lambda value: format_switches(value, True), applies="restart", multi=True),
    Option("features", "FEATURES", "--features", parse_features, "NAME:on|off ...", "nesting:on allows namespaces inside and forbids checkpoints.", form=format_switches, applies="restart", multi=True),
    Option("devices", "DEVICES", "--devices", _list_of(parse_device), "b|c:MAJOR:MINOR|all:[r][w]|none", "Device numbers it may use.", form=_join, multi=True),
    Option("devnodes", "DEVNODES", "--devnodes", parse_devnodes, "DEVICE:[r][w]|none", "Devices put into its /dev.", form=format_devnodes, multi=True),
    Option("cpuunits", "CPUUNITS", "--cpuunits", _number(8, 500000), "N", "Share of CPU time, relative to the other CTs; 1000."),
    Option("cpulimit", "CPULIMIT", "--cpulimit", parse_cpulimit, "N|N%", "CPU time at most, in per cent of one CPU (N%: of the node); 0: no limit."),
    Option("cpus", "CPUS", "--cpus", _number(0, 8192), "N", "CPUs it sees; 0: all."),
    Option("cpumask", "CPUMASK", "--cpumask", parse_cpumask, "LIST|auto|all", "CPUs it runs on."),
    Option("nodemask", "NODEMASK", "--nodemask", parse_cpumask, "LIST|all", "Memory nodes it uses."),
    *(Option(attr, attr.upper(), flags, _ubc(kind), "BARRIER[:LIMIT]", text, form=units.format_ubc, later=later) for attr, flags, kind, later, text in _UBC),
    Option("vm_overcommit", "VM_OVERCOMMIT", "--vm_overcommit", _float, "FACTOR", "PRIVVMPAGES as a multiple of RAM and swap.", later=RESOURCES),
    Option("meminfo", "MEMINFO", "--meminfo", units.parse_text, "none|pages:N|privvmpages:N", "What /proc/meminfo shows.", later=RESOURCES),
    Option("cpuweight", "CPUUWEIGHT", "--cpuweight", _number(), "N", "Other form of CPUUNITS.", later=RESOURCES),
    Option("disk_quota", "DISK_QUOTA", "--diskquota", _yes_no, "yes|no", "Disk quota.", form=_form_yes, later=RESOURCES, applies="restart"),
    Option("diskspace", "DISKSPACE", "--diskspace", parse_diskspace, "SOFT[:HARD]", "Disk space, in KiB.", form=format_pair, later=RESOURCES),
    Option("diskinodes", "DISKINODES", "--diskinodes", parse_pair, "SOFT[:HARD]", "Number of files.", form=format_pair, later=RESOURCES),
    Option("quotatime", "QUOTATIME", "--quotatime", _number(), "SECONDS", "Grace time of the soft limits.", later=RESOURCES),
    Option("quotaugidlimit", "QUOTAUGIDLIMIT", "--quotaugidlimit", _number(), "N", "Users and groups with quotas of their own.", later=RESOURCES, applies="restart"),
    Option("ioprio", "IOPRIO", "--ioprio", _number(0, 7), "0-7", "Disk I/O priority.", later=RESOURCES),
    Option("iolimit", "IOLIMIT", "--iolimit", _iolimit, "BYTES", "Disk bytes a second.", later=RESOURCES),
    Option("iopslimit", "IOPSLIMIT", "--iopslimit", _number(), "N", "Disk operations a second.", later=RESOURCES),
)

BY_ATTR = {option.attr: option for option in OPTIONS}
BY_KEY = {option.key: option for option in OPTIONS}
BY_KEY["DCACHE"] = BY_KEY["DCACHESIZE"]
BY_KEY["IPTENTRIES"] = BY_KEY["NUMIPTENT"]
BY_FLAG = {flag: option for option in OPTIONS for flag in option.flags}

# known keys that are no option of a CT here; silently kept
OTHER_KEYS = frozenset(
    "VEID CONFIGFILE TEMPLATE VETH IPV6 PCI IP6TABLES CONFIG_CUSTOMIZED SKIP_SYSCTL_SETUP VIRTUOZZO LOCKDIR DUMPDIR "
    "VE0CPUUNITS VE_STOP_MODE VE_PARALLEL LOGGING LOGFILE LOG_LEVEL VERBOSE VZFASTBOOT MODULES_DISABLED "
    "IPTABLES_MODULES VZWDOG VE_ROUTE_SRC_DEV NEIGHBOUR_DEVS SKIP_ARPDETECT ERROR_ON_ARPFAIL FORCE_ROUTE DEF_OSTEMPLATE "
    "CGROUP_PARENT LOCAL_UID_POOL TEMPLATE_MAX_SIZE TEMPLATE_MAX_FILES DISTRIBUTION".split()
)
