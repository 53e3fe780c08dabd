"""The node's configuration: ``/etc/vz/vz.conf``.  Keys of CTs may stand there too, as defaults for all."""

from __future__ import annotations

from vz.config.conffile import ConfFile
from vz.config.paths import VZ_CONF
from vz.errors import InvalidConfig, NoGlobalConfig

# Each key of the node's own: what counts where vz.conf says nothing, and what it is (vz.conf(5) is made from this).
NODE_KEYS: tuple[tuple[str, str, str], ...] = (
    ("VIRTUOZZO", "yes", "Whether vzeventd --boot starts containers at all (yes|no)."),
    ("LOCKDIR", "/vz/lock", "Directory of the lock files, one per container."),
    ("DUMPDIR", "/vz/dump", "Directory of checkpoint images."),
    ("TEMPLATE", "/vz/template", "Directory of OS templates; their archives are in its cache subdirectory."),
    ("LOGGING", "yes", "Write a log (yes|no)."),
    ("LOGFILE", "/var/log/vzctl.log", "The log file."),
    ("LOG_LEVEL", "0", "How much is logged: messages up to this level."),
    ("VERBOSE", "0", "How much is printed: messages up to this level; --verbose counts in its place."),
    ("CONFIGFILE", "", "Sample that vzctl create starts from when --config is not given."),
    ("DEF_OSTEMPLATE", "", "OS template that vzctl create uses when --ostemplate is not given."),
    ("STOP_TIMEOUT", "0", "Seconds that a stopping container has until it is killed; 0: 120."),
    ("IPV6", "yes", "Give IPv6 addresses to containers (yes|no)."),
    ("LOCAL_UID", "100000", "First host user id of the pool that containers' id ranges are taken from."),
    ("LOCAL_GID", "100000", "The same for groups; must be the same number."),
    ("LOCAL_UID_POOL", "1966080000", "How many host ids that pool has; a container takes 65536."),
    ("CGROUP_PARENT", "vz", "The cgroup, below each hierarchy's top, that all containers are in."),
    (
        "PROC_SERVER",
        "no",
        "Show containers their own /proc/meminfo and the like, while vzeventd runs (yes|no). Not ready for cgroup "
        "version 2: there /proc/stat and /proc/loadavg can answer with an error.",
    ),
    ("SKIP_ARPDETECT", "no", "Add addresses without asking the neighbours first whether one has them (yes|no)."),
    ("ERROR_ON_ARPFAIL", "no", "Refuse an address that a neighbour has, instead of warning (yes|no)."),
    (
        "NEIGHBOUR_DEVS",
        "all",
        "On which devices the node asks, answers and speaks for containers' addresses: all (that are up, speak ARP and "
        "have an address), detect (those in whose subnet the address is), or list:DEVICE ...",
    ),
    ("VE_ROUTE_SRC_DEV", "", "Device whose address the node uses when it speaks to containers (IPv4)."),
    ("FORCE_ROUTE", "", "Replace another route that the node has to just this address, instead of failing (yes|no)."),
    ("VE_STOP_MODE", "suspend", "What vzeventd --shutdown does with running containers (suspend|stop)."),
    ("VE_PARALLEL", "", "How many containers vzeventd starts or stops at once; unset: as many as there are CPUs."),
    (
        "VSWAP_RATE",
        "100",
        "How fast a container may grow above its RAM, into its virtual swap: megabytes a second; 0: at full speed. "
        "vzeventd sees to it.",
    ),
    ("VE0CPUUNITS", "1000", "CPU weight of the host itself."),
    (
        "DISK_RESERVE",
        "1G",
        "Free space below which vzctl create and start warn that CTs on ploop images may get I/O errors; 0: never.",
    ),
    ("TEMPLATE_MAX_SIZE", "", "Largest size of an unpacked template, in bytes; an archive beyond it is refused."),
    ("TEMPLATE_MAX_FILES", "", "Largest number of files in a template."),
)
# those of them that nothing reads yet
IDLE_KEYS = frozenset("LOG_LEVEL VE0CPUUNITS LOCAL_GID".split())
# keys of files that OpenVZ shipped; nothing here needs them
OLD_KEYS = frozenset(
    "VZFASTBOOT MODULES_DISABLED IPTABLES_MODULES VZWDOG CONFIG_CUSTOMIZED SKIP_SYSCTL_SETUP IP6TABLES".split()
)
_DEFAULTS = {key: default for key, default, _help in NODE_KEYS}
_CGROUP_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:@/")


