"""The distribution's own network services in whole systems: they find the addresses there, and can be restarted."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from conftest import Vz, template

ADDRESSES = ("--ipadd", "192.0.2.81", "--ipadd", "198.51.100.81", "--ipadd", "2001:db8::81")


def state(vz: Vz, ctid: int) -> str:
    return vz.sh(ctid, "systemctl is-system-running --wait; systemctl --failed --no-legend --plain").strip()


def addresses(vz: Vz, ctid: int) -> list[str]:
    words = vz.sh(ctid, "ip -o addr show dev venet0 scope global; ip route; ip -6 route show default").split()
    return [word for word in words if "/32" in word or "/128" in word] + [word for word in words if word == "default"]


@pytest.mark.parametrize("name", ["debian-12", "debian-13"])
def test_ifupdown(vz: Vz, new_ct: Callable[..., int], name: str) -> None:
    ct = new_ct(*ADDRESSES, "--hostname", "ct.example.com", template=template(name), start=False)
    vz.ok("start", ct, "--wait")
    assert state(vz, ct) == "running"
    expected = ["192.0.2.81/32", "198.51.100.81/32", "2001:db8::81/128", "default", "default"]
    assert addresses(vz, ct) == expected
    for command in ("systemctl restart networking", "ifdown venet0 && ifup venet0", "ifup --force venet0"):
        assert vz("exec", ct, command).returncode == 0, command
        assert addresses(vz, ct) == expected, command
        assert vz.run("ping", "-c1", "-W1", "198.51.100.81").returncode == 0, command
        assert vz.run("ping", "-c1", "-W1", "2001:db8::81").returncode == 0, command
    assert state(vz, ct) == "running"
    assert vz.sh(ct, "hostname -f").strip() == "ct.example.com"
    # an address that is gone leaves no stanza behind that would fail at the next boot
    vz.ok("set", ct, "--ipdel", "all", "--save")
    vz.ok("restart", ct, "--wait")
    assert state(vz, ct) == "running"
    assert "venet0" not in vz.sh(ct, "cat /etc/network/interfaces; ls /etc/systemd/network")


@pytest.mark.parametrize("name", ["debian-12", "debian-13"])
def test_networkd(vz: Vz, new_ct: Callable[..., int], name: str) -> None:
    ct = new_ct(*ADDRESSES, template=template(name), start=False)
    vz.ok("start", ct, "--wait")
    vz.sh(ct, "systemctl disable --now networking; systemctl enable --now systemd-networkd")
    vz.ok("restart", ct, "--wait")
    deadline = time.monotonic() + 20
    while "configured" not in (shown := vz.sh(ct, "networkctl --no-legend list venet0")):
        assert time.monotonic() < deadline, shown + vz.sh(ct, "journalctl -u systemd-networkd")
        time.sleep(0.2)
    expected = ["192.0.2.81/32", "198.51.100.81/32", "2001:db8::81/128"]
    restart, stop = (f"systemctl {verb} systemd-networkd" for verb in ("restart", "stop"))
    for command in ("true", restart, "networkctl reconfigure venet0", stop):
        assert vz("exec", ct, command).returncode == 0, command
        time.sleep(0.5)
        assert addresses(vz, ct)[:3] == expected, command
        assert vz.run("ping", "-c1", "-W1", "198.51.100.81").returncode == 0, command
        assert vz.run("ping", "-c1", "-W1", "2001:db8::81").returncode == 0, command
    assert state(vz, ct).startswith("running")


def test_sysvinit(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct(*ADDRESSES, template=template("debian-12-sysvinit"), start=False)
    vz.ok("start", ct, "--wait")
    assert addresses(vz, ct)[:3] == ["192.0.2.81/32", "198.51.100.81/32", "2001:db8::81/128"]
    assert vz("exec", ct, "/etc/init.d/networking restart").returncode == 0
    assert addresses(vz, ct)[:3] == ["192.0.2.81/32", "198.51.100.81/32", "2001:db8::81/128"]
    assert "getty" not in vz.sh(ct, "grep -v '^#' /etc/inittab | grep tty[1-6]")
    assert vz.sh(ct, "ps ax | grep -c [g]etty").strip() == "0"
