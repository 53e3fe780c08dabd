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

# keys that in vz.conf mean something else, or cannot be the same for all CTs
NODE_ONLY = frozenset(
    "LOCAL_UID LOCAL_GID LOCAL_UID_COUNT STOP_TIMEOUT NETFILTER IPTABLES NAME IP_ADDR NETIF NETDEV VEID".split()
)
# attributes that every command needs, as plain text: not worth the table
_PLAIN = {
    "ve_root": "VE_ROOT",
    "ve_private": "VE_PRIVATE",
    "name": "NAME",
    "ve_layout": "VE_LAYOUT",
    "ostemplate": "OSTEMPLATE",
}
# what exec asks for: the id range as plain numbers, the rest mostly unset, and then there is nothing to parse
_EXEC = frozenset(
    ("local_uid", "local_gid", "local_uid_count", "features", "capability", "devices", "devnodes", "disabled")
)
_MAY_BE_EMPTY = frozenset(("ip_addr", "netif", "netdev", "nameserver", "searchdomain", "description"))


class CTConfig:
    """Attributes named in vz.config.options (``conf.cpuunits``): the parsed value, or None where nothing is said.

    ``values`` has every key as text, ``conf`` the CT's own file, or None where there is none.  A value that cannot be
    parsed is skipped with a line in ``warnings`` the first time it is asked for; ``check`` asks for all.
    """

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

    if TYPE_CHECKING:  # what a command line or a new CT puts in place of the file's value

        def __setattr__(self, attr: str, value: Any) -> None: ...

    def _parse(self, attr: str) -> Any:
        if attr in _EXEC:
            word = self.values.get(attr.upper())
            if word is None:
                return None
            if attr in ("local_uid", "local_gid") and word.isascii() and word.isdigit() and len(word) < 10:
                return int(word)
        if attr == "netfilter":
            word = self.values.get("NETFILTER")
            if word == "full" or (not word and "IPTABLES" not in self.values):
                return word or None
        from vz.config.options import BY_ATTR

        option = BY_ATTR.get(attr)
        if option is None:
            raise AttributeError(attr)
        text = self.values.get(option.key)
        if text is None and attr == "netfilter" and self.iptables is not None:
            from vz.config.values import netfilter_of

            return netfilter_of(self.iptables)
        if text is None or (text == "" and attr not in _MAY_BE_EMPTY):
            return None
        try:
            return option.parse(text)
        except ValueError as exc:
            self.warnings.append(f"Warning at {self._where(option.key)}: {option.key}: {exc}; skipped")
            return None

    def _where(self, key: str) -> str:
        if self.conf is not None and self.conf.get(key) is not None:
            return f"{self.conf.path}:{self.conf.line_of(key)}"
        return "the node's configuration"

    def check(self) -> list[str]:
        """Parse every key of the CT's own file and return all warnings: bad values, unknown keys, what is not in force.

        What ``start`` prints: keys of options that this version does not have yet are named in one line.
        """
        from vz.config.nodeconfig import NODE_KEYS, OLD_KEYS
        from vz.config.options import BY_KEY, OTHER_KEYS
        from vz.config.values import PARTS_OF_NETFILTER, forbidden_capabilities, part_of_netfilter, vain_features

        later = []
        known = {row[0] for row in NODE_KEYS} | OTHER_KEYS | OLD_KEYS
        for key in self.conf.keys() if self.conf is not None else ():
            option = BY_KEY.get(key)
            if option is None:
                if key not in known:
                    self.warnings.append(f"Warning at {self._where(key)}: unknown parameter {key}, ignored")
                continue
            value = getattr(self, option.attr)
            if option.later and value is not None:
                later.append(key)
        if self.netfilter in PARTS_OF_NETFILTER:
            self.warnings.append(part_of_netfilter(self.netfilter))
        if later:
            self.warnings.append(f"Not in force in this version: {' '.join(later)}")
        vain = forbidden_capabilities(self.capability)
        if vain:
            self.warnings.append(f"CAPABILITY: no user namespace can give {' '.join(vain)}")
        vain = vain_features(self.features)
        if vain:
            self.warnings.append(f"FEATURES: not in this version: {' '.join(vain)}")
        return self.warnings

    def expand(self, text: str, ctid: int) -> str:
        """Return *text* with $VEID and ${VEID} replaced."""
        return text.replace("${VEID}", str(ctid)).replace("$VEID", str(ctid))


def store(conf: ConfFile, attr: str, value: Any) -> None:
    """Put *value* of attribute *attr* into *conf* in its stored form; None takes the key out.

    Raises:
        ValueError: a control character in it.
    """
    from vz.config.options import BY_ATTR

    option = BY_ATTR[attr]
    if value is None:
        conf.unset(option.key)
    else:
        conf.set(option.key, option.format(value))


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
    values = {key: value for key, value in node.values.items() if key not in NODE_ONLY}
    if conf is not None:
        values.update(conf.items())
    return CTConfig(values, conf)
