"""The pacer's reckoning: what is paid for, for how long a CT stands still, and when it is looked at again."""

from __future__ import annotations

from pathlib import Path

import pytest

from vz.node import pacing
from vz.node.pacing import LONGEST_PAUSE_S, MB, SELDOM_S, SOON_S, Paced, Pacer
from vz.resources import vswap

RATE = 100 * MB


class Fake:
    """A CT with 64 MB of RAM and 64 MB of swap on version 2, in files."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = top
        (top / "ct").mkdir()
        (top / "ct/cgroup.freeze").write_text("0")
        self.limits: tuple[int, int] | None = (64 * MB, 64 * MB)
        monkeypatch.setattr(vswap, "marked", lambda own: self.limits)
        self.paced = Paced(str(top), 2, f"{top}/ct")
        self.holds(0)

    def holds(self, fixed_mb: float, cache_mb: float = 0) -> None:
        (self.top / "ct/memory.current").write_text(str(int((fixed_mb + cache_mb) * MB)))  # the same inode stays open
        (self.top / "ct/memory.stat").write_text(f"anon {int(fixed_mb * MB)}\nfile {int(cache_mb * MB)}\n")

    @property
    def frozen(self) -> bool:
        return (self.top / "ct/cgroup.freeze").read_text()[0] == "1"

    def look(self) -> float:
        return self.paced.look(RATE)


@pytest.fixture
def ct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path, monkeypatch)


def test_growth_above_ram_is_paid_once(ct: Fake) -> None:
    ct.holds(10)
    ct.look()
    ct.holds(74)
    assert ct.look() == pytest.approx(0.1) and ct.frozen
    ct.look()
    assert not ct.frozen
    ct.look()
    assert not ct.frozen


def test_a_debt_is_paid_in_parts(ct: Fake) -> None:
    ct.holds(10)
    ct.look()
    ct.holds(114)  # half a second
    pauses = []
    for _ in range(20):
        pause_s = ct.look()
        if ct.frozen:
            pauses.append(pause_s)
    assert sum(pauses) == pytest.approx(0.5, abs=0.001) and max(pauses) <= LONGEST_PAUSE_S


def test_what_it_had_when_it_was_first_seen_is_free(ct: Fake) -> None:
    ct.holds(100)
    ct.look()
    assert not ct.frozen
    ct.holds(101)
    assert ct.look() == pytest.approx(0.01) and ct.frozen


def test_what_is_given_back_is_paid_for_anew(ct: Fake) -> None:
    ct.holds(100)
    ct.look()
    ct.holds(70)
    ct.look()
    ct.holds(80)
    assert ct.look() == pytest.approx(0.1) and ct.frozen


def test_page_cache_is_free(ct: Fake) -> None:
    ct.holds(20, cache_mb=100)
    for _ in range(5):
        ct.look()
        assert not ct.frozen


def test_without_virtual_swap_nothing_is_slowed(ct: Fake) -> None:
    ct.limits = None
    ct.holds(100)
    assert ct.look() == SELDOM_S and not ct.frozen


def test_a_ct_at_rest_is_looked_at_seldom(ct: Fake) -> None:
    ct.limits = (8192 * MB, 64 * MB)
    ct.holds(10)
    assert ct.look() == SELDOM_S
    ct.limits = (64 * MB, 64 * MB)
    ct.holds(63)
    assert ct.look() < SOON_S
    assert [ct.look() for _ in range(8)][-1] == SOON_S
    ct.holds(10)
    assert SOON_S < [ct.look() for _ in range(8)][-1] < 0.25
    ct.holds(100)
    ct.paced.paid = -1
    assert [ct.look() for _ in range(6)][-1] == SOON_S


def test_an_ended_ct_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Places:
        unified = str(tmp_path)
        v1: dict[str, str] = {}

        def version(self, controller: str) -> int:
            return 2

    monkeypatch.setattr(pacing.cgroup, "hierarchies", Places)
    monkeypatch.setattr(vswap, "marked", lambda own: None)
    pacer = Pacer("vz", RATE)
    assert pacer.act() is None
    pacer.changed(101, 7)
    assert pacer.act() == pytest.approx(SELDOM_S, abs=0.1)
    pacer.changed(101, 8)
    assert len(pacer.paced) == 1
    pacer.changed(101, 0)
    assert pacer.act() is None and not pacer.times
