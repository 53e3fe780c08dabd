"""The node's configuration: ``/etc/vz/vz.conf``.  Keys of CTs may stand there too, as defaults for all."""

from __future__ import annotations

from vz.config.conffile import ConfFile
from vz.config.paths import VZ_CONF
from vz.errors import NoGlobalConfig

DEFAULT_POOL = 65536 * 30000


class NodeConfig:
    """What vz.conf says, with the shipped defaults below it; ``values`` has every key as text."""

    __slots__ = ("conf", "values")

    def __init__(self, conf: ConfFile) -> None:
        self.conf = conf
        self.values = dict(conf.items())

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key)
        return default if value is None else value

    def number(self, key: str, default: int) -> int:
        word = self.values.get(key, "")
        return int(word) if word.isascii() and word.isdigit() and len(word) < 19 else default

    def is_yes(self, key: str, default: bool) -> bool:
        word = self.values.get(key)
        return default if word is None else word.lower() == "yes"

    @property
    def lockdir(self) -> str:
        return self.text("LOCKDIR", "/vz/lock")

    @property
    def dumpdir(self) -> str:
        return self.text("DUMPDIR", "/vz/dump")

    @property
    def template(self) -> str:
        return self.text("TEMPLATE", "/vz/template")

    @property
    def ve_root(self) -> str:
        return self.text("VE_ROOT", "/vz/root/$VEID")

    @property
    def ve_private(self) -> str:
        return self.text("VE_PRIVATE", "/vz/private/$VEID")

    @property
    def configfile(self) -> str:
        return self.text("CONFIGFILE", "")

    @property
    def def_ostemplate(self) -> str:
        return self.text("DEF_OSTEMPLATE", "")

    @property
    def ve_layout(self) -> str:
        return self.text("VE_LAYOUT", "overlay")

    @property
    def logging(self) -> bool:
        return self.is_yes("LOGGING", True)

    @property
    def logfile(self) -> str:
        return self.text("LOGFILE", "/var/log/vzctl.log")

    @property
    def verbose(self) -> int:
        return self.number("VERBOSE", 0)

    @property
    def stop_timeout_s(self) -> int:
        return self.number("STOP_TIMEOUT", 0)

    @property
    def local_uid(self) -> int:
        """First host id of the pool that CTs' ranges are taken from."""
        return self.number("LOCAL_UID", 100000)

    @property
    def local_uid_pool(self) -> int:
        """How many host ids the pool has."""
        return self.number("LOCAL_UID_POOL", DEFAULT_POOL)

    @property
    def ipv6(self) -> bool:
        return self.is_yes("IPV6", True)

    @property
    def nameserver(self) -> str:
        return self.text("NAMESERVER", "inherit")

    @property
    def cgroup_parent(self) -> str:
        """The cgroup below which all CTs are, relative to each hierarchy's top."""
        return self.text("CGROUP_PARENT", "vz").strip("/")


def load_node() -> NodeConfig:
    """Read vz.conf; NoGlobalConfig (10) when it is not there."""
    try:
        return NodeConfig(ConfFile.read(VZ_CONF))
    except OSError as exc:
        raise NoGlobalConfig(f"Unable to read global configuration file {VZ_CONF}: {exc.strerror}") from exc
