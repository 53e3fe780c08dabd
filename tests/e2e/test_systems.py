"""Stock systems of each init: they boot to the end, are reachable, and work inside as a small server does."""

from __future__ import annotations

import re
import subprocess
import time

import pytest

from conftest import Vz, template
from testnode import Node

SYSTEMS = ["debian-12", "debian-13", "debian-12-sysvinit"]
KEPT_CLOSED = {
    "/etc/ssl/private",
    "/run/systemd/unit-root",
    "/run/sudo/ts",
    "/etc/credstore",
    "/etc/credstore.encrypted",
}  # by the systems themselves


@pytest.fixture(scope="module")
def key(vz: Vz) -> str:
    vz.run("rm", "-f", "/vz/key", "/vz/key.pub")
    assert vz.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/vz/key").returncode == 0
    return vz.run("cat", "/vz/key.pub").stdout.strip()


def ssh(address: str, command: str) -> list[str]:
    options = [
        "-F",
        "none",
        "-i",
        "/vz/key",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "LogLevel=ERROR",
    ]
    return [
        "ssh",
        *options,
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "ConnectTimeout=10",
        f"root@{address}",
        command,
    ]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_stock_system_boots_and_works(vz: Vz, node: Node, new_ct, key: str, name: str) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(
        "--ipadd",
        "192.0.2.51",
        "--ipadd",
        "2001:db8::51",
        "--hostname",
        "srv.example.com",
        template=template(name),
        start=False,
    )
    done = vz("start", ctid, "--wait")
    assert done.returncode == 0 and done.stdout.endswith("Container started successfully\n")
    if "sysvinit" not in name:
        assert vz("exec", ctid, "systemctl is-system-running").stdout == "running\n"
        assert vz("exec", ctid, "systemctl --failed --no-legend").stdout == ""
        assert vz("exec", ctid, "journalctl -b -n 5 --no-pager").returncode == 0
        done = vz("exec", ctid, "systemd-run -q --wait -p PrivateUsers=yes -p User=nobody true")  # as redis-server's
        assert done.returncode == 0, done.stderr
    assert vz("exec", ctid, "ps -o comm= -p 1").stdout.strip() in ("systemd", "init")
    vz.sh(ctid, f"mkdir -p /root/.ssh && echo '{key}' > /root/.ssh/authorized_keys")
    for address in ("192.0.2.51", "2001:db8::51"):
        shown = vz.run(
            "sh",
            "-c",
            "for i in 1 2 3 4 5; do "
            + " ".join(f"'{w}'" for w in ssh(address, "hostname; id -u"))
            + " && exit 0; sleep 0.5; done; exit 1",
        )
        assert shown.stdout == "srv.example.com\n0\n", shown.stderr
    # from another CT
    other = new_ct("--ipadd", "192.0.2.52", template=template(name))
    assert vz("exec", other, "ping -c1 -W2 192.0.2.51").returncode == 0
    # users, set-uid programs, cron
    script = """
useradd -m bob && chown 65535:65534 /home/bob && stat -c %u:%g /home/bob
su bob -c 'id -un'; sudo -u bob id -un
chown bob: /home/bob; su bob -c 'ping -c1 -W1 127.0.0.1 >/dev/null && echo pinged'
echo '* * * * * true' | crontab -u bob - && crontab -u bob -l
passwd -S root | cut -d' ' -f1
"""
    assert vz.sh(ctid, script).splitlines() == ["65535:65534", "bob", "bob", "pinged", "* * * * * true", "root"]
    vz.ok("stop", ctid, timeout=90)
    assert vz("status", ctid).stdout == f"CTID {ctid} exist unmounted down\n"


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_that_nobody_uses_is_idle(vz: Vz, new_ct, name: str) -> None:  # type: ignore[no-untyped-def]
    """rsyslogd once read an empty /proc/kmsg for ever; the kernel's own refuses to be opened, which it understands."""
    ctid = new_ct(template=template(name), start=False)
    vz.ok("start", ctid, "--wait")
    assert vz.sh(ctid, "cat /proc/kmsg").rstrip().endswith(("Permission denied", "Operation not permitted"))
    deadline = time.monotonic() + 60
    while "sysvinit" not in name and "1" not in vz.sh(ctid, "pidof rsyslogd | wc -w"):
        assert time.monotonic() < deadline, "no rsyslogd"
    while (used := ticks_of(vz, ctid)) > 20:  # a fifth of a second in two: the end of its boot
        assert time.monotonic() < deadline, f"{used} ticks of 200 while nobody uses it"


