"""Rules 1 and 2 of the isolation rules: whose ids a CT has, and who can reach its files."""

from __future__ import annotations

import os
import re
import time

import pytest

from conftest import BUSYBOX, Vz, template
from testnode import Node

# a shell, which has lost root's capabilities by being exec'ed
AS_NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c")


def conf_of(node: Node, ctid: int) -> str:
    return node.path(f"/etc/vz/conf/{ctid}.conf").read_text()


def base_of(node: Node, ctid: int) -> int:
    return int(re.findall(r'LOCAL_UID="(\d+)"', conf_of(node, ctid))[0])


def init_of(node: Node, ctid: int) -> int:
    return int(node.path(f"/var/lib/vzctl/vepid/{ctid}").read_text())


def test_rule01_root_inside_is_nobody_outside(vz: Vz, node: Node, ct: int) -> None:
    pid = init_of(node, ct)
    for kind in ("uid", "gid"):
        text = vz.run("cat", f"/proc/{pid}/{kind}_map").stdout.split()
        assert text[0] == "0" and int(text[1]) >= 65536 and text[2] == "65536" and len(text) == 3
        assert vz("exec", ct, f"cat /proc/self/{kind}_map").stdout.split() == ["0", text[1], "65536"]
    assert os.stat(f"/proc/{pid}").st_uid == base_of(node, ct)


def test_rule01_ranges_do_not_overlap(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    bases = set()
    for _ in range(3):
        ctid = new_ct()
        bases.add(vz.run("cat", f"/proc/{init_of(node, ctid)}/uid_map").stdout.split()[1])
    assert len(bases) == 3


@pytest.mark.parametrize("change", ["grown", "shifted", "taken", "low", "high"])
def test_rule01_a_conf_cannot_take_ids_of_others(vz: Vz, node: Node, new_ct, change: str) -> None:  # type: ignore[no-untyped-def]
    """Edited or imported confs: a longer range, one across two CTs', another's, the node's users', none at all."""
    first, second = new_ct(start=False), new_ct()
    one, two = base_of(node, first), base_of(node, second)
    text = conf_of(node, first)
    lower = min(one, two)
    changed = {
        "grown": text.replace(str(one), str(two - 65536)) + 'LOCAL_UID_COUNT="131072"\n',
        "shifted": text.replace(str(one), str(two + 100)),
        "taken": text.replace(str(one), str(two)),
        "low": text.replace(str(one), "1"),
        "high": text.replace(str(one), "4294901760"),
    }[change]
    node.path(f"/etc/vz/conf/{first}.conf").write_text(changed)
    for verb in ("start", "mount"):
        done = vz(verb, first)
        assert done.returncode == 6, done.stdout + done.stderr
        lines = [line for line in done.stderr.splitlines() if "dmesg" not in line]
        assert len(lines) == 1 and lines[0].startswith(("host ids", "LOCAL_UID")), done.stderr
    assert "down" in vz("status", first).stdout and lower
    node.path(f"/etc/vz/conf/{first}.conf").write_text(text)
    vz.ok("start", first)


def kept_lines(node: Node, base: int) -> list[str]:
    """Return the lines about the range at *base* in the node's table of ranges."""
    path = node.path(f"/var/lib/vzctl/ids/{base // 65536}")
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.split()[0] == str(base)]


