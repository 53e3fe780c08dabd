"""vzubc: the beancounters of running CTs for people, or as the text that OpenVZ's /proc/user_beancounters had."""

from __future__ import annotations

import os
import time

from vz.cli.main import Globals
from vz.config.options import UBC_KINDS
from vz.config.paths import STATE
from vz.config.units import PAGE, UNLIMITED
from vz.container.ct import find, printable
from vz.errors import VzError
from vz.resources import proctext
from vz.resources.proctext import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.config.nodeconfig import NodeConfig

OK, FAILED = 0, 1
USAGE = """\
Usage: vzubc [options] [CTID|NAME ...]
       vzubc --proc | --write

  -w, --watch            show it anew every 2 seconds
  -wd, --wdiff           the same, with a * at what has changed
  -wt, --wnotitle        the same, without a title
  -wn, --winterval TIME  the same, every TIME seconds
  -q, --quiet            only what failed or comes near its limit
  -qh, --qheld RATIO     near is held above RATIO of it (0.5)
  -qm, --qmaxheld RATIO  or maxheld above RATIO of it (0.8)
  -v, --verbose          say how each limit is kept
  -r, --relative         failures since the last time
  -rd, --rdir DIR        where the last time is kept
  -rc, --rclear          forget it
  -i, --incremental      how much more or less is held than the last time
  -id, --idir DIR        where the last time is kept
  -ic, --iclear          forget it
  -c, --color            colors
  -f, --file FILE        a file in place of this node's containers; -: standard input
      --proc             the text of /proc/user_beancounters
      --write            write it and /proc/bc's files below /run/vz/proc"""
# word: (name of the setting, whether a value follows, what it switches on besides)
WORDS = {
    "-w": ("watch", False, ""), "--watch": ("watch", False, ""),
    "-wd": ("wdiff", False, "watch"), "--wdiff": ("wdiff", False, "watch"),
    "-wt": ("wnotitle", False, "watch"), "--wnotitle": ("wnotitle", False, "watch"),
    "-wn": ("interval", True, "watch"), "--winterval": ("interval", True, "watch"),
    "-q": ("quiet", False, ""), "--quiet": ("quiet", False, ""),
    "-qh": ("qheld", True, "quiet"), "--qheld": ("qheld", True, "quiet"),
    "-qm": ("qmaxheld", True, "quiet"), "--qmaxheld": ("qmaxheld", True, "quiet"),
    "-v": ("verbose", False, ""), "--verbose": ("verbose", False, ""),
    "-r": ("relative", False, ""), "--relative": ("relative", False, ""),
    "-rd": ("rdir", True, "relative"), "--rdir": ("rdir", True, "relative"),
    "-rc": ("rclear", False, ""), "--rclear": ("rclear", False, ""),
    "-i": ("incremental", False, ""), "--incremental": ("incremental", False, ""),
    "-id": ("idir", True, "incremental"), "--idir": ("idir", True, "incremental"),
    "-ic": ("iclear", False, ""), "--iclear": ("iclear", False, ""),
    "-c": ("color", False, ""), "--color": ("color", False, ""),
    "-f": ("file", True, ""), "--file": ("file", True, ""),
    "--proc": ("proc", False, ""), "--write": ("write", False, ""),
    "-h": ("help", False, ""), "--help": ("help", False, ""),
}  # fmt: skip
RULE = "-" * 64
SEPARATOR = "------------+---------------+---------------+-----+-----+------"
MARKS = {"enforced": "", "approximate": " ~", "counted": " *"}
NOTES = (
    (" *", "* counted only: this kernel cannot hold anything to that limit"),
    (" ~", "~ held in part: vzubc(8) says to what extent"),
)
RED, PLAIN = "\x1b[31m", "\x1b[0m"


def run(argv: list[str], options: Globals) -> int:
    """vzubc [options] [CTID …]; 0, or 1 for anything wrong."""
    try:
        return _run(argv)
    except (ValueError, VzError) as exc:
        text = printable(str(exc)) if str(exc) != USAGE else USAGE
        os.write(2, f"{text}\n".encode("utf-8", "surrogateescape"))
        return FAILED
    except OSError as exc:
        os.write(2, f"vzubc: {printable(str(exc.filename or ''))}: {exc.strerror}\n".encode("utf-8", "surrogateescape"))
        return FAILED


