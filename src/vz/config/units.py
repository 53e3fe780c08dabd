"""Values as people write them, and back: sizes, counters, addresses, words.  ValueError says what is wrong."""

from __future__ import annotations

import errno

import _socket

UNLIMITED = 9223372036854775807  # LONG_MAX, as vzctl(8) has it
PAGE = 4096
_SUFFIXES = {"T": 1 << 40, "G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "P": PAGE, "B": 1}


def parse_count(text: str, low: int = 0, high: int = UNLIMITED) -> int:
    """Return the decimal number *text* within *low*..*high*; ASCII digits only."""
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise ValueError(f"{text!r} is not a number")
    number = int(text)
    if not low <= number <= high:
        raise ValueError(f"{text} is not within {low}..{high}")
    return number


def parse_size(text: str, default_unit: int = 1) -> int:
    """Return the bytes that *text* names: a decimal with an optional suffix T G M K P(ages) B, 1024-based."""
    unit = default_unit
    word = text
    if word and word[-1].upper() in _SUFFIXES:
        unit = _SUFFIXES[word[-1].upper()]
        word = word[:-1]
    whole, dot, part = word.partition(".")
    if not whole and not part or len(word) > 24 or not word.isascii():
        raise ValueError(f"{text!r} is not a size")
    if (whole and not whole.isdigit()) or (dot and not part.isdigit()):
        raise ValueError(f"{text!r} is not a size")
    scale = 10 ** len(part)
    return min((int(whole or "0") * scale + int(part or "0")) * unit // scale, UNLIMITED)


def parse_counter(text: str, kind: str) -> int:
    """Return one value of a beancounter in its own unit; *kind* is ``items``, ``bytes`` or ``pages``."""
    if text.lower() == "unlimited":
        return UNLIMITED
    if kind == "items":
        return parse_count(text)
    if text.isascii() and text.isdigit():
        return min(int(text), UNLIMITED) if len(text) < 25 else UNLIMITED
    size = parse_size(text)
    return size if kind == "bytes" else min(-(-size // PAGE), UNLIMITED)


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
    address, slash, mask = text.partition("/")
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    try:
        canonical = _socket.inet_ntop(family, _socket.inet_pton(family, address))
    except OSError:
        raise ValueError(f"{text!r} is not an address") from None
    if not slash:
        return canonical
    if family == _socket.AF_INET and "." in mask:
        return f"{canonical}/{_mask_length(mask)}"
    return f"{canonical}/{parse_count(mask, 0, 32 if family == _socket.AF_INET else 128)}"


def _mask_length(mask: str) -> int:
    try:
        bits = int.from_bytes(_socket.inet_pton(_socket.AF_INET, mask), "big")
    except OSError:
        raise ValueError(f"{mask!r} is not a network mask") from None
    length = bits.bit_count()
    if bits != (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF:
        raise ValueError(f"{mask!r} is not a network mask")
    return length


def parse_mac(text: str) -> str:
    """Return a unicast Ethernet address in upper case."""
    parts = text.split(":")
    digits = set("0123456789abcdefABCDEF")
    if len(parts) != 6 or any(len(part) != 2 or not set(part) <= digits for part in parts):
        raise ValueError(f"{text!r} is not a MAC address")
    if int(parts[0], 16) & 1:
        raise ValueError(f"{text!r} is a multicast address")
    return text.upper()


def parse_interface(text: str) -> str:
    """Return the name of a network interface: 1 to 15 printable characters, no slash, blank or colon."""
    bad = set("/ \t,;:=\"'\\$`")
    if not 0 < len(text) <= 15 or text in (".", "..", "all") or not text.isprintable() or set(text) & bad:
        raise ValueError(f"{text!r} is not an interface name")
    return text


def parse_hostname(text: str) -> str:
    """Return a host name: letters, digits, ``-``, ``.`` and ``_``, 64 characters at most (the kernel's limit)."""
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")
    if not 0 < len(text) <= 64 or not set(text) <= allowed or text[0] in "-.":
        raise ValueError(f"{text!r} is not a host name")
    return text


def parse_text(text: str) -> str:
    """Return *text* on one line: line ends become blanks, other control characters are refused."""
    line = text.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    if any(ord(char) < 32 or ord(char) == 127 for char in line):
        raise ValueError("a control character in it")
    return line


def parse_path(text: str) -> str:
    if not text.startswith("/") or any(ord(char) < 32 for char in text) or "/../" in text + "/":
        raise ValueError(f"{text!r} is not an absolute path")
    return text


def parse_words(text: str) -> str:
    """Return the name of a template, sample or layout: no blank, slash at the start, ``..`` or control character."""
    if not text or text.startswith((".", "-")) or ".." in text or any(ord(c) <= 32 or c in "\"'$`\\" for c in text):
        raise ValueError(f"{text!r} is not a name")
    return text


def errno_name(number: int) -> str:
    return errno.errorcode.get(number, str(number))
