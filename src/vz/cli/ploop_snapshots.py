"""ploop snapshot, snapshot-delete, -switch, -merge, -list, and merge: of disks that are not in use."""

from __future__ import annotations

from vz.cli.ploop import Given, image_format, one, wrong
from vz.disk import diskdescriptor, ploopstack
from vz.disk.diskdescriptor import NONE
from vz.disk.ploopstack import Disk

FIELDS = {
    "uuid": ("UUID", "%-38s"),
    "parent_uuid": ("PARENT_UUID", "%-38s"),
    "current": ("C", "%1s"),
    "fname": ("FNAME", "%-32s"),
}


def snapshot(given: Given, rest: list[str]) -> int:
    path = one(rest, "snapshot")
    guid = diskdescriptor.new_guid()
    if "u" in given.values:
        try:
            guid = diskdescriptor.parse_guid(given.values["u"])
        except ValueError:
            raise wrong(f"Incorrect UUID {given.values['u'][:60]!r}") from None
    with Disk(path, write=True) as disk:
        name = ploopstack.snapshot(disk, guid)
        print(f"Creating snapshot dev=none img={disk.folder.full(name)}")
    print(f"ploop snapshot {guid} has been successfully created")
    return 0


def delete(given: Given, rest: list[str]) -> int:
    word = given.need("u")
    with Disk(one(rest, "snapshot-delete"), write=True) as disk:
        guid = disk.guid(word)
        ploopstack.delete(disk, guid)
    print(f"ploop snapshot {guid} has been successfully deleted")
    return 0


def switch(given: Given, rest: list[str]) -> int:
    word = given.need("u")
    with Disk(one(rest, "snapshot-switch"), write=True) as disk:
        guid = disk.guid(word)
        ploopstack.switch(disk, guid)
    print(f"ploop snapshot has been successfully switched to {guid}")
    return 0


def merge(given: Given, rest: list[str]) -> int:
    path = one(rest, "snapshot-merge")
    if "A" in given.flags and given.values:
        raise wrong("ploop snapshot-merge: -A stands alone")
    with Disk(path, write=True) as disk:
        if "A" in given.flags:
            for image in disk.descriptor.chain(disk.descriptor.top):
                if len(disk.descriptor.children(image.guid)) > 1:
                    raise wrong(f"The snapshot {image.guid} has more than one child")
            while disk.descriptor.parents[disk.descriptor.top] != NONE:
                ploopstack.merge(disk, disk.descriptor.top)
        else:
            guid = disk.guid(given.values["u"]) if "u" in given.values else disk.descriptor.top
            ploopstack.merge(disk, guid, given.values.get("n"))
    return 0


def do_list(given: Given, rest: list[str]) -> int:
    fields = given.values.get("o", "parent_uuid,current,uuid,fname").split(",")
    for field in fields:
        if field not in FIELDS:
            raise wrong(f"ploop snapshot-list: unknown field {field[:60]}")
    with Disk(one(rest, "snapshot-list")) as disk:
        descriptor = disk.descriptor
        images = list(descriptor.images.values())
        if "u" in given.values:  # it and its ancestors
            images = descriptor.chain(disk.guid(given.values["u"]))[::-1]
    snapshots = "s" in given.flags
    current = descriptor.parents[descriptor.top] if snapshots else descriptor.top
    if "H" not in given.flags:
        print("".join(FIELDS[field][1] % FIELDS[field][0] + " " for field in fields))
    for image in images:
        guid = image.guid
        if snapshots and guid == descriptor.top:
            continue
        parent = descriptor.parents[guid]
        values = {
            "uuid": guid,
            "parent_uuid": parent,
            "current": "*" if guid == current else "",
            "fname": disk.folder.full(image.file),
        }
        words = [FIELDS[field][1] % values[field] for field in fields[:-1]]
        print(" ".join([*words, values[fields[-1]]]))
    return 0


def merge_files(given: Given, rest: list[str]) -> int:
    if len(rest) < 2:
        raise wrong("ploop merge: deltas and their base, the base last, are expected")
    raw = image_format(given.values.get("f", "expanded")) == "raw"
    ploopstack.merge_files(rest, raw_base=raw, new_name=given.values.get("n"))
    return 0


VERBS = {
    "snapshot": snapshot,
    "snapshot-delete": delete,
    "snapshot-switch": switch,
    "snapshot-merge": merge,
    "snapshot-list": do_list,
    "merge": merge_files,
}
