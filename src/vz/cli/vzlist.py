"""vzlist(8): the CTs of this node, as a table for people and scripts or as JSON."""

from __future__ import annotations

import os

from vz.cli.main import Globals
from vz.cli.vzlist_columns import BASE, DISK, LISTS, PARTS, UBC_NAMES, Row, find, listed
from vz.config.conffile import ConfFile
from vz.config.ctconfig import load_ct
from vz.config.nodeconfig import NodeConfig, load_node
from vz.config.paths import CONF_DIR, RUN
from vz.container.ct import Container
from vz.container.ct import find as find_ct
from vz.errors import InvalidConfig, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT = "ctid,numproc,status,ip,hostname"
BY_NAME_COLUMNS = "smart_name,numproc,status,ip,hostname"
HELP = """\
Usage: vzlist [-a | -S] [-n] [-H] [-t] [-j | -o field[,field...] | -1] [-s [-]field]
              [-h pattern] [-N pattern] [-d pattern] [CTID [CTID ...]]
       vzlist -L

  -a, --all            all containers, not only running ones
  -S, --stopped        only those that do not run
  -n, --name           names in place of ids
  -H, --no-header      no header line
  -t, --no-trim        do not cut long values
  -j, --json           JSON
  -o, --output FIELDS  these columns
  -1                   ids alone
  -s, --sort [-]FIELD  sort by a column
  -h, --hostname PAT   hostname matches
  -N, --name_filter P  name matches
  -d, --description P  description matches
  -L, --list           which columns there are"""
LONG = {
    "all": "a", "stopped": "S", "no-header": "H", "no-trim": "t", "name": "n", "output": "o", "sort": "s",
    "hostname": "h", "name_filter": "N", "description": "d", "list": "L", "json": "j", "help": "?",
}  # fmt: skip
WITH_VALUE = "oshNd"
WITHOUT = "aSHtn1Lj?"


class Failure(Exception):
    """A wrong word: its text goes to stderr, the status is 1."""


class Options:
    __slots__ = ("fields", "fields_given", "flags", "ids", "patterns", "sort")

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.fields = DEFAULT
        self.fields_given = False
        self.sort = ""
        self.patterns: dict[str, str] = {}
        self.ids: list[str] = []


def run(argv: list[str], options: Globals) -> int:
    """vzlist [options] [CTID|NAME …]"""
    try:
        return _run(argv)
    except Failure as exc:
        _write(2, f"{exc}\n")
        return 1
    except VzError as exc:
        _write(2, f"{exc}\n")
        return 1


def _run(argv: list[str]) -> int:
    asked = parse(argv)
    if "?" in asked.flags:
        _write(1, HELP + "\n")
        return 0
    if "L" in asked.flags:
        _write(1, "".join(f"{name:<15} {header:<15}\n" for name, header in listed()))
        return 0
    fields = check_fields(asked)
    if os.geteuid() != 0:
        raise Failure("vzlist: this needs root")
    node = load_node()
    rows = collect(node, asked)
    if not rows:
        if "j" in asked.flags and not asked.ids:
            _write(1, "[]\n")
            return 0
        _write(2, "Container(s) not found\n")
        return 1 if asked.ids else 0
    sort_rows(rows, asked.sort)
    if "j" in asked.flags:
        from vz.cli.vzlist_json import to_json

        _write(1, to_json(rows, fields if asked.fields_given else [name for name, _, _ in BASE]))
    else:
        _write(1, table(rows, fields, "H" not in asked.flags, "t" in asked.flags))
    for row in rows:
        row.keep()
    return 0


def parse(argv: list[str]) -> Options:
    """Parse words and clusters such as ``-a1j`` and ``-jo a,b``; the last of -o, -1 and -n decides the columns."""
    asked = Options()
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            asked.ids += words
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            letter = LONG.get(name, "")
            if not letter:
                raise Failure(f"vzlist: unrecognized option '{_shown(word)}'")
            if equals and letter not in WITH_VALUE:
                raise Failure(f"vzlist: option '--{name}' doesn't allow an argument")
            if letter in WITH_VALUE and not equals:
                if not words:
                    raise Failure(f"vzlist: option '{_shown(word)}' requires an argument")
                value = words.pop(0)
            _take(asked, letter, value)
        elif word.startswith("-") and len(word) > 1:
            letters = word[1:]
            while letters:
                letter, letters = letters[0], letters[1:]
                if letter in WITH_VALUE:
                    if not letters and not words:
                        raise Failure(f"vzlist: option requires an argument -- '{letter}'")
                    _take(asked, letter, letters or words.pop(0))
                    break
                if letter not in WITHOUT:
                    raise Failure(f"vzlist: invalid option -- '{_shown(letter)}'")
                _take(asked, letter, "")
        else:
            asked.ids.append(word)
    return asked


def _take(asked: Options, letter: str, value: str) -> None:
    if letter == "o":
        asked.fields, asked.fields_given = value, True
    elif letter == "1":
        asked.fields, asked.fields_given = "veid", True
        asked.flags.add("H")
    elif letter == "n":
        asked.fields, asked.fields_given = BY_NAME_COLUMNS, True
    elif letter == "s":
        asked.sort = value
    elif letter in "hNd":
        asked.patterns[letter] = value
    else:
        asked.flags.add(letter)


