"""vzlist -j: the JSON text of vzlist(8), member by member in its own layout."""

from __future__ import annotations

from vz.cli.vzlist_columns import DISK, LISTS, UBC_NAMES, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ZERO_WHEN_UNSET = frozenset(["cpus", "ioprio", "iolimit", "iopslimit", "vm_overcommit"])
PARTS = ("held", "maxheld", "barrier", "limit", "failcnt")


def to_json(rows: list[Row], fields: list[str]) -> str:
    """Return the list of CTs; members in the order of *fields*, each once."""
    names = list(dict.fromkeys(fields))
    objects = []
    for row in rows:
        members = [f"\n    {quote(name)}: {member(row, name)}" for name in names]
        objects.append("\n  {" + ",".join(members) + "\n  }")
    return "[" + ",".join(objects) + "\n]\n"


def member(row: Row, name: str) -> str:
    """Return the JSON text of column *name*."""
    value: Any = row.value(name)
    if name in UBC_NAMES:
        return nested(dict(zip(PARTS, value)))
    if name in DISK:
        held, pair = row.disk(name)
        if pair is None and held is None:
            return "null"
        soft, hard = pair or (0, 0)
        return nested({"usage": held or 0, "softlimit": soft, "hardlimit": hard})
    if name in LISTS:
        return "[" + ", ".join(quote(word) for word in value) + "]" if value else "[]"
    if name in ("features", "capability"):
        return nested({key: bool(on) for key, on in value.items()}) if value else "null"
    if name == "uptime":
        return f"{value:.3f}"
    if name == "laverage":
        return "[" + ", ".join(f"{number:.2f}" for number in value) + "]" if value else "null"
    if name in ("vswap", "disabled"):
        return "true" if value else "false"
    if value is None or value == "":
        return "0" if name in ZERO_WHEN_UNSET else "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    return quote(str(value))


def nested(fields: dict[str, Any]) -> str:
    words = [
        f"\n      {quote(key)}: {('true' if value else 'false') if isinstance(value, bool) else value}"
        for key, value in fields.items()
    ]
    return "{" + ",".join(words) + "\n    }"


def quote(text: str) -> str:
    """Return *text* as a JSON string; bytes that were no UTF-8 become U+FFFD."""
    out = ['"']
    for char in text:
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif 0xD800 <= code <= 0xDFFF:
            out.append("\\ufffd")
        elif char.isprintable():
            out.append(char)
        elif code < 0x10000:  # controls, C1 among them, and marks that turn the direction of a line
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\u{0xD7C0 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}")
    return "".join([*out, '"'])
