"""Words of the ``create`` and ``set`` command lines that are no keys of a conf: what to add, what to take, how.

They are Options without a key; one without a value is a flag.
"""

from __future__ import annotations

from vz.config import units, values
from vz.config.netif import parse_netif_add, parse_on_off
from vz.config.options import NEVER, Option

GENERAL = "General"
NETWORK = "Network"
MEMORY = "Memory"
SECURITY = "Devices, features and security"


def _addresses(text: str) -> list[str]:
    """Return the addresses of ``--ipadd``; the placeholders 0.0.0.0 and :: are left out."""
    words = text.split()
    if not words:
        raise ValueError("no address in it")
    return [units.parse_own_address(word) for word in words if not units.is_placeholder(word)]


def _addresses_to_go(text: str) -> list[str]:
    """Return addresses without masks, or the one word ``all``."""
    words = text.split()
    if words == ["all"]:
        return words
    if not words:
        raise ValueError("no address in it")
    return [units.parse_address(word).partition("/")[0] for word in words]


def _netif_add(text: str) -> list[str]:
    parse_netif_add(text, 1, 0)
    return [text]


def _netif_del(text: str) -> list[str]:
    return [text if text == "all" else units.parse_interface(text)]


def _netdevs(text: str) -> list[str]:
    words = [units.parse_host_device(word) for word in text.split()]
    if not words:
        raise ValueError("no device in it")
    return words


def _ram(text: str) -> int:
    """Return pages, rounded up; 0 is no size for a machine."""
    pages = _swap(text)
    if not pages:
        raise ValueError("no memory at all")
    return pages


def _swap(text: str) -> int:
    return units.parse_counter(text, "pages") if text.lower() == "unlimited" else units.pages_of(units.parse_size(text))


def _setmode(text: str) -> str:
    if text not in ("restart", "ignore"):
        raise ValueError(f"{text!r}: restart or ignore")
    return text


def _map_name(text: str) -> str:
    if text != "name":
        raise ValueError(f"{text!r}: name")
    return text


def _flag(attr: str, flags: str, help: str, later: str = "") -> Option:
    return Option(attr, "", flags, str, "", help, later=later)


ACTIONS: tuple[tuple[str, Option], ...] = (
    (GENERAL, _flag("save", "--save", "Write the new values into the CT's conf.")),
    (GENERAL, _flag("force", "--force", "Save even where a value cannot be applied now; needs --save.")),
    (
        GENERAL,
        Option("setmode", "", "--setmode", _setmode, "restart|ignore", "How to go on with what needs a restart."),
    ),
    (GENERAL, _flag("reset_ub", "--reset_ub", "Apply the conf's beancounters again; stands alone.")),
    (
        GENERAL,
        Option("config", "", "--config", units.parse_word, "NAME", "Sample configuration to start from.", "create"),
    ),
    (
        GENERAL,
        Option(
            "applyconfig", "", "--applyconfig", units.parse_word, "NAME", "Take the keys of a sample configuration."
        ),
    ),
    (GENERAL, Option("applyconfig_map", "", "--applyconfig_map", _map_name, "name", "Make the name's link anew.")),
    (
        GENERAL,
        Option(
            "userpasswd",
            "",
            "--userpasswd",
            values.parse_userpasswd,
            "USER:PASSWORD",
            "Set a password inside; never saved.",
        ),
    ),
    (
        NETWORK,
        Option("ipadd", "", "--ipadd --ip", _addresses, "ADDR[/MASK]", "Add addresses to venet0.", multi=True),
    ),
    (
        NETWORK,
        Option(
            "ipdel",
            "",
            "--ipdel",
            _addresses_to_go,
            "ADDR|all",
            "Take addresses away, before any is added.",
            multi=True,
        ),
    ),
    (NETWORK, _flag("skip_arpdetect", "--skip_arpdetect", "Do not ask whether another host has the address.")),
    (
        NETWORK,
        Option(
            "netif_add",
            "",
            "--netif_add",
            _netif_add,
            "IFNAME[,MAC,HOST_IFNAME,HOST_MAC,BRIDGE]",
            "Add a bridged interface.",
            multi=True,
        ),
    ),
    (NETWORK, Option("netif_del", "", "--netif_del", _netif_del, "IFNAME|all", "Take one away.", multi=True)),
    (
        NETWORK,
        Option(
            "ifname", "", "--ifname", units.parse_interface, "IFNAME", "The interface that the next five are about."
        ),
    ),
    (NETWORK, Option("mac", "", "--mac", units.parse_mac, "MAC", "Its address inside.")),
    (NETWORK, Option("host_ifname", "", "--host_ifname", units.parse_interface, "NAME", "Its name on the node.")),
    (NETWORK, Option("host_mac", "", "--host_mac", units.parse_mac, "MAC", "Its address on the node.")),
    (NETWORK, Option("bridge", "", "--bridge", units.parse_interface, "NAME", "The bridge it is attached to.")),
    (
        NETWORK,
        Option("mac_filter", "", "--mac_filter", parse_on_off, "on|off", "Whether it may send with its own MAC only."),
    ),
    (NETWORK, Option("netdev_add", "", "--netdev_add", _netdevs, "NAME", "Move a host device in.", multi=True)),
    (NETWORK, Option("netdev_del", "", "--netdev_del", _netdevs, "NAME", "Give a host device back.", multi=True)),
    (MEMORY, Option("ram", "", "--ram", _ram, "SIZE", "Memory, in bytes; stored as PHYSPAGES 0:N.")),
    (MEMORY, Option("swap", "", "--swap", _swap, "SIZE", "Swap, in bytes; stored as SWAPPAGES 0:N.")),
    (
        "Disk and I/O",
        _flag("offline_resize", "--offline-resize --offline", "With --diskspace: only where the image is not in use."),
    ),
    (
        SECURITY,
        Option("pci_add", "", "--pci_add", str, "[DOMAIN:]BUS:SLOT.FUNC", "Hand over a PCI device.", later=NEVER),
    ),
    (SECURITY, Option("pci_del", "", "--pci_del", str, "[DOMAIN:]BUS:SLOT.FUNC", "Take it back.", later=NEVER)),
)

ACTIONS_BY_FLAG = {flag: option for _group, option in ACTIONS for flag in option.flags}
NETIF_FIELDS = ("mac", "host_ifname", "host_mac", "bridge", "mac_filter")
