"""What ``set`` makes of a conf's lists and the command line's."""

from __future__ import annotations

from vz.config.merge import merge, merge_addresses


def test_switches_change_by_name() -> None:
    assert merge("capability", {"chown": True, "kill": False}, {"kill": True}) == {"chown": True, "kill": True}
    assert merge("features", None, {"ppp": True}) == {"ppp": True}


def test_devices_change_by_number() -> None:
    assert merge("devices", ["c:1:3:rw", "c:1:5:r"], ["c:1:3:none", "b:8:0:r"]) == ["c:1:3:none", "c:1:5:r", "b:8:0:r"]
    assert merge("devnodes", [("net/tun", "rw")], [("net/tun", ""), ("sda", "r")]) == [("net/tun", ""), ("sda", "r")]


def test_the_rest_is_replaced() -> None:
    assert merge("nameserver", ["192.0.2.1"], ["192.0.2.2"]) == ["192.0.2.2"]


def test_addresses_go_before_they_come() -> None:
    old = ["192.0.2.1/24", "192.0.2.2", "2001:db8::1/64"]
    assert merge_addresses(old, ["192.0.2.1"], ["192.0.2.3"]) == ["192.0.2.2", "2001:db8::1/64", "192.0.2.3"]
    assert merge_addresses(old, ["all"], ["192.0.2.9"]) == ["192.0.2.9"]
    assert merge_addresses(old, [], ["192.0.2.1/32", "192.0.2.2"]) == ["192.0.2.1/32", "192.0.2.2", "2001:db8::1/64"]
    assert merge_addresses(old, ["198.51.100.1"], []) == old
