"""How configured values become limits: no cgroup is touched."""

from __future__ import annotations

import os

import pytest

from vz.config.conffile import ConfFile
from vz.config.ctconfig import CTConfig
from vz.config.nodeconfig import NodeConfig
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import cgroup
from vz.resources import limits

PAGE = 4096


def container(**values: str) -> Container:
    return Container(101, NodeConfig(ConfFile("vz.conf")), CTConfig(values, None))


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", [0]), ("0-3,7", [0, 1, 2, 3, 7]), ("2,4-5", [2, 4, 5]), ("", []), ("1,,2", [1, 2])]
)
def test_lists(text: str, numbers: list[int]) -> None:
    assert limits.expand_list(text) == numbers


@pytest.mark.parametrize("seed", [1, 2, 3, 100, 101, 2147483644])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_picked_cpus_are_distinct_and_there(count: int, seed: int) -> None:
    available = [0, 2, 3, 9]
    picked = limits.pick_cpus(available, count, seed)
    assert len(picked) == len(set(picked)) == min(count, 4)
    assert set(picked) <= set(available)


def test_picked_cpus_spread_over_containers() -> None:
    assert {limits.pick_cpus([0, 1, 2, 3], 1, ctid)[0] for ctid in range(101, 105)} == {0, 1, 2, 3}


def test_memory_is_bounded_where_nothing_is_said() -> None:
    ceiling = limits.memory_ceiling_bytes(container())
    assert ceiling is not None
    assert ceiling < os.sysconf("SC_PHYS_PAGES") * PAGE


def test_memory_is_ram_and_swap_in_one() -> None:
    assert limits.memory_ceiling_bytes(container(PHYSPAGES="0:65536", SWAPPAGES="0:131072")) == 196608 * PAGE
    assert limits.memory_ceiling_bytes(container(PHYSPAGES="0:65536")) == 65536 * PAGE
    assert limits.memory_ceiling_bytes(container(PHYSPAGES="0:65536", SWAPPAGES="0:unlimited")) == 65536 * PAGE


def test_memory_without_a_limit_has_to_be_asked_for() -> None:
    assert limits.memory_ceiling_bytes(container(PHYSPAGES="0:unlimited")) is None


def test_terminals() -> None:
    assert limits.pty_limit(container()) == 1024
    assert limits.pty_limit(container(NUMPTY="16:16")) == 16
    assert limits.pty_limit(container(NUMPTY="0:0")) == 1
    assert limits.pty_limit(container(NUMPTY="9223372036854775807:9223372036854775807")) == 1 << 20


def test_a_limit_without_its_controller_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_found", cgroup.Hierarchies("/nowhere", {"memory": "/m"}, ["/m"], frozenset({"cpu"})))
    assert limits.warnings(container(PHYSPAGES="0:65536", CPUUNITS="1000")) == []
    assert limits.warnings(container(NUMPROC="10:10", CPUMASK="0")) == [
        "WARNING: this kernel has no pids controller: NUMPROC cannot be kept",
        "WARNING: this kernel has no cpuset controller: CPUMASK cannot be kept",
    ]


def test_a_mask_without_the_controller_is_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "limit_dir", lambda ct, controller: (0, ""))
    writer = limits._cpuset
    for fresh in (True, False):
        with pytest.raises(VzError, match="no cpuset controller") as caught:
            writer(container(CPUMASK="0"), fresh)
        assert caught.value.code == ExitCode.SETFSHD_ERROR
        writer(container(CPUMASK="all"), fresh)
        writer(container(), fresh)
