"""vzctl why: what was refused, slowed, killed or failed, by which limit, and which command would change it."""

from __future__ import annotations

import os
import time

from vz.cli.context import prepare
from vz.cli.main import Globals
from vz.config.units import PAGE
from vz.container import events
from vz.container.ct import load, printable
from vz.errors import BadSyntax, BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
TOGETHER_S = 60.0  # events of one limit that follow each other closer than this are told as one
WORDS = {
    "numproc": "{count} new {processes} refused (EAGAIN)",
    "numtcpsock": "{count} new TCP {sockets} refused (ENOBUFS)",
    "numothersock": "{count} new UDP or raw {sockets} refused (ENOBUFS)",
    "tcpsndbuf": "{count} {times} a TCP connection got no memory for its buffers and was slowed",
}
HELD = {
    "numproc": "it had all {limit} processes and threads that numproc allows",
    "numtcpsock": "it had all {limit} that numtcpsock allows",
    "numothersock": "it had all {limit} that numothersock allows",
    "tcpsndbuf": "together they had all that tcpsndbuf and tcprcvbuf allow",
}


def run(argv: list[str], options: Globals) -> int:
    """vzctl why CTID [--since TIME] [--json]; 0, with nothing to tell too"""
    node, ctid = prepare(options, argv[0])
    as_json, since_s = parse(argv[1:])
    ct = load(ctid, node)
    if ct.is_running():
        from vz.resources import noticing

        noticing.look(ct)
    found = together(events.read(ctid, time.time() - since_s if since_s else 0.0))
    found.reverse()
    for event in found:
        event["proposal"] = proposal(ctid, event)
    if as_json:
        import json

        text = json.dumps(found, indent=1)
    else:
        text = "\n".join(paragraph(event) for event in found) or f"Nothing is known to have stopped container {ctid}"
    os.write(1, (text + "\n").encode("utf-8", "surrogateescape"))
    return 0


def parse(argv: list[str]) -> tuple[bool, float]:
    """Return (--json was given, seconds of --since or 0); BadSyntax (20), BadValue (21)."""
    as_json, since_s = False, 0.0
    words = list(argv)
    while words:
        word, equals, value = words.pop(0).partition("=")
        if word == "--json" and not equals:
            as_json = True
        elif word == "--since":
            if not equals:
                if not words:
                    raise BadSyntax("option --since wants a value")
                value = words.pop(0)
            number, unit = (value[:-1], value[-1:]) if value[-1:] in UNITS else (value, "s")
            if not (number.isascii() and number.isdigit() and len(number) < 9 and int(number)):
                raise BadValue(f"Bad parameter for --since: {printable(value)}; for example 1h, 30m or 2d")
            since_s = float(int(number) * UNITS[unit])
        else:
            kind = "Unknown option" if word.startswith("-") else "Invalid extra arguments:"
            raise BadSyntax(f"{kind} {printable(word)}")
    return as_json, since_s


def together(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return *found* with events of one limit that follow each other added up."""
    told: list[dict[str, Any]] = []
    last: dict[str, dict[str, Any]] = {}
    for event in found:
        what = event.get("what") if event.get("kind") == "limit" else None
        before = last.get(what) if isinstance(what, str) else None
        if before is not None and event["time"] - before["time"] <= TOGETHER_S and before["limit"] == event["limit"]:
            for name in ("count", "seconds"):
                if name in event:
                    before[name] = round(before.get(name, 0) + event[name], 1)
            if "processes" in event:
                before["processes"] = [*before.get("processes", []), *event["processes"]][-5:]
            before["time"] = event["time"]
            continue
        told.append(event)
        if isinstance(what, str):
            last[what] = event
    return sorted(told, key=lambda event: float(event["time"]))


def paragraph(event: dict[str, Any]) -> str:
    """Return the lines about one event."""
    lines = [f"{clock(event['time'])}  {headline(event)}"]
    if event.get("proposal"):
        lines.append(f"    To change that: {event['proposal']}")
    return "\n".join(printable(line) for line in lines)


def clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def headline(event: dict[str, Any]) -> str:
    kind, what = event.get("kind"), event.get("what")
    if kind == "command":
        return f"{event.get('command', '')}: {event.get('text', '')} (status {event.get('status', '')})"
    if kind == "end":
        return str(event.get("text", ""))
    if kind != "limit":
        return str(event.get("text", kind))
    count = int(event.get("count", 0))
    began = clock(event.get("since", 0))[11:] if event.get("since", 0) > event["time"] - 86400 else ""
    between = f" since {began}" if began and event["time"] - event["since"] > TOGETHER_S else ""
    if what == "cpulimit":
        words = f"slowed: its processes were kept from running for {event['seconds']:g} s{between}"
        return f"{words}; cpulimit is {event['limit']} %"
    if what == "vswap":
        return (
            f"slowed: it stood still for {event['seconds']:g} s, since it grew above its RAM of {size(event['limit'])} "
            f"into its virtual swap"
        )
    if what == "physpages":
        names = ", ".join(map(str, event.get("processes", []))) or f"{count} process{'es' if count > 1 else ''}"
        limit = size(event["limit"]) if event.get("limit") else "what the node has"
        if event.get("whose") == "node":
            return f"killed{between}: {names}; the node itself had no memory left"
        if event.get("whose") == "program":
            own = "what a group of the container's own allows (MemoryMax= of systemd, say)"
            return f"killed{between}: {names}; it had used up {own}"
        if "ram" in event:
            limit = f"{size(event['ram'])} of RAM and {size(event['swap'])} of swap"
        return f"killed{between}: {names}; the container had used up {limit}"
    words = WORDS.get(str(what), "{count} {times} refused").format(
        count=count,
        processes="process or thread was" if count == 1 else "processes or threads were",
        sockets="socket was" if count == 1 else "sockets were",
        times="time" if count == 1 else "times",
    )
    return f"{words}{between}: {HELD.get(str(what), 'the limit is {limit}').format(limit=event.get('limit'))}"


def proposal(ctid: int, event: dict[str, Any]) -> str:
    """Return the command that would have made room for what happened, "" where there is none."""
    if event.get("kind") != "limit":
        return ""
    what, limit = event.get("what"), int(event.get("limit", 0))
    if what == "physpages":
        if "ram" in event and event.get("whose", "container") == "container":
            return f"vzctl set {ctid} --ram {size(rounded(int(event['ram']) * 3 // 2))} --save"
        return ""
    if what == "vswap":
        return f"vzctl set {ctid} --ram {size(rounded(limit * 3 // 2))} --save"
    if what == "cpulimit":
        return f"vzctl set {ctid} --cpulimit {limit * 2} --save"
    if what == "tcpsndbuf":
        return f"vzctl set {ctid} --tcpsndbuf {limit * 2} --tcprcvbuf {limit * 2} --save" if limit else ""
    return f"vzctl set {ctid} --{what} {max(limit * 2, limit + int(event.get('count', 0)))} --save" if limit else ""


def rounded(pages: int) -> int:
    """Return *pages* up to a whole number of 16 MB."""
    step = (16 << 20) // PAGE
    return -(-pages // step) * step


def size(pages: int) -> str:
    kilobytes = pages * PAGE >> 10
    return f"{kilobytes >> 10}M" if kilobytes % 1024 == 0 else f"{kilobytes}K"