class NodeConfig:
    """What vz.conf says, with the built-in defaults below it; ``values`` has every key of the file as text."""

    __slots__ = ("conf", "values")

    def __init__(self, conf: ConfFile) -> None:
        self.conf = conf
        self.values = dict(conf.items())

    def text(self, key: str, default: str | None = None) -> str:
        """Return the value of *key*; unset: *default*, or else the table's."""
        value = self.values.get(key)
        if value is not None:
            return value
        return _DEFAULTS.get(key, "") if default is None else default

    def number(self, key: str, default: int | None = None) -> int:
        """Return *key* as a number; the default where it is unset or none (vzcfgvalidate names that)."""
        word = self.values.get(key, "")
        if word.isascii() and word.isdigit() and len(word) < 19:
            return int(word)
        return int(_DEFAULTS.get(key) or 0) if default is None else default

    def is_yes(self, key: str, default: bool | None = None) -> bool:
        word = self.values.get(key)
        if word is None:
            return _DEFAULTS.get(key) == "yes" if default is None else default
        return word.lower() == "yes"

    @property
    def warnings(self) -> list[str]:
        """What was skipped while vz.conf was read, and what has no meaning there."""
        found = list(self.conf.warnings)
        for key in ("NETFILTER", "IPTABLES"):
            if key in self.values:
                where = f"{self.conf.path}:{self.conf.line_of(key)}"
                found.append(f"Warning at {where}: {key} is ignored here: it belongs into the confs of containers")
        return found

    @property
    def lockdir(self) -> str:
        return self.text("LOCKDIR")

    @property
    def dumpdir(self) -> str:
        return self.text("DUMPDIR")

    @property
    def template(self) -> str:
        return self.text("TEMPLATE")

    @property
    def ve_root(self) -> str:
        return self.text("VE_ROOT", "/vz/root/$VEID")

    @property
    def ve_private(self) -> str:
        return self.text("VE_PRIVATE", "/vz/private/$VEID")

    @property
    def configfile(self) -> str:
        return self.text("CONFIGFILE")

    @property
    def def_ostemplate(self) -> str:
        return self.text("DEF_OSTEMPLATE")

    @property
    def ve_layout(self) -> str:
        return self.text("VE_LAYOUT", "overlay")

    @property
    def logging(self) -> bool:
        return self.is_yes("LOGGING")

    @property
    def logfile(self) -> str:
        return self.text("LOGFILE")

    @property
    def log_level(self) -> int:
        return self.number("LOG_LEVEL")

    @property
    def verbose(self) -> int:
        return self.number("VERBOSE")

    @property
    def stop_timeout_s(self) -> int:
        """Seconds until a stopping CT is killed; 0: the built-in 120."""
        return self.number("STOP_TIMEOUT")

    @property
    def local_uid(self) -> int:
        """First host id of the pool that CTs' ranges are taken from."""
        return self.number("LOCAL_UID")

    @property
    def local_gid(self) -> int:
        return self.number("LOCAL_GID")

    @property
    def local_uid_pool(self) -> int:
        """How many host ids the pool has."""
        return self.number("LOCAL_UID_POOL")

    @property
    def ipv6(self) -> bool:
        return self.is_yes("IPV6")

    @property
    def nameserver(self) -> str:
        return self.text("NAMESERVER", "inherit")

    @property
    def skip_arpdetect(self) -> bool:
        return self.is_yes("SKIP_ARPDETECT")

    @property
    def error_on_arpfail(self) -> bool:
        return self.is_yes("ERROR_ON_ARPFAIL")

    @property
    def neighbour_devs(self) -> str:
        return self.text("NEIGHBOUR_DEVS")

    @property
    def ve_route_src_dev(self) -> str:
        return self.text("VE_ROUTE_SRC_DEV")

    @property
    def force_route(self) -> bool:
        return self.is_yes("FORCE_ROUTE")

    @property
    def cgroup_parent(self) -> str:
        """The cgroup below which all CTs are, relative to each hierarchy's top.

        Raises:
            InvalidConfig: the key would lead elsewhere (85).
        """
        path = self.text("CGROUP_PARENT").strip("/")
        if not path or not _CGROUP_CHARACTERS.issuperset(path) or {"", ".", ".."} & set(path.split("/")):
            raise InvalidConfig(f"{self.conf.path}: CGROUP_PARENT must be a path below the top of the cgroup tree")
        return path


def load_node() -> NodeConfig:
    """Read vz.conf.

    Raises:
        NoGlobalConfig: it is not there or cannot be read (10).
        InvalidConfig: it is binary or huge (85).
    """
    try:
        return NodeConfig(ConfFile.read(VZ_CONF))
    except OSError as exc:
        raise NoGlobalConfig(f"Unable to read global configuration file {VZ_CONF}: {exc.strerror}") from exc
