"""Ranges of host ids: never two CTs on one id, whatever the confs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from vz.config.conffile import ConfFile
from vz.config.nodeconfig import NodeConfig
from vz.container import ids
from vz.errors import VzError

RANGE = ids.RANGE


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeConfig:
    monkeypatch.setattr(ids, "IDS_DIR", str(tmp_path / "ids"))
    return NodeConfig(ConfFile("vz.conf", b"LOCAL_UID=100000\nLOCAL_UID_POOL=655360\n"))


def test_ranges_follow_each_other_and_come_back(node: NodeConfig) -> None:
    assert [ids.allocate(node, ctid) for ctid in (101, 102)] == [100000, 165536]
    assert ids.allocate(node, 103, 2 * RANGE) == 231072
    ids.release(100000, 101)
    assert [ids.allocate(node, ctid) for ctid in range(110, 117)] == [100000 + RANGE * n for n in (4, 5, 6, 7, 8, 9, 0)]
    with pytest.raises(VzError, match="LOCAL_UID_POOL"):
        ids.allocate(node, 120)


@pytest.mark.parametrize("first", [165536 - 1, 165536 + 100, 165536 - RANGE + 1])
def test_a_range_across_two_of_the_pools_takes_both(node: NodeConfig, first: int) -> None:
    ids.register(104, first, RANGE)
    given = [ids.allocate(node, ctid) for ctid in range(110, 118)]
    assert all(base + RANGE <= first or base >= first + RANGE for base in given)
    assert len(set(given)) == 8


def test_a_pool_that_was_moved_does_not_meet_old_ranges(node: NodeConfig) -> None:
    old = [ids.allocate(node, ctid) for ctid in (101, 102)]
    moved = NodeConfig(ConfFile("vz.conf", b"LOCAL_UID=131072\nLOCAL_UID_POOL=655360\n"))
    new = [ids.allocate(moved, ctid) for ctid in (103, 104)]
    assert all(abs(one - two) >= RANGE for one in old for two in new)


@pytest.mark.parametrize("first, count", [(100100, RANGE), (165535, RANGE), (65536, RANGE), (65600, 2 * RANGE)])
def test_a_range_of_another_ct_is_refused_in_part_too(node: NodeConfig, first: int, count: int) -> None:
    assert ids.allocate(node, 101) == 100000
    with pytest.raises(VzError, match="belong to container 101") as caught:
        ids.register(102, first, count)
    assert caught.value.code == 6
    ids.register(101, 100000, RANGE)  # its own, again


def test_a_range_that_grows_is_looked_at_again(node: NodeConfig) -> None:
    assert [ids.allocate(node, ctid) for ctid in (101, 102)] == [100000, 165536]
    with pytest.raises(VzError, match="belong to container 102"):
        ids.register(101, 100000, 2 * RANGE)
    ids.register(102, 165536, 2 * RANGE)
    assert ids.allocate(node, 103) == 100000 + 3 * RANGE


@pytest.mark.parametrize("first, count", [(1, RANGE), (65535, RANGE), (4294967294, RANGE), (4294836224, 2 * RANGE)])
def test_ids_of_the_nodes_users_and_ids_that_are_none_are_refused(node: NodeConfig, first: int, count: int) -> None:
    with pytest.raises(VzError, match="cannot be a container's"):
        ids.register(101, first, count)


def test_release_leaves_what_another_life_of_the_ct_has(node: NodeConfig) -> None:
    """The range of a destroyed CT lies, still being deleted, right after that of a new CT with its id."""
    ids.register(101, 100000 + RANGE, RANGE)
    ids.register(101, 100000, RANGE)
    ids.release(100000, 101)
    assert ids.owner_of(100000 + RANGE) == 101 and ids.owner_of(100000) is None


def test_a_table_of_before_is_read(node: NodeConfig) -> None:
    """One file per 65,536 ids, named by the first: nobody else gets them, and their CT may destroy or keep them."""
    folder = Path(ids.IDS_DIR)
    folder.mkdir(parents=True)
    for first, ctid in ((100000, 101), (165536, 102), (231072, 102)):
        (folder / str(first)).write_text(f"{ctid}\n")
    (folder / ".lock").write_text(f"{0:<31}\n")
    assert ids.allocate(node, 103) == 296608
    assert [ids.owner_of(first) for first in (100000, 165536, 231072)] == [101, 102, None]
    with pytest.raises(VzError, match="belong to container 102"):
        ids.register(104, 231072, RANGE)
    ids.register(102, 165536, 2 * RANGE)
    ids.release(165536, 102)
    assert ids.allocate(node, 105, 2 * RANGE) != 100000
    assert sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())[-1] < RANGE


def test_a_destroy_that_failed_has_its_range_back(node: NodeConfig) -> None:
    first = ids.allocate(node, 101)
    ids.retire(first, 101)
    assert ids.owner_of(first) is None
    ids.retire(first, 101, back=True)
    assert ids.owner_of(first) == 101
