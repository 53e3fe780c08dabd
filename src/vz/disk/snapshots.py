"""The tree of a CT's snapshots: ``PRIVATE/Snapshots.xml``, in the form that vzctl(8) has written it since 4.0.

Nested ``SavedStateItem`` elements, the child inside its parent; ``current`` marks the one that the CT's image goes on
from.  The file is the record: an image or dump of an id that is not in it is what a killed command left.
"""

from __future__ import annotations

import os

from vz.kernel.files import read_text, write_atomically

NONE = "{00000000-0000-0000-0000-000000000000}"
_HEX = frozenset("0123456789abcdef")
_GROUPS = [8, 4, 4, 4, 12]


class Snapshot:
    """One of them; *parent* is "" for the first."""

    __slots__ = ("current", "date", "description", "name", "parent", "uuid")

    def __init__(self, uuid: str, parent: str, *, date: str, name: str = "", description: str = "") -> None:
        self.uuid = uuid
        self.parent = parent
        self.date = date
        self.name = name
        self.description = description
        self.current = False


def parse_uuid(text: str) -> str:
    """Return *text* as ``{lower-case}``; ValueError when it is no UUID."""
    bare = text.lower().removeprefix("{").removesuffix("}")
    parts = bare.split("-")
    if [len(part) for part in parts] != _GROUPS or not _HEX.issuperset("".join(parts)):
        raise ValueError(text)
    return "{" + bare + "}"


def new_uuid() -> str:
    return "{" + read_text("/proc/sys/kernel/random/uuid").strip() + "}"


def path_of(private: str) -> str:
    return f"{private.rstrip('/')}/Snapshots.xml"


def read(private: str) -> list[Snapshot]:
    """Return the snapshots of the private area *private*, parents first; ValueError for a file that is none."""
    try:
        text = read_text(path_of(private))
    except FileNotFoundError:
        return []
    from xml.etree import ElementTree

    try:
        top = ElementTree.fromstring(text)
    except ElementTree.ParseError as exc:
        raise ValueError(f"{path_of(private)}: {exc}") from None
    found: list[Snapshot] = []

    def walk(node: ElementTree.Element, parent: str) -> None:
        for item in node.findall("SavedStateItem"):
            uuid = item.get("guid", "")
            below = parent
            if uuid:
                below = parse_uuid(uuid)
                found.append(
                    Snapshot(
                        below,
                        parent,
                        date=item.findtext("DateTime") or "",
                        name=item.findtext("Name") or "",
                        description=item.findtext("Description") or "",
                    )
                )
                found[-1].current = item.get("current") == "yes"
            walk(item, below)

    walk(top, "")
    return found


def write(private: str, items: list[Snapshot]) -> None:
    """Write the tree of *items*; durable."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<ParallelsSavedStates>"]
    _lines(items, "", 1, lines)
    lines.append("</ParallelsSavedStates>")
    text = "\n".join(lines) + "\n"
    write_atomically(path_of(private), text.encode("utf-8", "replace"), 0o600)


def _lines(items: list[Snapshot], parent: str, depth: int, lines: list[str]) -> None:
    pad = "  " * depth
    for item in items:
        if item.parent != parent:
            continue
        current = ' current="yes"' if item.current else ""
        lines.append(f'{pad}<SavedStateItem guid="{item.uuid}"{current}>')
        lines.append(f"{pad}  <Name>{_escaped(item.name)}</Name>")
        lines.append(f"{pad}  <DateTime>{_escaped(item.date)}</DateTime>")
        lines.append(f"{pad}  <Creator></Creator>")
        lines.append(f"{pad}  <ScreenShot></ScreenShot>")
        cdata = item.description.replace("]]>", "]]]]><![CDATA[>")
        lines.append(f"{pad}  <Description><![CDATA[{cdata}]]></Description>")
        _lines(items, item.uuid, depth + 1, lines)
        lines.append(f"{pad}</SavedStateItem>")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def find(items: list[Snapshot], uuid: str) -> Snapshot | None:
    return next((item for item in items if item.uuid == uuid), None)


def add(items: list[Snapshot], new: Snapshot) -> None:
    """Put *new* below the current one; it is the current one then."""
    above = next((item for item in items if item.current), None)
    new.parent = above.uuid if above else ""
    if above:
        above.current = False
    new.current = True
    items.append(new)


def take(items: list[Snapshot], uuid: str) -> None:
    """Take *uuid* away: its children become its parent's, and what went on from it goes on from there."""
    gone = next(item for item in items if item.uuid == uuid)
    items.remove(gone)
    for item in items:
        if item.parent == uuid:
            item.parent = gone.parent
        if gone.current and item.uuid == gone.parent:
            item.current = True


def chain(items: list[Snapshot], uuid: str) -> list[Snapshot]:
    """Return *uuid* and its ancestors, the oldest first."""
    found: list[Snapshot] = []
    item = find(items, uuid)
    while item is not None:
        found.insert(0, item)
        item = find(items, item.parent)
    return found


def image_path(private: str, uuid: str) -> str:
    return f"{private.rstrip('/')}/root.hdd/root.hdd.{uuid}"


def dump_path(private: str, uuid: str) -> str:
    return f"{private.rstrip('/')}/dump/{uuid}"


def conf_path(private: str, uuid: str) -> str:
    return f"{private.rstrip('/')}/dump/{uuid}.ve.conf"


def orphans(private: str, items: list[Snapshot]) -> list[str]:
    """Return the images, dumps and confs that belong to no snapshot of *items*."""
    known = {item.uuid for item in items}
    found = []
    for folder, prefix in ((f"{private}/root.hdd", "root.hdd."), (f"{private}/dump", "")):
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            continue
        for name in names:
            rest = name.removeprefix(prefix)
            if name.startswith(prefix) and rest.startswith("{") and rest[:38] not in known:
                found.append(f"{folder}/{name}")
    return found
