"""A CT's configuration: vz.conf's defaults, then CTID.conf, parsed by the option table when an attribute is asked for.

Most commands look at three or four keys, so a value is parsed at its first use and the table is imported then.
"""

from __future__ import annotations

from vz.config.conffile import ConfFile
from vz.config.nodeconfig import NodeConfig
from vz.config.paths import CONF_DIR
from vz.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# node keys of the same name mean something else there
_NODE_ONLY = frozenset(("LOCAL_UID", "LOCAL_GID", "STOP_TIMEOUT", "NETFILTER", "IPTABLES", "NAMESERVER"))
# attributes that every command needs, as plain text: not worth the table
_PLAIN = {"ve_root": "VE_ROOT", "ve_private": "VE_PRIVATE", "name": "NAME", "ve_layout": "VE_LAYOUT", "ostemplate": "OSTEMPLATE"}


class CTConfig:
    """Attributes named in vz.config.options (``conf.cpuunits``): the parsed value, or None where nothing is said."""

    # an instance dictionary on purpose: it is the cache of parsed values

    def __init__(self, values: dict[str, str], conf: ConfFile | None) -> None:
        self.values = values
        self.conf = conf
        self.warnings: list[str] = list(conf.warnings) if conf is not None else []

    def __getattr__(self, attr: str) -> Any:
        if attr.startswith("__"):
            raise AttributeError(attr)
        if attr in _PLAIN:
            value: Any = self.values.get(_PLAIN[attr])
        else:
            value = self._parse(attr)
        self.__dict__[attr] = value
        return value

    def _parse(self, attr: str) -> Any:
        from vz.config.options import BY_ATTR

        option = BY_ATTR.get(attr)
        if option is None:
            raise AttributeError(attr)
        text = self.values.get(option.key)
        if text is None or (text == "" and attr not in ("ip_addr", "netif", "netdev", "nameserver", "searchdomain")):
            return None
        try:
            return option.parse(text)
        except ValueError as exc:
            where = self.conf.path if self.conf is not None else "configuration"
            self.warnings.append(f"{where}: {option.key}: {exc}; passed over")
            return None

    def expand(self, text: str, ctid: int) -> str:
        """Return *text* with $VEID and ${VEID} replaced."""
        return text.replace("${VEID}", str(ctid)).replace("$VEID", str(ctid))


def load_ct(ctid: int, node: NodeConfig, conf: ConfFile | None = None) -> CTConfig:
    """Return the configuration of CT *ctid*: *conf*, or its file, over the node's defaults.

    Raises:
        InvalidConfig: the file is there and cannot be used (85).
    """
    if conf is None:
        path = f"{CONF_DIR}/{ctid}.conf"
        try:
            conf = ConfFile.read(path)
        except FileNotFoundError:
            conf = None
        except OSError as exc:
            raise InvalidConfig(f"Unable to read {path}: {exc.strerror}") from exc
    values = {key: value for key, value in node.values.items() if key not in _NODE_ONLY}
    if conf is not None:
        values.update(conf.items())
    return CTConfig(values, conf)
