"""Node settings that are too low are named, once per boot, and the shipped file raises each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vz.ops import hostcheck

SHIPPED = Path(__file__).parents[3] / "etc/sysctl.d/vz.conf"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    values = {name: str(least) for name, least in hostcheck.NEEDED}
    values["net/ipv4/ip_forward"] = "1"
    monkeypatch.setattr(hostcheck, "RUN", str(tmp_path / "run"))
    monkeypatch.setattr(hostcheck, "read_sysctl", lambda name: values.get(name, ""))
    return values


def test_a_node_with_enough_is_not_warned_of(node: dict[str, str]) -> None:
    assert hostcheck.warnings() == []


@pytest.mark.parametrize("name", [name for name, _ in hostcheck.NEEDED])
def test_what_is_too_low_is_named_once(node: dict[str, str], name: str) -> None:
    node[name] = "12"
    (line,) = hostcheck.warnings()
    assert f"{name.replace('/', '.')}=12 (at least " in line and "sysctl.d/vz.conf" in line and "\n" not in line
    assert hostcheck.warnings() == []


def test_a_node_that_does_not_route(node: dict[str, str]) -> None:
    node["net/ipv4/ip_forward"] = "0"
    assert "ip_forward" in hostcheck.warnings()[0]


def test_a_setting_that_the_kernel_has_not_is_no_fault(node: dict[str, str]) -> None:
    node.clear()
    assert hostcheck.warnings() == []


def test_the_shipped_file_raises_them_all() -> None:
    lines = [line.split("=") for line in SHIPPED.read_text().splitlines() if "=" in line and not line.startswith("#")]
    values = {key.strip(): value.strip() for key, value in lines}
    for name, least in hostcheck.NEEDED:
        assert int(values[name.replace("/", ".")]) >= least
