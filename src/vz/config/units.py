"""Values as people write them, and back: sizes, counters, addresses, words.  ValueError says what is wrong.

``Refused`` is the ValueError of a value that is well formed and still cannot be had; its text is meant for people.
"""

from __future__ import annotations

import os

UNLIMITED = 9223372036854775807  # LONG_MAX, as vzctl(8) has it
PAGE = os.sysconf("SC_PAGE_SIZE")
INT_MAX = 2147483647
_SUFFIXES = {"T": 1 << 40, "G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "P": PAGE, "B": 1}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_HOST = frozenset(_LETTERS + "-._")
_NAME = frozenset(_LETTERS + "-+_. ")
_HEX = frozenset("0123456789abcdefABCDEF")
_WORD_BAD = frozenset("\"'$`\\;&|<>()*?!#~{}[]")
_INTERFACE_BAD = frozenset("/ ,;:=\"'\\$`&|<>()*?!#~{}[]%@")


class Refused(ValueError):
    """A well-formed value that nothing on this system can give; the text says why."""


def parse_count(text: str, low: int = 0, high: int = UNLIMITED) -> int:
    """Return the decimal number *text* within *low*..*high*; ASCII digits only."""
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise ValueError(f"{text!r} is not a number")
    number = int(text)
    if not low <= number <= high:
        raise ValueError(f"{text} is not within {low}..{high}")
    return number


def parse_size(text: str, default_unit: int = 1) -> int:
    """Return the bytes that *text* names: a decimal with an optional suffix T G M K P(ages) B, 1024-based.

    A size beyond LONG_MAX is LONG_MAX; a bare number counts in *default_unit* bytes.
    """
    unit = default_unit
    word = text
    if word and word[-1].upper() in _SUFFIXES:
        unit = _SUFFIXES[word[-1].upper()]
        word = word[:-1]
    whole, dot, part = word.partition(".")
    if (not whole and not part) or len(word) > 24 or not word.isascii():
        raise ValueError(f"{text!r} is not a size")
    if (whole and not whole.isdigit()) or (part and not part.isdigit()):
        raise ValueError(f"{text!r} is not a size")
    scale: int = 10 ** len(part)
    return min((int(whole or "0") * scale + int(part or "0")) * unit // scale, UNLIMITED)


def parse_counter(text: str, kind: str) -> int:
    """Return one value of a beancounter in its own unit; *kind* is ``items``, ``bytes`` or ``pages``."""
    if text.lower() == "unlimited":
        return UNLIMITED
    digits = text.isascii() and text.isdigit() and len(text) <= 24
    if digits:
        return min(int(text), UNLIMITED)
    if kind == "items":
        raise ValueError(f"{text!r} is not a number")
    size = parse_size(text)
    return size if kind == "bytes" else pages_of(size)


def pages_of(size_bytes: int) -> int:
    """Return *size_bytes* in pages, rounded up; unlimited stays unlimited."""
    return UNLIMITED if size_bytes >= UNLIMITED else -(-size_bytes // PAGE)


def parse_ubc(text: str, kind: str) -> tuple[int, int]:
    """Return (barrier, limit) of ``barrier[:limit]``."""
    first, colon, second = text.partition(":")
    barrier = parse_counter(first, kind)
    limit = parse_counter(second, kind) if colon else barrier
    return barrier, limit


def format_counter(value: int) -> str:
    return "unlimited" if value >= UNLIMITED else str(value)


def format_ubc(value: tuple[int, int]) -> str:
    """The stored form: ``b`` when both are equal, else ``b:l``."""
    barrier, limit = value
    return format_counter(barrier) if barrier == limit else f"{format_counter(barrier)}:{format_counter(limit)}"


def parse_yes_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"{text!r} is neither yes nor no")
    return text == "yes"


def format_yes_no(value: bool) -> str:
    return "yes" if value else "no"


def parse_address(text: str) -> str:
    """Return an IPv4 or IPv6 address with its mask where it has one, in canonical text: ``192.0.2.1/24``."""
    import _socket  # an extension to load: not for those who parse no address

    address, slash, mask = text.partition("/")
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    try:
        canonical = _socket.inet_ntop(family, _socket.inet_pton(family, address))
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is not an address") from None
    if not slash:
        return canonical
    if family == _socket.AF_INET and "." in mask:
        return f"{canonical}/{_mask_length(mask)}"
    if not mask.isdigit() or len(mask) > 3:
        raise ValueError(f"{mask!r} is not a mask")
    return f"{canonical}/{parse_count(mask, 0, 32 if family == _socket.AF_INET else 128)}"


def _mask_length(mask: str) -> int:
    import _socket

    try:
        bits = int.from_bytes(_socket.inet_pton(_socket.AF_INET, mask), "big")
    except (OSError, ValueError):
        raise ValueError(f"{mask!r} is not a network mask") from None
    length = bits.bit_count()
    if bits != (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF:
        raise ValueError(f"{mask!r} is not a network mask")
    return length


def is_placeholder(text: str) -> bool:
    """Tell whether *text* is one of the addresses that mean "none": ``0.0.0.0``, ``::`` and the like."""
    return text.partition("/")[0] in ("0.0.0.0", "::", "::0", "0::0")


def parse_own_address(text: str) -> str:
    """Return an address that a CT can own; ValueError for loopback, multicast, broadcast and unspecified ones."""
    canonical = parse_address(text)
    address, slash, mask = canonical.partition("/")
    first = address.split(".", 1)[0]
    if ":" in address:
        bad = address in ("::", "::1") or address.startswith("ff") or address.startswith("::ffff:")
    else:
        bad = first in ("0", "127") or int(first) >= 224
    if bad or (slash and mask == "0"):
        raise ValueError(f"{text!r} cannot be a container's address")
    return canonical


def parse_mac(text: str) -> str:
    """Return a unicast Ethernet address in upper case."""
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 or not _HEX.issuperset(part) for part in parts):
        raise ValueError(f"{text!r} is not a MAC address")
    if int(parts[0], 16) & 1:
        raise ValueError(f"{text!r} is a multicast address")
    if not any(int(part, 16) for part in parts):
        raise ValueError(f"{text!r} is no address")
    return text.upper()


def parse_interface(text: str) -> str:
    """Return the name of a network interface: 1 to 15 printable ASCII characters that no shell or rule trips over."""
    if not 0 < len(text) <= 15 or text in (".", "..", "all") or text[0] == "-" or not _plain(text):
        raise ValueError(f"{text!r} is not an interface name")
    if not _INTERFACE_BAD.isdisjoint(text):
        raise ValueError(f"{text!r} is not an interface name")
    return text


def parse_host_device(text: str) -> str:
    """Return a host interface that may be moved into a CT: none of those that belong to the node itself."""
    parse_interface(text)
    if text.startswith(("venet", "tun", "tap", "lo")):
        raise ValueError(f"{text!r} belongs to the node")
    return text


def parse_hostname(text: str) -> str:
    """Return a host name: letters, digits, ``-``, ``.`` and ``_``, 64 characters at most (the kernel's limit)."""
    if not 0 < len(text) <= 64 or not _HOST.issuperset(text) or text[0] in "-.":
        raise ValueError(f"{text!r} is not a host name")
    return text


def parse_domain(text: str) -> str:
    """Return a DNS domain for a search list; ``.`` is the root."""
    if text != "." and (not 0 < len(text) <= 253 or not _HOST.issuperset(text) or text[0] in "-."):
        raise ValueError(f"{text!r} is not a domain")
    return text


def parse_name(text: str) -> str:
    """Return a CT's name (letters, digits, blank, ``- + _ .``), or "" to take it away.

    A number is no name: it would always be read as an id.
    """
    bad = text in (".", "..") or text.isdigit() or len(text) > 255 or text != text.strip()
    if bad or not _NAME.issuperset(text):
        raise ValueError(f"{text!r}: letters, digits, space and - + _ . only")
    return text


def parse_text(text: str) -> str:
    """Return *text* on one line: line ends become blanks, other control characters are refused."""
    line = text.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    if any(ord(char) < 32 or ord(char) == 127 for char in line):
        raise ValueError("a control character in it")
    return line


def parse_path(text: str) -> str:
    """Return an absolute path without ``..``, line ends or what a shell would run; ``$VEID`` may stand in it."""
    rest = text.replace("${VEID}", "").replace("$VEID", "")
    if (
        not text.startswith("/")
        or not rest.isprintable()
        or "/../" in text + "/"
        or not frozenset("\"'$`\\").isdisjoint(rest)
    ):
        raise ValueError(f"{text!r} is not an absolute path")
    return text


def parse_word(text: str) -> str:
    """Return the name of a template, a sample or a layout: one word, no slash, no ``..``, nothing of a shell's."""
    if not text or text[0] in ".-" or ".." in text or "/" in text or not _plain(text) or not _WORD_BAD.isdisjoint(text):
        raise ValueError(f"{text!r} is not a name")
    return text


def parse_template(text: str) -> str:
    """Return the name of an OS template; old confs have a path's last part or a leading dot or blank around it."""
    return parse_word(text.strip().rpartition("/")[2])


def _plain(text: str) -> bool:
    """Tell whether *text* is printable ASCII without blanks."""
    return text.isascii() and text.isprintable() and " " not in text
