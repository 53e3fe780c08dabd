"""The texts of OpenVZ's /proc/user_beancounters and /proc/bc, written and read: an interface, to the column."""

from __future__ import annotations

from vz.config.ubc import NAMES, PROC_ROWS

VERSION = "Version: 2.5"
COLUMNS = ("held", "maxheld", "barrier", "limit", "failcnt")
Row = tuple[int, int, int, int, int]
NOTHING: Row = (0, 0, 0, 0, 0)


def header() -> str:
    return f"{VERSION}\n{'uid':>10}  {'resource':<12}" + "".join(f" {word:>20}" for word in COLUMNS) + "\n"


def block(ctid: int, rows: dict[str, Row], names: list[str] | tuple[str, ...] = PROC_ROWS) -> str:
    """Return the lines of one CT: the first has its id, with the colon in column 10."""
    lines = []
    uid = f"{ctid}:"
    for name in names:
        lines.append(_line(uid, name, rows.get(name, NOTHING)))
        uid = ""
    return "".join(lines)


def _line(uid: str, name: str, row: Row) -> str:
    # an id of ten digits has its colon in column 11 and one blank after it, as the newest kernels have for all
    return f"{f'{uid:>10}':<11} {name:<12}" + "".join(f" {value:>20}" for value in row) + "\n"


def user_beancounters(blocks: dict[int, dict[str, Row]]) -> str:
    """Return the text of /proc/user_beancounters for {ctid: {counter: row}}."""
    return header() + "".join(block(ctid, rows) for ctid, rows in blocks.items())


def bc_resources(blocks: dict[int, dict[str, Row]]) -> str:
    """Return the text of /proc/bc/resources: the same without dummy rows."""
    return header() + "".join(block(ctid, rows, NAMES) for ctid, rows in blocks.items())


def bc_ct_resources(rows: dict[str, Row]) -> str:
    """Return the text of /proc/bc/CTID/resources: rows alone, without an id."""
    return "".join(_line("", name, rows.get(name, NOTHING)) for name in NAMES)


def parse(text: str) -> dict[int, dict[str, Row]]:
    """Return {ctid: {counter: row}} of a text of version 2.5.

    Raises:
        ValueError: another version, or a line that is none of such a file.
    """
    lines = text.splitlines()
    if not lines or lines[0].strip() != VERSION:
        raise ValueError(f"{VERSION} expected")
    found: dict[int, dict[str, Row]] = {}
    rows: dict[str, Row] = {}
    for line in lines[1:]:
        words = line.split()
        if not words or words[0] == "uid":
            continue
        if words[0].endswith(":") and words[0][:-1].isdecimal():
            rows = found[int(words.pop(0)[:-1])] = {}
        if len(words) != 6 or not all(word.isdecimal() for word in words[1:]):
            raise ValueError(f"not a line of beancounters: {line.strip()!r}")
        if words[0] != "dummy":
            held, maxheld, barrier, limit, failcnt = map(int, words[1:])
            rows[words[0]] = (held, maxheld, barrier, limit, failcnt)
    return found
