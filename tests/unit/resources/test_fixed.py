"""What of a CT's memory no reclaim can free: the number that VSwap, swappages and /proc/meminfo are made from."""

from __future__ import annotations

import pytest

from vz.resources.vswap import fixed_bytes

V2 = {"anon": 100, "shmem": 20, "file": 70, "active_file": 30, "inactive_file": 20, "sock": 5}
V1 = {"total_rss": 100, "total_shmem": 20, "total_cache": 70, "total_active_file": 30, "total_inactive_file": 20}


@pytest.mark.parametrize(
    ("version", "table", "wanted"),
    [
        (2, V2, 125),
        (2, {**V2, "kernel": 50, "slab_reclaimable": 40}, 135),
        (2, {**V2, "kernel_stack": 1, "pagetables": 2, "slab_unreclaimable": 3}, 131),
        (2, {**V2, "file": 170}, 225),  # ramfs: on no list that is reclaimed from
        (1, V1, 120),
        (1, {**V1, "total_cache": 170}, 220),
        (2, {}, 0),
        (1, {}, 0),
    ],
)
def test_fixed(version: int, table: dict[str, int], wanted: int) -> None:
    assert fixed_bytes(version, table) == wanted