def _run(argv: list[str]) -> int:
    asked, ids = parse(argv)
    if "help" in asked:
        os.write(1, (USAGE + "\n").encode())
        return OK
    for flag, folder in (("rclear", "rdir"), ("iclear", "idir")):
        if flag in asked:
            clear(asked.get(folder) or default_dir(folder))
            if not {"relative", "incremental"} & asked.keys():
                return OK
    if "file" not in asked and os.geteuid() != 0:
        raise ValueError("vzubc: this needs root")
    if "watch" in asked:
        return watch(asked, ids)
    blocks = gather(asked, ids)
    if "write" in asked:
        from vz.ops import nodeview

        nodeview.write_files(blocks)
        return OK
    _write(proctext.user_beancounters(blocks) if "proc" in asked else text_of(asked, blocks))
    return OK


def parse(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return (settings, ids) of the command line; ValueError for what is wrong in it."""
    asked: dict[str, str] = {}
    ids = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if name in WORDS:
            setting, with_value, also = WORDS[name]
            if with_value and not equals:
                if not words:
                    raise ValueError(f"vzubc: option {name} requires a value")
                value = words.pop(0)
            elif equals and not with_value:
                raise ValueError(f"vzubc: option {name} takes no value")
            asked[setting] = value
            if also:
                asked.setdefault(also, "")
        elif word.startswith("-"):
            raise ValueError(USAGE)
        else:
            ids.append(word)
    for setting in ("qheld", "qmaxheld", "interval"):
        if setting in asked:
            ratio(asked[setting], setting)
    if {"proc", "write"} & asked.keys() and (ids or len(asked) > 1):
        raise ValueError("vzubc: --proc and --write stand alone")
    return asked, ids


def ratio(word: str, setting: str) -> float:
    whole = word.replace(".", "", 1)
    if not (whole.isascii() and whole.isdigit()) or len(word) > 12 or float(word) <= 0:
        raise ValueError(f"vzubc: bad value for {setting}: {word}")
    return float(word)


def gather(asked: dict[str, str], ids: list[str]) -> dict[int, dict[str, Row]]:
    """Return {ctid: rows} of what was asked for; ValueError for a CT that does not run or is not in the file."""
    if "file" in asked:
        with open(0 if asked["file"] == "-" else asked["file"], encoding="ascii", errors="replace") as file:
            blocks = proctext.parse(file.read(1 << 24))
    else:
        from vz.config.nodeconfig import load_node

        blocks = gather_node(load_node(), asked, ids)
    if not ids:
        return blocks
    chosen = {}
    for word in ids:
        number = int(word) if word.isascii() and word.isdigit() and len(word) < 11 else find(word)
        if number not in blocks:
            raise ValueError(f"vzubc: container {number} is not running")
        chosen[number] = blocks[number]
    return chosen


def gather_node(node: NodeConfig, asked: dict[str, str], ids: list[str]) -> dict[int, dict[str, Row]]:
    from vz.ops import nodeview

    if not ids or "0" in ids:
        return nodeview.read_all(node, host=bool(ids) or bool({"proc", "write"} & asked.keys()))
    found = {}
    for word in ids:
        ct = nodeview.load_or_default(find(word), node)
        if ct.is_running():
            found[ct.ctid] = nodeview.read(ct)
    return found


def text_of(asked: dict[str, str], blocks: dict[int, dict[str, Row]]) -> str:
    """Return the tables, after relative and incremental changes."""
    blocks = {ctid: dict(rows) for ctid, rows in blocks.items()}
    change: dict[int, dict[str, int]] = {}
    if "relative" in asked:
        folder = asked.get("rdir") or default_dir("rdir")
        for ctid, rows in blocks.items():
            before = recall(folder, ctid)
            remember(folder, ctid, {name: row[4] for name, row in rows.items()})
            for name, row in rows.items():
                since = row[4] - before.get(name, 0)
                rows[name] = (*row[:4], since if since >= 0 else row[4])  # less than before: it has restarted
    if "incremental" in asked:
        folder = asked.get("idir") or default_dir("idir")
        for ctid, rows in blocks.items():
            before = recall(folder, ctid)
            remember(folder, ctid, {name: row[0] for name, row in rows.items()})
            change[ctid] = {name: row[0] - before[name] for name, row in rows.items() if name in before}
    out = []
    for ctid, rows in blocks.items():
        out.append(table(ctid, rows, asked, change.get(ctid, {})))
    return "".join(out)


def table(ctid: int, rows: dict[str, Row], asked: dict[str, str], change: dict[str, int]) -> str:
    """Return the table of one CT, "" in quiet mode where nothing is to be said."""
    quiet = "quiet" in asked
    held_ratio = float(asked.get("qheld") or 0.5)
    max_ratio = float(asked.get("qmaxheld") or 0.8)
    marks = {} if "file" in asked else how_kept()
    lines, used = [], set()
    for name in UBC_KINDS:
        if name not in rows or (quiet and not is_near(rows[name], held_ratio, max_ratio)):
            continue
        limited = 0 < rows[name][2] < UNLIMITED or rows[name][3] < UNLIMITED
        mark = MARKS[marks.get(name, "enforced")] if limited else ""
        line = table_line(name, rows[name], change.get(name))
        if "color" in asked and rows[name][4]:
            line = f"{RED}{line}{PLAIN}"
        used.add(mark)
        lines.append(line + mark + "\n")
        if "verbose" in asked and mark.strip():
            lines.append(f"{'':12}  {'counted only' if mark == MARKS['counted'] else extent(name)}\n")
    if not lines:
        return ""
    head = f"{'CT ' + str(ctid):<12}| HELD Bar% Lim%| MAXH Bar% Lim%| BAR | LIM | FAIL"
    notes = "".join(f"{text}\n" for mark, text in NOTES if mark in used)
    return f"{RULE}\n{head}\n{SEPARATOR}\n{''.join(lines)}{notes}"


def how_kept() -> dict[str, str]:
    from vz.resources.beancounters import kept_how

    return {name: kept_how(name) for name in UBC_KINDS}


def extent(name: str) -> str:
    """Return what of a limit is kept, in words."""
    from vz.resources.beancounters import APPROXIMATELY

    return APPROXIMATELY.get(name, "counted only")


def table_line(name: str, row: Row, change: int | None) -> str:
    held, maxheld, barrier, limit, failcnt = row
    kind = UBC_KINDS[name]
    first = human(held, kind) if change is None else signed(change, kind)
    return (
        f"{name:>12}|{first:>5}{percent(held, barrier):>5}{percent(held, limit):>5}"
        f"|{human(maxheld, kind):>5}{percent(maxheld, barrier):>5}{percent(maxheld, limit):>5}"
        f"|{human(barrier, kind):>5}|{human(limit, kind):>5}|{human(failcnt, 'items'):>6}"
    )


def is_near(row: Row, held_ratio: float, max_ratio: float) -> bool:
    """Tell whether a counter failed or is near its barrier or limit, the lower of those that are set."""
    held, maxheld, barrier, limit, failcnt = row
    tops = [top for top in (barrier, limit) if 0 < top < UNLIMITED]
    return failcnt > 0 or (bool(tops) and (held > min(tops) * held_ratio or maxheld > min(tops) * max_ratio))


def human(value: int, kind: str) -> str:
    """Return *value* in five characters at most; "-" for nothing and for unlimited."""
    if value == 0 or value >= UNLIMITED:
        return "-"
    if kind == "items":
        if value < 100000:
            return str(value)
        step = 1000
    else:
        value, step = value * (PAGE if kind == "pages" else 1), 1024
        if value < step:
            return str(value)
    number, unit = float(value), ""
    for letter in "KMGTPE":
        number /= step
        unit = letter
        if number < 999.5:
            break
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    word = f"{number:.{digits}f}"
    return (word.rstrip("0").rstrip(".") if "." in word else word) + unit


def signed(value: int, kind: str) -> str:
    return "-" if value == 0 else f"{'+' if value > 0 else '-'}{human(abs(value), kind)}"


def percent(value: int, top: int) -> str:
    return "-" if not value or not 0 < top < UNLIMITED else f"{min(round(value * 100 / top), 999)}%"


def watch(asked: dict[str, str], ids: list[str]) -> int:
    """Show it again and again, until a signal."""
    interval_s = float(asked.get("interval") or 2.0)
    before: list[str] = []
    while True:
        lines = text_of(asked, gather(asked, ids)).splitlines()
        shown = lines
        if "wdiff" in asked and before:
            shown = [line if line in before else f"{line} *" for line in lines]
        title = [] if "wnotitle" in asked else [f"Every {interval_s:g}s: vzubc    {time.strftime('%c')}", ""]
        _write("\x1b[H\x1b[2J" + "\n".join([*title, *shown]) + "\n")
        before = lines
        time.sleep(interval_s)


def default_dir(folder: str) -> str:
    return f"{STATE}/vzubc.{folder}"


def recall(folder: str, ctid: int) -> dict[str, int]:
    try:
        with open(f"{folder}/{ctid}", encoding="ascii") as file:
            pairs = [line.split() for line in file]
        return {name: int(value) for name, value in pairs}
    except (OSError, ValueError):
        return {}


def remember(folder: str, ctid: int, values: dict[str, int]) -> None:
    from vz.kernel.files import make_dirs, write_atomically

    make_dirs(folder, 0o700)
    data = "".join(f"{name} {value}\n" for name, value in values.items())
    write_atomically(f"{folder}/{ctid}", data.encode(), 0o600, durable=False)


def clear(folder: str) -> None:
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name.isdigit():
            os.unlink(f"{folder}/{name}")


def _write(text: str) -> None:
    data = text.encode()
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        os._exit(0)