def test_rule01_ids_wait_for_the_last_file(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """A range is not given again while files of the CT that had it are still being deleted."""
    ctid = new_ct(start=False)
    base = base_of(node, ctid)
    kept = node.path(f"/vz/private/{ctid}/up/kept")
    kept.mkdir()
    vz.run("mount", "-t", "tmpfs", "kept", f"/vz/private/{ctid}/up/kept")  # rm stops at another file system
    try:
        vz.ok("destroy", ctid)
        time.sleep(0.5)
        assert kept_lines(node, base) == [f"{base} 65536 {ctid} destroyed"]
        others = [new_ct(start=False) for _ in range(3)]
        assert base not in [base_of(node, other) for other in others]
    finally:
        vz.run("sh", "-c", "umount /vz/vztmp/*/up/kept")
    vz.ok("destroy", others[0])  # its deleter takes the rest along
    for _ in range(100):
        if not kept_lines(node, base):
            break
        time.sleep(0.1)
    assert kept_lines(node, base) == []


def test_rule01_files_keep_the_cts_own_ids_on_disk(vz: Vz, node: Node, ct: int) -> None:
    vz.sh(ct, "touch /root/f; chown 1234:65534 /root/f")
    status = os.stat(node.path(f"/vz/private/{ct}/up/root/f"))
    assert (status.st_uid, status.st_gid) == (1234, 65534)
    assert vz("exec", ct, "chown 70000 /root/f").returncode == 8


def test_rule01_simfs_too(vz: Vz, node: Node, ctid: int) -> None:
    vz.ok("create", ctid, "--ostemplate", BUSYBOX, "--layout", "simfs")
    try:
        vz.ok("start", ctid)
        vz.sh(ctid, "touch /f; chown 7:8 /f")
        status = os.stat(node.path(f"/vz/private/{ctid}/f"))
        assert (status.st_uid, status.st_gid) == (7, 8)
    finally:
        vz.remove(ctid)


@pytest.mark.parametrize("layout", ["overlay", "simfs"])
def test_rule02_set_uid_files_are_out_of_reach_of_the_nodes_users(vz: Vz, node: Node, ctid: int, layout: str) -> None:
    """By every path that leads to a file of the CT: area, root, /proc/PID, the trash, the template."""
    vz.ok("create", ctid, "--ostemplate", BUSYBOX, "--layout", layout)
    try:
        vz.ok("start", ctid)
        vz.sh(ctid, "cp /bin/busybox /id; chmod 4755 /id; chmod 777 /")
        area = "/up" if layout == "overlay" else ""
        assert os.stat(node.path(f"/vz/private/{ctid}{area}/id")).st_mode & 0o4000
        pid = init_of(node, ctid)
        places = [f"/vz/private/{ctid}{area}", f"/vz/root/{ctid}", f"/proc/{pid}/root", f"/proc/{pid}/cwd"]
        for place in places:
            done = vz.run(*AS_NOBODY, f"{place}/id id")
            assert done.returncode != 0 and "ermission denied" in done.stderr, (place, done)
        vz.ok("stop", ctid, "--fast")
        node.path(f"/vz/private/{ctid}{area}/slow").mkdir()
        vz.run("mount", "-t", "tmpfs", "slow", f"/vz/private/{ctid}{area}/slow")
        vz.ok("destroy", ctid)
        time.sleep(0.3)
        assert vz.run(*AS_NOBODY, "ls /vz/vztmp").returncode != 0
        assert "fs" in vz.run("sh", "-c", "ls /vz/template/unpacked/*").stdout
        assert vz.run(*AS_NOBODY, "ls /vz/template/unpacked").returncode != 0
    finally:
        vz.run("sh", "-c", "umount /vz/vztmp/*/slow /vz/vztmp/*/up/slow 2>/dev/null")
        vz.remove(ctid)


def test_rule02_an_open_place_for_simfs_is_refused(vz: Vz, node: Node, ctid: int) -> None:
    node.path("/vz/open").mkdir(mode=0o755)
    node.path("/vz/open").chmod(0o755)
    done = vz("create", ctid, "--ostemplate", BUSYBOX, "--layout", "simfs", "--private", "/vz/open/1")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        48,
        "Creation of container private area failed: All users of this node could run the set-uid programs in /vz/open/1: chmod 700 /vz/open",
    )
    node.path("/vz/open").chmod(0o700)
    vz.ok("create", ctid, "--ostemplate", BUSYBOX, "--layout", "simfs", "--private", "/vz/open/1")
    try:
        node.path("/vz/open").chmod(0o755)
        done = vz("start", ctid)
        assert done.returncode == 50 and "chmod 700 /vz/open" in done.stderr
        node.path("/vz/open").chmod(0o700)
        vz.ok("start", ctid)
    finally:
        vz.remove(ctid)


def test_rule02_what_create_and_start_make_is_closed(vz: Vz, node: Node, ct: int) -> None:
    for path, mode in (
        (f"/vz/private/{ct}", 0o700),
        ("/vz/template/unpacked", 0o700),
        (f"/run/vz/{ct}", 0o700),
        ("/var/lib/vzctl/ids", 0o700),
    ):
        status = os.stat(node.path(path))
        assert (status.st_uid, status.st_mode & 0o077) == (0, mode & 0o077), path


def test_rule01_packages_with_odd_owners_work(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """The whole of the range is usable inside, its last id too; what lies above is not there."""
    ctid = new_ct(template=template("debian-12"))
    script = "useradd -u 65535 last && su last -s /bin/sh -c 'id -u' && touch /root/f && chown 65535:65535 /root/f && stat -c %u /root/f"
    assert vz("exec", ctid, script).stdout == "65535\n65535\n"
    assert "Invalid argument" in vz.sh(ctid, "chown 65536 /root/f")
