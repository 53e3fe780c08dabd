"""Parsers of the values that are more than a number or a word: switches, devices, CPU lists, sizes in pairs.

Each comes with the form in which it is stored.  What a file may hold and ``set`` must refuse (a capability that no
user namespace can give) raises ``Refused`` in the ``set_…`` form only.
"""

from __future__ import annotations

import os

from vz.config import units
from vz.config.units import Refused

CAPABILITIES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct "
    "sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control "
    "setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore ve_admin"
).split()
# the kernel asks the first user namespace for these, or knows them no more
FORBIDDEN_CAPABILITIES = (
    "sys_module sys_rawio sys_time sys_pacct linux_immutable mknod audit_control audit_read mac_override mac_admin "
    "syslog wake_alarm block_suspend perfmon bpf ve_admin"
).split()
FEATURES = "sysfs nfs sit ipip ppp ipgre bridge nfsd nesting userns compat32".split()
# switch -> why nothing can give it: file systems that no user namespace can mount, and a CT without one
FORBIDDEN_FEATURES = {
    "nfs:on": "nfs cannot be mounted in a user namespace",
    "nfsd:on": "nfsd cannot be mounted in a user namespace",
    "userns:off": "every container has a user namespace",
}
NETFILTER = ("disabled", "stateless", "stateful", "full")
# what only a patched kernel can withhold: accepted for old scripts and files, said, and the same as full
PARTS_OF_NETFILTER = frozenset(("stateless", "stateful"))
LAYOUTS = ("overlay", "simfs", "ploop", "ploop:expanded", "ploop:plain", "ploop:raw")


def parse_switches(text: str, known: list[str]) -> dict[str, bool]:
    """Return {name: on} of ``name:on|off`` words split by commas or blanks, in lower case."""
    found = {}
    for word in text.replace(",", " ").split():
        name, _, state = word.lower().partition(":")
        name = name.removeprefix("cap_")
        if name not in known or state not in ("on", "off"):
            raise ValueError(f"{word!r}: NAME:on or NAME:off, with NAME one of {' '.join(known)}")
        found[name] = state == "on"
    return found


def format_switches(value: dict[str, bool]) -> str:
    return " ".join(f"{name}:{'on' if on else 'off'}" for name, on in value.items())


def parse_capability(text: str) -> dict[str, bool]:
    return parse_switches(text, CAPABILITIES)


def format_capability(value: dict[str, bool]) -> str:
    return format_switches(value).upper().replace(":ON", ":on").replace(":OFF", ":off")


def set_capability(text: str) -> dict[str, bool]:
    """As ``parse_capability``; Refused where a capability is wanted that a user namespace cannot give."""
    found = parse_capability(text)
    if not found:
        raise ValueError("nothing in it")
    for name, on in found.items():
        if on and name in FORBIDDEN_CAPABILITIES:
            raise Refused(f"no user namespace can give {name.upper()}")
    return found


def forbidden_capabilities(value: dict[str, bool] | None) -> list[str]:
    """Return what CAPABILITY switches on in vain, in upper case: what start warns about."""
    return [name.upper() for name, on in (value or {}).items() if on and name in FORBIDDEN_CAPABILITIES]


def parse_features(text: str) -> dict[str, bool]:
    return parse_switches(text, FEATURES)


def set_features(text: str) -> dict[str, bool]:
    """As ``parse_features``; Refused for what nothing can give."""
    found = parse_features(text)
    if not found:
        raise ValueError("nothing in it")
    for switch in vain_features(found):
        raise Refused(FORBIDDEN_FEATURES[switch])
    return found


def vain_features(value: dict[str, bool] | None) -> list[str]:
    """Return the switches of FEATURES that have no effect: what start warns about."""
    return [switch for switch in FORBIDDEN_FEATURES if switch in format_switches(value or {}).split()]


