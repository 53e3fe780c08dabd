"""What a verb asks for, as plain data: filled by the command line, carried out by ``ops``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Change:
    """The input of ``set`` and ``create``: *values* by option attribute, and the words that are no key of a file."""

    __slots__ = (
        "applyconfig",
        "applyconfig_map",
        "config",
        "force",
        "ip_add",
        "ip_del",
        "ip_del_all",
        "netdev_add",
        "netdev_del",
        "netif_add",
        "netif_del",
        "netif_edit",
        "offline_resize",
        "save",
        "setmode",
        "skip_arpdetect",
        "userpasswd",
        "values",
    )

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.ip_add: list[str] = []
        self.ip_del: list[str] = []
        self.ip_del_all = False
        self.netif_add: list[str] = []
        self.netif_del: list[str] = []
        self.netif_edit: list[dict[str, Any]] = []
        self.netdev_add: list[str] = []
        self.netdev_del: list[str] = []
        self.userpasswd: tuple[str, str] | tuple[()] = ()
        self.applyconfig = ""
        self.applyconfig_map = ""
        self.config = ""
        self.save = False
        self.force = False
        self.setmode = ""
        self.skip_arpdetect = False
        self.offline_resize = False

    @classmethod
    def of(cls, values: dict[str, Any], flags: set[str]) -> Change:
        """Return the request that parsed *values* (by attribute of options and actions) and *flags* make."""
        change = cls()
        rest = dict(values)
        for attr, name in _LISTS.items():
            setattr(change, name, rest.pop(attr, []))
        if change.ip_del == ["all"]:
            change.ip_del, change.ip_del_all = [], True
        for attr in ("applyconfig", "applyconfig_map", "config", "setmode", "userpasswd"):
            setattr(change, attr, rest.pop(attr, "" if attr != "userpasswd" else ()))
        change.save = "save" in flags
        change.force = "force" in flags
        change.skip_arpdetect = "skip_arpdetect" in flags
        change.offline_resize = "offline_resize" in flags
        change.values = rest
        return change

    def is_empty(self) -> bool:
        """Tell whether nothing is to be changed."""
        lists = (self.ip_add, self.ip_del, self.netif_add, self.netif_del, self.netif_edit, self.netdev_add)
        return not (
            self.values or any(lists) or self.netdev_del or self.userpasswd or self.ip_del_all
            or self.applyconfig or self.applyconfig_map
        )  # fmt: skip


class Migrate:
    """The input of ``vzmigrate``: one CT to one node."""

    __slots__ = (
        "check_only",
        "host",
        "ignore",
        "keep",
        "lazy",
        "max_downtime_s",
        "mux",
        "newid",
        "online",
        "remove",
        "rsync",
        "ssh",
        "times",
        "verbosity",
    )

    def __init__(self, host: str) -> None:
        self.host = host
        self.newid = 0  # the CT's id over there; 0: the same
        self.remove = True
        self.ssh = ""
        self.rsync = ""
        self.mux = False
        self.online = False  # with its processes, memory and connections
        self.lazy: bool | None = None  # memory follows later; None: where that is best
        self.max_downtime_s = 0.0  # longer it may not be frozen; 0: however long it takes
        self.keep = False  # files that have come stay there when the migration fails
        self.check_only = False
        self.ignore: frozenset[str] = frozenset()  # checks that only warn
        self.times = False
        self.verbosity = 0


_LISTS = {
    "ipadd": "ip_add",
    "ipdel": "ip_del",
    "netif_add": "netif_add",
    "netif_del": "netif_del",
    "netif_edit": "netif_edit",
    "netdev_add": "netdev_add",
    "netdev_del": "netdev_del",
}
