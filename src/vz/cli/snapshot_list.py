"""vzctl snapshot-list: the snapshots of a CT, for people and for scripts."""

from __future__ import annotations

from vz.cli.context import prepare
from vz.cli.main import Globals
from vz.cli.snapshot import ID, words
from vz.container.ct import Container, load, printable
from vz.disk import snapshots
from vz.disk.snapshots import Snapshot
from vz.errors import BadValue, ExitCode, VzError

# field: (header, width)
FIELDS = {
    "uuid": ("UUID", 38),
    "parent_uuid": ("PARENT_UUID", 38),
    "current": ("C", 1),
    "date": ("DATE", 19),
    "name": ("NAME", 32),
    "desc": ("DESC", 32),
    "device": ("DEVICE", 16),
    "target": ("TARGET", 32),
}
ALIASES = {"id": "uuid", "parent_id": "parent_uuid"}
DEFAULT = ["parent_uuid", "current", "uuid", "date", "name"]


def run(argv: list[str], options: Globals) -> int:
    """vzctl snapshot-list CTID [-H] [-o FIELD[,FIELD…]] [--id U] | -L"""
    node, ctid = prepare(options, argv[0])
    valued = {**ID, "-o": "output", "--output": "output"}
    given, flags = words(argv[1:], valued, ("-H", "--no-header", "-L", "--list"))
    if flags & {"-L", "--list"}:
        print("\n".join(f"{name:<15} {header}" for name, (header, _) in FIELDS.items()))
        return ExitCode.OK
    fields = [ALIASES.get(word, word) for word in given["output"].split(",")] if "output" in given else DEFAULT
    for field in fields:
        if field not in FIELDS:
            raise BadValue(f"Unknown field: {printable(field)}")
    ct = load(ctid, node)
    from vz.ops.snapshot import tree

    items = tree(ct, ExitCode.LIST_SNAPSHOT_ERROR)
    if "id" in given:
        if snapshots.find(items, given["id"]) is None:
            raise VzError(f"There is no snapshot {given['id']}", ExitCode.LIST_SNAPSHOT_ERROR)
        items = snapshots.chain(items, given["id"])
    rows = [] if flags & {"-H", "--no-header"} else [[FIELDS[field][0] for field in fields]]
    rows += [[value(ct, item, field) for field in fields] for item in items]
    for row in rows:
        print(line(fields, row))
    return ExitCode.OK


def line(fields: list[str], row: list[str]) -> str:
    """Return *row* in its columns, the last one as long as it is."""
    padded = [text.ljust(FIELDS[field][1]) for field, text in zip(fields, row)]
    return " ".join([*padded[:-1], row[-1]])


def value(ct: Container, item: Snapshot, field: str) -> str:
    if field == "uuid":
        return item.uuid
    if field == "parent_uuid":
        return item.parent
    if field == "current":
        return "*" if item.current else ""
    if field in ("device", "target"):
        from vz.kernel import loop
        from vz.ops.snapshot import mounted_at

        image = snapshots.image_path(ct.private, item.uuid)
        try:
            return next(iter(loop.find(image) if field == "device" else mounted_at(image)), "")
        except OSError:
            return ""
    return printable({"date": item.date, "name": item.name, "desc": item.description}[field])