def parse_device(text: str) -> str:
    """Return ``b|c:MAJOR:MINOR|all:[r][w][q]`` or ``…:none`` in its stored form."""
    parts = text.split(":")
    if len(parts) != 4 or parts[0] not in ("b", "c"):
        raise ValueError(f"{text!r}: b|c:MAJOR:MINOR|all:[r][w] or none")
    major = units.parse_count(parts[1], 0, 4095)
    minor = "all" if parts[2] == "all" else str(units.parse_count(parts[2], 0, 1048575))
    if major == 7 and parts[0] == "b":
        raise Refused("loop devices are shared by the whole node: grant one with --devnodes")
    return f"{parts[0]}:{major}:{minor}:{_parse_mode(parts[3]) or 'none'}"


def parse_devices(text: str) -> list[str]:
    return [parse_device(word) for word in text.split()]


def parse_devnodes(text: str) -> list[tuple[str, str]]:
    """Return [(device below /dev, mode)] of ``DEV:[r][w][q]`` words; mode "" takes one away (``DEV:none``)."""
    nodes = []
    for word in text.split():
        name, _, mode = word.rpartition(":")
        name = name.removeprefix("/dev/")
        parts = name.split("/")
        if (
            not name
            or name.startswith("-")
            or not name.isascii()
            or not name.isprintable()
            or {"", ".", ".."} & set(parts)
        ):
            raise ValueError(f"{word!r}: DEVICE:[r][w] or DEVICE:none, with DEVICE below /dev")
        if not frozenset("\"'$`\\;&|<>()*?~").isdisjoint(name):
            raise ValueError(f"{word!r}: DEVICE:[r][w] or DEVICE:none, with DEVICE below /dev")
        nodes.append((name, _parse_mode(mode)))
    return nodes


def format_devnodes(value: list[tuple[str, str]]) -> str:
    return " ".join(f"{name}:{mode or 'none'}" for name, mode in value)


def _parse_mode(text: str) -> str:
    """Return the letters of ``[r][w][q]`` in this order; "" for ``none``."""
    if text == "none":
        return ""
    if not text or not set(text) <= set("rwq") or len(set(text)) != len(text):
        raise ValueError(f"{text!r}: r, w, rw (with q for quotas) or none")
    return "".join(letter for letter in "rwq" if letter in text)


def parse_cpumask(text: str) -> str:
    """Return a CPU list such as ``0-3,7``; ``all`` and ``auto`` stay words."""
    return text if text in ("all", "auto") else _parse_list(text)


def parse_nodemask(text: str) -> str:
    return text if text == "all" else _parse_list(text)


def _parse_list(text: str) -> str:
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = units.parse_count(first, 0, 8191)
        if dash and units.parse_count(last, 0, 8191) < low:
            raise ValueError(f"{text!r} is not a list such as 0-3,7")
    return text


def parse_cpulimit(text: str) -> int:
    """Return per cent of one CPU, 0 for no limit; ``N%`` is per cent of the whole node, 100 at most."""
    if text.endswith("%"):
        return units.parse_count(text[:-1], 0, 100) * (os.cpu_count() or 1)
    return units.parse_count(text, 0, 1000000)


def parse_netfilter(text: str) -> str:
    if text not in NETFILTER:
        raise ValueError(f"{text!r}: {', '.join(NETFILTER)}")
    return text


def part_of_netfilter(word: str) -> str:
    """Return the line that says what becomes of one of PARTS_OF_NETFILTER."""
    return f"NETFILTER={word}: this kernel can withhold all or nothing; it gives full"


def parse_iptables(text: str) -> str:
    """Return the names of iptables modules, one blank between them."""
    words = text.split()
    if any(not word.isascii() or not word.replace("_", "").isalnum() for word in words):
        raise ValueError(f"{text!r}: names of iptables modules")
    return " ".join(words)


def netfilter_of(iptables: str) -> str:
    """Return the NETFILTER word that gives what the modules named in *iptables* gave."""
    words = iptables.lower().replace("xt_", "ipt_").split()
    if not words:
        return "disabled"
    if any("nat" in word.split("_") or word in ("iptable_nat", "ipt_redirect", "ipt_masquerade") for word in words):
        return "full"
    stateful = ("conntrack", "state", "helper", "connlimit", "connmark")
    return "stateful" if any(part in stateful for word in words for part in word.split("_")) else "stateless"