def check_fields(asked: Options) -> list[str]:
    fields = asked.fields.removesuffix(",").split(",")
    for field in fields:
        if find(field) is None or ("j" in asked.flags and "." in field):
            raise Failure(f"Unknown field: {_shown(field)}")
    key = asked.sort.removeprefix("-")
    if asked.sort and find(key) is None:
        raise Failure(f"Unknown field: {_shown(key)}")
    return fields


def collect(node: NodeConfig, asked: Options) -> list[Row]:
    """Return the CTs that were asked for; one that does not run and has no private area is not there."""
    if asked.ids:
        ids = []
        for word in asked.ids:
            try:
                ids.append(find_ct(word))
            except VzError:
                raise Failure(f"CT ID {_shown(word)} is invalid.") from None
        ids = sorted(set(ids))
    elif asked.flags & {"a", "S"} or asked.patterns:
        ids = all_ids()
    else:
        ids = running_ids()
    rows = []
    for ctid in ids:
        try:
            conf = load_ct(ctid, node)
        except InvalidConfig:
            conf = load_ct(ctid, node, ConfFile("", b""))  # the node's defaults alone
        row = Row(Container(ctid, node, conf))
        if not row.running and not os.path.exists(f"{CONF_DIR}/{ctid}.conf"):
            continue
        if not row.running and not os.path.isdir(row.ct.private):
            continue
        if not asked.ids:
            if "S" in asked.flags and row.running:
                continue
            if not asked.flags & {"S", "a"} and not row.running:
                continue
        if _matches(row, asked.patterns):
            rows.append(row)
    return rows


def _matches(row: Row, patterns: dict[str, str]) -> bool:
    if not patterns:
        return True
    from fnmatch import fnmatchcase

    names = {"h": "hostname", "N": "name", "d": "description"}
    for letter, pattern in patterns.items():
        value = row.value(names[letter])
        if value is None or not fnmatchcase(str(value), pattern):
            return False  # what is not set matches nothing, not even "*"
    return True


def all_ids() -> list[int]:
    found = []
    for name in os.listdir(CONF_DIR):
        stem = name.removesuffix(".conf")
        if stem != name and stem.isascii() and stem.isdigit() and stem[0] != "0" and len(stem) <= 10:
            found.append(int(stem))
    return sorted(found)


def running_ids() -> list[int]:
    try:
        names = os.listdir(RUN)
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def sort_rows(rows: list[Row], sort: str) -> None:
    if not sort:
        return
    field = sort.removeprefix("-")

    def key(row: Row) -> tuple[int, Any]:
        value = raw(row, field)
        if value is None:
            return (0, 0)
        return (1, value) if isinstance(value, (int, float)) else (2, str(value))

    rows.sort(key=key, reverse=sort.startswith("-"))


def raw(row: Row, field: str) -> Any:
    """Return the value of *field*, which may name one part of a counter."""
    name, _, part = field.partition(".")
    if name in UBC_NAMES:
        if part in ("b", "l"):
            return row.value(name)[PARTS[part]]
        return row.value(name)[PARTS.get(part, 0)] if row.running else None
    if name in DISK:
        held, pair = row.disk(name)
        if not part:
            return held
        return None if pair is None else pair[0 if part == "s" else 1]
    return row.value(name)


def text(row: Row, field: str, whole: bool) -> str:
    """Return the cell of *field*; lists show their first word only unless *whole*."""
    name = field.partition(".")[0]
    value = raw(row, field)
    if name in LISTS:
        words = value or []
        return _shown(" ".join(words) if whole else "".join(words[:1])) or "-"
    if name == "uptime":
        if not row.running:
            return "-"
        seconds = int(value)
        return f"{seconds // 86400:03d}d{seconds // 3600 % 24:02d}h:{seconds // 60 % 60:02d}m:{seconds % 60:02d}s"
    if name == "disabled":
        value = bool(value)  # yes or no, never a dash
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ",".join(f"{key}:{'on' if on else 'off'}" for key, on in value.items()) or "-"
    return _shown(str(value))


def table(rows: list[Row], fields: list[str], header: bool, whole: bool) -> str:
    lines = []
    columns = [find(field) or ("", 0) for field in fields]
    widths = [width for _, width in columns]
    if header:
        titles = [title.rjust(32) if title == "ORIGIN_SAMPLE" else title for title, _ in columns]  # as vzctl 4 has it
        lines.append(_line(titles, widths))
    last = len(fields) - 1
    for row in rows:
        cells = []
        for index, field in enumerate(fields):
            cell = text(row, field, whole or index == last)
            if not whole and index != last and (widths[index] < 0 or field == "smart_name") and field != "layout":
                cell = cell[: abs(widths[index])]
            cells.append(cell)
        lines.append(_line(cells, widths))
    return "".join(lines)


def _line(cells: list[str], widths: list[int]) -> str:
    out = [cell.ljust(-width) if width < 0 else cell.rjust(width) for cell, width in zip(cells, widths)]
    return " ".join(out).rstrip() + "\n"


def _write(fd: int, data: str) -> None:
    raw_bytes = data.encode("utf-8", "surrogateescape")
    try:
        while raw_bytes:
            raw_bytes = raw_bytes[os.write(fd, raw_bytes) :]
    except BrokenPipeError:
        pass


def _shown(word: str) -> str:
    if word.isprintable():
        return word
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in word)
