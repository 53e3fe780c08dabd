"""What a node finds of a CT's needs in itself, with the node's facts made up; and the measuring of its clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vz.ops import dumped
from vz.ops.migrate import conditions
from vz.ops.migrate.errors import IP_IN_USE, NOT_RUNNING, START_FAILED

MB = 1 << 20
Found = list[tuple[int, str, str]]


@pytest.fixture
def found() -> tuple[Found, Callable[..., None]]:
    lines: Found = []
    return lines, lambda code, text, about="": lines.append((code, text, about))


def meminfo(monkeypatch: pytest.MonkeyPatch, total: int, available: int, swap: int) -> None:
    fields = {"MemTotal": total * MB, "MemAvailable": available * MB, "SwapFree": swap * MB}
    monkeypatch.setattr(conditions, "meminfo", lambda: fields)


@pytest.mark.parametrize(
    ("ram", "limit", "words"),
    [
        (100, 0, []),
        (371, 0, []),  # 400 + 100 less the reserve, 128, to the last
        (373, 0, ["500 MB of memory and swap free, the container needs 501 MB"]),
        (100, 1000, []),
        (100, 1001, ["may use 1001 MB of memory, the destination node has 1000 MB"]),
        (9999, 9999, ["of memory and swap free", "may use 9999 MB"]),
    ],
)
def test_memory(monkeypatch: pytest.MonkeyPatch, found: Any, ram: int, limit: int, words: list[str]) -> None:
    meminfo(monkeypatch, 1000, 400, 100)
    lines, problem = found
    conditions.check_memory({"ram": ram * MB, "ram_limit": limit * MB}, problem)
    assert len(lines) == len(words)
    for (code, text, about), word in zip(lines, words, strict=True):
        assert (code, about) == (START_FAILED, "memory") and word in text


def test_meminfo_is_in_bytes() -> None:
    fields = conditions.meminfo()
    assert 0 < fields["MemAvailable"] < fields["MemTotal"] and fields["MemTotal"] % 1024 == 0
    assert "SwapFree" in fields


def test_programs_that_are_missing(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    def which(name: str) -> str:
        if name in ("gzip", "ip6tables-legacy-restore"):
            raise FileNotFoundError(name)
        return f"/bin/{name}"

    monkeypatch.setattr(dumped, "which", which)
    monkeypatch.setattr(dumped.os.path, "realpath", lambda path: path.replace("/bin/ip6", "/bin/xtables-nft-multi"))
    monkeypatch.setattr(conditions.firewall, "is_there", lambda: False)
    lines, problem = found
    tools = ["tar", "gzip", "iptables-legacy", "ip6tables-legacy"]
    conditions.check_tools({"tools": tools, "rules": False}, problem)
    assert [(code, text.split()[0]) for code, text, _ in lines] == [
        (NOT_RUNNING, "gzip"),
        (NOT_RUNNING, "ip6tables-legacy"),  # what is there by the short name speaks nftables
    ]
    lines.clear()
    conditions.check_tools({"tools": ["tar"], "rules": True}, problem)
    assert len(lines) == 1 and "no nftables" in lines[0][1]


def test_addresses_that_somebody_has(found: Any) -> None:
    class Probe:
        closed = False

        def answers(self) -> dict[str, str]:
            return {"192.0.2.7": "02:00:00:00:00:07"}

        def close(self) -> None:
            self.closed = True

    lines, problem = found
    probe: Any = Probe()
    conditions.check_neighbours(probe, problem)
    assert probe.closed
    assert [(code, about) for code, _, about in lines] == [(IP_IN_USE, "address")]
    assert "192.0.2.7 is in use" in lines[0][1] and "02:00:00:00:00:07 answered" in lines[0][1]
    conditions.check_neighbours(None, problem)
    assert len(lines) == 1


class Clocks:
    """Two clocks, the other one *ahead*; each question takes the next of *ways* (seconds there, seconds back)."""

    def __init__(self, ahead: float, ways: list[tuple[float, float]]) -> None:
        self.time = 1000.0
        self.ahead = ahead
        self.ways = list(ways)

    def now(self) -> float:
        return self.time

    def ask(self) -> float:
        there, back = self.ways.pop(0)
        self.time += there
        answer = self.time + self.ahead
        self.time += back
        return answer


@pytest.mark.parametrize("ahead", [0.0, 100.0, -100.0])
def test_the_shortest_way_tells_most_of_the_clock(ahead: float) -> None:
    clocks = Clocks(ahead, [(9.0, 0.5), (0.1, 0.1), (0.1, 7.0)])
    offset, unsure = conditions.clock_offset(clocks.ask, clocks.now) or (0, 0)
    assert offset == pytest.approx(ahead) and unsure == pytest.approx(0.1)


def test_what_a_slow_line_explains_is_no_skew() -> None:
    measured = conditions.clock_offset((clocks := Clocks(0.0, [(8.0, 0.0)] * 3)).ask, clocks.now)
    assert measured is not None and measured[0] == pytest.approx(4.0) and measured[1] == pytest.approx(4.0)
    assert conditions.clock_warning(measured) == ""
    measured = conditions.clock_offset((clocks := Clocks(9.0, [(8.0, 0.0)] * 3)).ask, clocks.now)
    assert "13 s ahead of" in conditions.clock_warning(measured)


@pytest.mark.parametrize(("offset", "words"), [(1.9, ""), (-1.9, ""), (2.5, "2 s ahead of"), (-60.0, "60 s behind")])
def test_the_line_about_clocks(offset: float, words: str) -> None:
    line = conditions.clock_warning((offset, 0.001))
    assert words in line and bool(line) == bool(words)


def test_a_node_that_tells_no_time() -> None:
    assert conditions.clock_offset(lambda: None) is None
    assert conditions.clock_warning(None) == ""