def parse_nameservers(text: str) -> list[str]:
    """Return addresses without masks, or the one word ``inherit``."""
    words = text.split()
    if words == ["inherit"]:
        return words
    if "/" in text:
        raise ValueError(f"{text!r}: a name server has no mask")
    return [units.parse_address(word) for word in words]


def parse_layout(text: str) -> str:
    if text not in LAYOUTS:
        raise ValueError(f"{text!r}: overlay, simfs or ploop")
    return text


def parse_diskspace(text: str) -> tuple[int, int]:
    """Return (soft, hard) in KiB; a bare number is KiB."""
    soft, colon, hard = text.partition(":")
    first = units.parse_size(soft, 1024) // 1024
    return first, units.parse_size(hard, 1024) // 1024 if colon else first


def set_diskspace(text: str) -> tuple[int, int]:
    """Return (soft, hard) in KiB of ``--diskspace``: neither is 0, which the kernel takes for no limit."""
    return _ordered(parse_diskspace(text))


def set_diskinodes(text: str) -> tuple[int, int]:
    """Return (soft, hard) of ``--diskinodes``."""
    return _ordered(parse_pair(text))


def _ordered(pair: tuple[int, int]) -> tuple[int, int]:
    if not pair[0] or not pair[1]:
        raise Refused("0 is no limit")
    if pair[0] > pair[1]:
        raise Refused("the soft limit is above the hard one")
    return pair


def parse_pair(text: str) -> tuple[int, int]:
    soft, colon, hard = text.partition(":")
    return units.parse_count(soft), units.parse_count(hard if colon else soft)


def format_pair(value: tuple[int, int]) -> str:
    return f"{value[0]}:{value[1]}"


def parse_iolimit(text: str) -> int:
    """Return bytes a second as a conf has them; what does not fit in 31 bits is cut to them, as vzctl does."""
    return 0 if text == "unlimited" else min(units.parse_size(text), units.INT_MAX)


def set_iolimit(text: str) -> int:
    """Return bytes a second of ``--iolimit``: a bare number is MB; ValueError from 2G on."""
    rate = 0 if text == "unlimited" else units.parse_size(text, 1 << 20)
    if rate > units.INT_MAX:
        raise ValueError(f"{text!r} is more than {units.INT_MAX} bytes")
    return rate


def parse_float(text: str) -> float:
    if len(text) > 20 or not text.isascii() or not text.replace(".", "", 1).isdigit():
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def format_float(value: float) -> str:
    return f"{value:g}"


def parse_signed(text: str) -> int:
    return (
        -units.parse_count(text[1:], 0, units.INT_MAX)
        if text.startswith("-")
        else units.parse_count(text, 0, units.INT_MAX)
    )


def parse_meminfo(text: str) -> str:
    kind, colon, number = text.partition(":")
    if text != "none" and (kind not in ("pages", "privvmpages") or not colon or not units.parse_count(number, 1)):
        raise ValueError(f"{text!r}: none, pages:N or privvmpages:N")
    return text


def set_first_id(text: str) -> int:
    """Return the first host id of a CT's range, or 0 for one of the pool; never ids that users of the node have."""
    first = units.parse_count(text, 0, 4294901760)
    if 0 < first < 65536:
        raise Refused("the node's own users have ids below 65536")
    return first


def parse_userpasswd(text: str) -> tuple[str, str]:
    """Return (user, password); the ValueError never shows the password."""
    user, colon, password = text.partition(":")
    plain = user.isascii() and user.isprintable() and not set(user) & set(" /,'\"$`\\")
    if not user or user[0] in "-+" or not colon or not password or not plain or len(user) > 32:
        raise ValueError("USER:PASSWORD is wanted")
    if any(ord(char) < 32 or ord(char) == 127 for char in password):
        raise ValueError("a control character in the password")
    return user, password


def join(words: list[str]) -> str:
    return " ".join(words)
