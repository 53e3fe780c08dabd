"""The tree of snapshots and its file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vz.disk import snapshots
from vz.disk.snapshots import Snapshot

A, B, C = ("{" + f"0000000{n}-0000-4000-8000-00000000000{n}" + "}" for n in (1, 2, 3))
GOLDEN = f"""\
<?xml version="1.0" encoding="UTF-8"?>
<ParallelsSavedStates>
  <SavedStateItem guid="{A}">
    <Name>before &lt;the&gt; upgrade &amp; after</Name>
    <DateTime>2026-01-02 03:04:05</DateTime>
    <Creator></Creator>
    <ScreenShot></ScreenShot>
    <Description><![CDATA[a ]]]]><![CDATA[> b]]></Description>
    <SavedStateItem guid="{B}" current="yes">
      <Name></Name>
      <DateTime>2026-01-02 03:04:06</DateTime>
      <Creator></Creator>
      <ScreenShot></ScreenShot>
      <Description><![CDATA[]]></Description>
    </SavedStateItem>
  </SavedStateItem>
</ParallelsSavedStates>
"""


def tree() -> list[Snapshot]:
    items: list[Snapshot] = []
    words = {"name": "before <the> upgrade & after", "description": "a ]]> b"}
    snapshots.add(items, Snapshot(A, "", date="2026-01-02 03:04:05", **words))
    snapshots.add(items, Snapshot(B, "", date="2026-01-02 03:04:06"))
    return items


def facts(items: list[Snapshot]) -> list[tuple[object, ...]]:
    return [(item.uuid, item.parent, item.current, item.date, item.name, item.description) for item in items]


def test_the_file_is_vzctls_and_read_back(tmp_path: Path) -> None:
    snapshots.write(str(tmp_path), tree())
    assert (tmp_path / "Snapshots.xml").read_text() == GOLDEN
    assert facts(snapshots.read(str(tmp_path))) == facts(tree())
    assert snapshots.read(str(tmp_path / "none")) == []
    (tmp_path / "Snapshots.xml").write_text("<ParallelsSavedStates>")
    with pytest.raises(ValueError, match=r"Snapshots\.xml"):
        snapshots.read(str(tmp_path))


def test_children_of_one_taken_away_become_its_parents() -> None:
    items = tree()
    snapshots.add(items, Snapshot(C, "", date=""))
    assert [item.uuid for item in snapshots.chain(items, C)] == [A, B, C]
    snapshots.take(items, B)
    assert [(item.uuid, item.parent, item.current) for item in items] == [(A, "", False), (C, A, True)]
    snapshots.take(items, C)
    assert [(item.uuid, item.parent, item.current) for item in items] == [(A, "", True)]
    snapshots.take(items, A)
    assert items == []


def test_a_uuid_has_one_form() -> None:
    bare = "6E1B4D9E-0F7D-4B4F-9A5E-6A0F1D2C3B4A"
    assert snapshots.parse_uuid(bare) == snapshots.parse_uuid("{" + bare + "}") == "{" + bare.lower() + "}"
    for word in ("", "x", bare[:-1], bare + "0", "../../etc/passwd", bare.replace("-", "/")):
        with pytest.raises(ValueError, match=f"^{re.escape(word)}$"):
            snapshots.parse_uuid(word)
    assert snapshots.parse_uuid(snapshots.new_uuid())


def test_files_of_no_snapshot_are_found(tmp_path: Path) -> None:
    for name in ("root.hdd/root.hdd", f"root.hdd/root.hdd.{A}", f"root.hdd/root.hdd.{C}.tmp", f"dump/{C}.ve.conf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = snapshots.orphans(str(tmp_path), tree())
    assert found == [f"{tmp_path}/root.hdd/root.hdd.{C}.tmp", f"{tmp_path}/dump/{C}.ve.conf"]