def ticks_of(vz: Vz, ctid: int) -> int:
    """Return the hundredths of a second of CPU that the CT's processes took during two seconds."""
    count = "cat /proc/[0-9]*/stat 2>/dev/null | awk '{n += $14 + $15} END {print n}'"
    return -int(vz.sh(ctid, count)) + int(vz.sh(ctid, f"sleep 2; {count}"))


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_careful_admins_umask_stays_outside(vz: Vz, node: Node, name: str) -> None:
    """With a umask of 077 for every command, the system boots, and its directories are for its users."""
    ctid = 170 + SYSTEMS.index(name)
    assert vz.run("sh", "-c", f"umask 077; vzctl create {ctid} --ostemplate {template(name)}").returncode == 0
    try:
        options = "--ipadd 192.0.2.77 --hostname srv --nameserver 192.0.2.1 --save"
        assert vz.run("sh", "-c", f"umask 077; vzctl set {ctid} {options}").returncode == 0
        done = vz.run("sh", "-c", f"umask 077; vzctl start {ctid} --wait", timeout=120)
        assert done.returncode == 0, done.stderr
        if "sysvinit" not in name:
            assert vz("exec", ctid, "systemctl is-system-running").stdout == "running\n"
        closed = vz.sh(ctid, "find / /run /dev /dev/shm -xdev -type d -perm 700 | sort -u").split()
        mine = {path for path in closed if path.startswith(("/dev", "/etc", "/run"))}
        mine = {path for path in mine if not path.startswith("/run/credentials/")}  # of systemd's services, in passing
        assert mine - KEPT_CLOSED == set()
        assert vz.sh(ctid, "su nobody -s /bin/sh -c 'cat /etc/resolv.conf /etc/hosts /etc/hostname'").count("srv") >= 2
    finally:
        vz("stop", ctid, "--fast")
        vz.ok("destroy", ctid)


def test_packages_install_from_a_repository_of_the_node(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    make = """
set -e
rm -rf /vz/repo; mkdir -p /vz/repo/p/DEBIAN /vz/repo/p/usr/bin
printf 'Package: vz-hello\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: t <t@example.com>\\nDescription: test\\n' > /vz/repo/p/DEBIAN/control
printf '#!/bin/sh\\necho hello\\n' > /vz/repo/p/usr/bin/vz-hello; chmod 4755 /vz/repo/p/usr/bin/vz-hello
dpkg-deb --build /vz/repo/p /vz/repo/vz-hello.deb; cd /vz/repo; rm -rf p
size=$(stat -c %s vz-hello.deb); sum=$(sha256sum vz-hello.deb | cut -d' ' -f1)
printf 'Package: vz-hello\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: t <t@example.com>\\nFilename: ./vz-hello.deb\\nSize: %s\\nSHA256: %s\\nDescription: test\\n' $size $sum > Packages
"""
    assert vz.run("sh", "-c", make).returncode == 0
    import subprocess

    server = node.popen(
        "/usr/bin/python3",
        "-I",
        "-m",
        "http.server",
        "8080",
        "--bind",
        "192.0.2.1",
        "--directory",
        "/vz/repo",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ctid = new_ct("--ipadd", "192.0.2.53", template=template("debian-12"), start=False)
        vz.ok("start", ctid, "--wait")
        script = """
echo 'deb [trusted=yes] http://192.0.2.1:8080/ ./' > /etc/apt/sources.list; rm -f /etc/apt/sources.list.d/*
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update 2>/dev/null && apt-get -qq -y install vz-hello >/dev/null 2>&1 && vz-hello && stat -c %a /usr/bin/vz-hello
"""
        shown = vz.sh(ctid, script)
        assert shown.splitlines()[-2:] == ["hello", "4755"], shown
    finally:
        server.kill()
        server.wait()


def test_reboot_from_inside_is_seen(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(template=template("debian-12"), start=False)
    vz.ok("start", ctid, "--wait")
    vz("exec", ctid, "systemctl reboot")
    for _ in range(100):
        if "down" in vz("status", ctid).stdout:
            break
        vz.run("sleep", "0.1")
    done = vz("start", ctid, "--wait")
    assert done.returncode == 0, done.stderr
    assert vz("exec", ctid, "systemctl is-system-running").stdout == "running\n"


def test_wait_says_what_it_waits_for(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(template=template("debian-12"))
    unit = "[Service]\\nType=oneshot\\nExecStart=/bin/sleep 1000\\n[Install]\\nWantedBy=multi-user.target\\n"
    folder = "/etc/systemd/system"
    vz.sh(
        ctid,
        f"mkdir -p {folder}/multi-user.target.wants; printf '{unit}' > {folder}/slow.service; "
        f"ln -s ../slow.service {folder}/multi-user.target.wants/; sync",
    )
    vz.ok("stop", ctid, "--fast")
    waiting = node.popen("vzctl", "start", str(ctid), "--wait", stderr=subprocess.PIPE)
    try:
        assert waiting.stderr is not None
        said = waiting.stderr.readline()  # on a slow machine others of its units are busy beside it
        assert re.fullmatch(rb"Still booting after \d\d s: (\S+ )*slow\.service( \S+)*\n", said), said
        vz("exec", ctid, "systemctl kill slow.service")
        assert waiting.wait(60) == 0
    finally:
        waiting.kill()
        waiting.communicate()


def test_user_namespaces_of_units_are_switched_off_where_they_are_refused(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    for nesting, told in (("nesting:off", True), ("nesting:on", False)):
        ctid = new_ct("--features", nesting, template=template("debian-12"))
        assert (vz("exec", ctid, "grep PrivateUsers=no /run/systemd/system/service.d/*").returncode == 0) is told


def test_identity_differs_between_cts_of_one_template(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    seen = set()
    for _ in range(2):
        ctid = new_ct(template=template("debian-12"))
        seen.add(vz("exec", ctid, "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub").stdout)
    assert len(seen) == 2 and all(len(text) > 90 for text in seen)
