"""vzmigrate offline: a CT moves to another node with all that is its own, and what would fail is said before."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from conftest import BUSYBOX, left_at_last, template
from rig import GONE, MOUNTED, RUNNING, STOPPED, Rig, inside, ok, status
from testnode import Node, programs

_ids = itertools.count(7001)
ADDRESS = "192.0.2.{}"


@pytest.fixture
def new() -> Iterator[Callable[..., int]]:
    """Return a maker of CTs on a node; they are removed from both nodes at the end."""
    made: list[tuple[Rig, int]] = []

    def make(
        rig: Rig,
        *options: object,
        layout: str = "overlay",
        state: str = "running",
        node: Node | None = None,
        template: str = BUSYBOX,
    ) -> int:
        ctid = next(_ids)
        node = node or rig.a
        made.append((rig, ctid))
        ok(node, "vzctl", "create", ctid, "--ostemplate", template, "--layout", layout)
        if options:
            ok(node, "vzctl", "set", ctid, *options, "--save")
        if state != "stopped":
            ok(node, "vzctl", "start" if state == "running" else "mount", ctid)
        return ctid

    yield make
    for rig, ctid in made:
        for node in (rig.a, rig.b):
            for words in (("stop", ctid, "--fast"), ("umount", ctid), ("destroy", ctid)):
                node.run("vzctl", *(str(word) for word in words))
            node.run("sh", "-c", f"rm -f /etc/vz/conf/{ctid}.*")


def test_a_running_ct_moves_with_all_that_is_its_own(rig: Rig, new: Callable[..., int]) -> None:
    address = ADDRESS.format(21)
    ct = new(
        rig,
        "--ipadd",
        address,
        "--hostname",
        "web.example",
        "--name",
        "web",
        "--ram",
        "200M",
        "--swap",
        "100M",
        "--onboot",
        "yes",
    )
    script = rig.a.path(f"/etc/vz/conf/{ct}.start")
    script.write_text("#!/bin/sh\necho started >> /root/starts\n")
    script.chmod(0o750)
    inside(rig.a, ct, "echo kept > /root/one; ln /root/one /root/two; chown 33:44 /root/one; mkfifo /root/pipe")
    before = rig.a.path(f"/etc/vz/conf/{ct}.conf").read_text()

    done = rig.migrate(rig.a, ct)

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"Starting migration of CT {ct} to {rig.b.address4}"
    for line in ("Preparing remote node", "Syncing private", "Stopping container", "Starting container", "Cleaning up"):
        assert line in lines
    assert lines[-1].startswith(f"Container {ct} is running on {rig.b.address4}; it was down for ")
    assert status(rig.a, ct) == GONE and left_at_last(rig.a, ct) == []
    assert status(rig.b, ct) == RUNNING
    after = rig.b.path(f"/etc/vz/conf/{ct}.conf").read_text()
    own = ("LOCAL_UID", "LOCAL_GID")
    assert [line for line in after.splitlines() if not line.startswith(own)] == [
        line for line in before.splitlines() if not line.startswith(own)
    ]
    assert rig.b.path(f"/etc/vz/conf/{ct}.start").read_text() == script.with_name(f"{ct}.start.destroyed").read_text()
    assert os.stat(rig.b.path(f"/etc/vz/conf/{ct}.start")).st_mode & 0o777 == 0o750
    out = inside(
        rig.b, ct, "hostname; cat /root/two; stat -c '%u %g %h' /root/two; cat /root/starts; [ -p /root/pipe ]"
    )
    assert out.split() == ["web.example", "kept", "33", "44", "2", "started"]
    assert "web" in ok(rig.b, "vzlist", "-H", "-o", "name", ct)
    rig.client("ping", "-c", "1", "-W", "3", address)

    done = rig.migrate(rig.b, "web")

    assert done.returncode == 0, done.stdout + done.stderr
    assert left_at_last(rig.b, ct) == [] and not os.path.lexists(rig.b.path("/etc/vz/names/web"))
    assert inside(rig.a, ct, "cat /root/one; cat /root/starts").split() == ["kept", "started", "started"]
    rig.client("ping", "-c", "1", "-W", "3", address)


@pytest.mark.parametrize("layout", ["overlay", "simfs"])
@pytest.mark.parametrize("state", ["running", "mounted", "stopped"])
def test_it_is_there_what_it_was_here(rig: Rig, new: Callable[..., int], layout: str, state: str) -> None:
    ct = new(rig, layout=layout)
    inside(rig.a, ct, "head -c 100000 /dev/zero | tr '\\0' x > /root/file")
    if state != "running":
        ok(rig.a, "vzctl", "stop", ct)
    if state == "mounted":
        ok(rig.a, "vzctl", "mount", ct)
    done = rig.migrate(rig.a, ct)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(rig.a, ct) == GONE and left_at_last(rig.a, ct) == []
    assert status(rig.b, ct) == {"running": RUNNING, "mounted": MOUNTED, "stopped": STOPPED}[state]
    top = rig.b.path(f"/vz/private/{ct}") / ("up" if layout == "overlay" else "")
    assert (top / "root/file").read_text() == "x" * 100000
    assert ("Stopping container" in done.stdout.splitlines()) == (state == "running")
    if state != "running":
        ok(rig.b, "vzctl", "start", ct)
    assert inside(rig.b, ct, "wc -c < /root/file; id -u").split() == ["100000", "0"]


def test_under_another_id(rig: Rig, new: Callable[..., int]) -> None:
    ct, other = new(rig, "--netif_add", "eth0,,,,", "--name", "renamed"), next(_ids)
    done = rig.migrate(rig.a, f"{ct}:{other}")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1].startswith(f"Container {ct} is running on {rig.b.address4} as {other};")
        assert status(rig.a, ct) == GONE and status(rig.b, ct) == GONE and status(rig.b, other) == RUNNING
        conf = rig.b.path(f"/etc/vz/conf/{other}.conf").read_text()
        assert f"host_ifname=veth{other}.0" in conf and f"veth{ct}." not in conf
        assert ok(rig.b, "vzlist", "-H", "-o", "ctid", "renamed").split() == [str(other)]
        assert "eth0" in inside(rig.b, other, "ls /sys/class/net")
    finally:
        for word in ("stop", "destroy"):
            rig.b.run("vzctl", word, str(other))


def test_several_at_once_and_what_one_of_them_cannot(rig: Rig, new: Callable[..., int]) -> None:
    first, second = new(rig, state="stopped"), new(rig, state="stopped")
    missing = next(_ids)
    words = rig.migrate_argv(rig.a, first)
    done = rig.a.run(*words, str(missing), str(second))
    assert done.returncode == 10
    assert [status(rig.b, ct) for ct in (first, missing, second)] == [STOPPED, GONE, STOPPED]


def test_the_area_stays_with_r_no_and_serves_the_way_back(rig: Rig, new: Callable[..., int]) -> None:
    ct = new(rig)
    inside(rig.a, ct, "echo 1 > /root/one; echo 1 > /root/two")
    done = rig.migrate(rig.a, "-r", "no", ct)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(rig.a, ct) == GONE
    assert rig.a.path(f"/etc/vz/conf/{ct}.conf.migrated").exists()
    kept = rig.a.path(f"/vz/private/{ct}/up/root/one")
    inode = kept.stat().st_ino
    inside(rig.b, ct, "rm /root/two; echo 2 > /root/three")
    done = rig.migrate(rig.b, ct)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(rig.a, ct) == RUNNING and not rig.a.path(f"/etc/vz/conf/{ct}.conf.migrated").exists()
    assert inside(rig.a, ct, "ls /root").split() == ["one", "three"]
    assert kept.stat().st_ino == inode  # it was not copied again


@pytest.mark.parametrize("keep", [False, True], ids=["", "keep-dst"])
def test_a_start_that_fails_there_leaves_it_running_here(rig: Rig, new: Callable[..., int], keep: bool) -> None:
    ct = new(rig, "--ipadd", ADDRESS.format(22))
    inside(rig.a, ct, "echo kept > /root/file")
    script = rig.a.path(f"/etc/vz/conf/{ct}.mount")
    script.write_text("#!/bin/sh\n[ $(hostname) = node ]\n")  # the host's own
    script.chmod(0o755)
    done = rig.migrate(rig.a, *(["--keep-dst"] if keep else []), ct)
    assert done.returncode == 7, done.stdout + done.stderr
    assert "Error: Failed to start the container on the destination node: " in done.stderr
    assert status(rig.a, ct) == RUNNING and status(rig.b, ct) == GONE
    assert inside(rig.a, ct, "cat /root/file") == "kept\n"
    rig.client("ping", "-c", "1", "-W", "3", ADDRESS.format(22))
    stays = [f"/vz/private/{ct}"] if keep else []
    assert left_at_last(rig.b, ct, stays) == stays
    script.unlink()
    if keep:
        inode = rig.b.path(f"/vz/private/{ct}/up/root/file").stat().st_ino
    done = rig.migrate(rig.a, ct)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(rig.b, ct) == RUNNING and left_at_last(rig.a, ct) == []
    assert not keep or rig.b.path(f"/vz/private/{ct}/up/root/file").stat().st_ino == inode
    assert not any(name.startswith("kept.") for name in os.listdir(rig.b.path("/var/lib/vzctl/migrate")))


def test_a_range_of_ids_that_is_taken_there(rig: Rig, new: Callable[..., int]) -> None:
    """Both nodes have one pool here; the CT gets another range, and its files are still its own."""
    a_conf, b_conf = rig.a.path("/etc/vz/vz.conf"), rig.b.path("/etc/vz/vz.conf")
    old = b_conf.read_text()
    b_conf.write_text(old.replace(f"LOCAL_UID={rig.b.ids}", f"LOCAL_UID={rig.a.ids}"))
    assert f"LOCAL_UID={rig.a.ids}" in a_conf.read_text()
    try:
        mine = new(rig)
        base = int(_value(rig.a, mine, "LOCAL_UID"))
        taken = new(rig, state="stopped", node=rig.b)
        conf = rig.b.path(f"/etc/vz/conf/{taken}.conf")
        conf.write_text(conf.read_text().replace(_value(rig.b, taken, "LOCAL_UID"), str(base)))
        ok(rig.b, "vzctl", "start", taken)
        inside(rig.a, mine, "echo x > /root/file; chown 7:8 /root/file")
        done = rig.migrate(rig.a, mine)
        assert done.returncode == 0, done.stdout + done.stderr
        assert int(_value(rig.b, mine, "LOCAL_UID")) not in (base, 0)
        assert inside(rig.b, mine, "stat -c '%u %g' /root/file /").split() == ["7", "8", "0", "0"]
        assert status(rig.b, taken) == RUNNING
        slots = os.listdir(rig.b.path("/var/lib/vzctl/ids"))
        given = {str(int(name) * 65536) for name in slots if name.isdigit()}
        free = next(ct for ct in (new(rig) for _ in range(9)) if _value(rig.a, ct, "LOCAL_UID") not in given)
        base = _value(rig.a, free, "LOCAL_UID")
        assert rig.migrate(rig.a, free).returncode == 0
        assert _value(rig.b, free, "LOCAL_UID") == base  # kept where it is free
    finally:
        b_conf.write_text(old)


def _value(node: Node, ctid: int, key: str) -> str:
    for line in node.path(f"/etc/vz/conf/{ctid}.conf").read_text().splitlines():
        if line.startswith(f"{key}="):
            return line.split('"')[1]
    return ""


def test_check_only_changes_nothing(rig: Rig, new: Callable[..., int]) -> None:
    ct = new(rig)
    done = rig.migrate(rig.a, "--check-only", ct)
    assert done.returncode == 0 and done.stdout == f"Checking migration of CT {ct} to {rig.b.address4}\n"
    assert status(rig.a, ct) == RUNNING and status(rig.b, ct) == GONE and left_at_last(rig.b, ct) == []


def test_times(rig: Rig, new: Callable[..., int]) -> None:
    done = rig.migrate(rig.a, "-t", new(rig))
    assert done.returncode == 0
    names = [line.partition(":")[0].strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert names == [
        "Checks", "Copying files", "Stopping", "Copying what changed", "Starting container", "Making it safe there",
        "Cleaning up", "Total",
    ]  # fmt: skip


class TestRefused:
    """Each before anything has changed: the CT runs on, and there is nothing of it over there."""

    def refused(self, rig: Rig, ct: int, code: int, text: str, *words: object) -> None:
        done = rig.migrate(rig.a, *(words or (ct,)))
        assert (done.returncode, text in done.stderr) == (code, True), done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert status(rig.a, ct) == RUNNING

    def test_an_id_that_is_taken(self, rig: Rig, new: Callable[..., int]) -> None:
        ct, other = new(rig), new(rig, node=rig.b)
        self.refused(rig, ct, 9, f"CT {other} already exists on the destination node", f"{ct}:{other}")
        assert status(rig.b, other) == RUNNING

    def test_an_area_that_is_taken(self, rig: Rig, new: Callable[..., int]) -> None:
        ct = new(rig)
        foreign = rig.b.path(f"/vz/private/{ct}")
        foreign.mkdir()
        (foreign / "precious").write_text("x")
        self.refused(rig, ct, 9, f"Private area /vz/private/{ct} already exists on the destination node")
        assert (foreign / "precious").exists()
        (foreign / "precious").unlink()
        foreign.rmdir()

    def test_an_address_in_use(self, rig: Rig, new: Callable[..., int]) -> None:
        address = ADDRESS.format(23)
        other = new(rig, "--ipadd", address, node=rig.b)
        ct = new(rig)
        ok(rig.a, "vzctl", "set", ct, "--ipadd", address, "--save")
        self.refused(rig, ct, 12, f"address {address} is in use by CT {other} on the destination node")

    def test_an_address_of_the_node(self, rig: Rig, new: Callable[..., int]) -> None:
        ct = new(rig, "--ipadd", ADDRESS.format(24))
        rig.b.run("ip", "addr", "add", ADDRESS.format(24), "dev", "lo")
        self.refused(rig, ct, 12, f"on the destination node: Address {ADDRESS.format(24)} is not available")
        rig.b.run("ip", "addr", "del", ADDRESS.format(24), "dev", "lo")

    def test_a_name_that_is_taken(self, rig: Rig, new: Callable[..., int]) -> None:
        ct, other = new(rig, "--name", "twin"), new(rig, "--name", "twin", node=rig.b)
        self.refused(rig, ct, 15, f"name twin already used by container {other}")

    def test_the_same_node(self, rig: Rig, new: Callable[..., int]) -> None:
        ct = new(rig)
        options = f"--ssh=-F none -i {rig.a.home}/ssh/user -o UserKnownHostsFile={rig.b.home}/ssh/known"
        for word in (str(ct), f"{ct}:{next(_ids)}"):
            done = rig.a.run("vzmigrate", options, rig.a.address4, word)
            assert done.returncode == 9 and "is this node" in done.stderr, done.stderr
        assert status(rig.a, ct) == RUNNING and not list(rig.a.path("/run/vz").glob("migrate-*"))

    def test_no_such_ct(self, rig: Rig) -> None:
        for word in ("6999", "nobody", "0", "x/y", "6999:zero"):
            done = rig.migrate(rig.a, word)
            assert done.returncode == 10 and done.stderr.startswith("Error: "), (word, done.stderr)

    def test_nobody_there(self, rig: Rig, new: Callable[..., int]) -> None:
        ct = new(rig)
        done = rig.a.run("vzmigrate", f"--ssh={rig.ssh_options(rig.a)}", "192.0.2.77", str(ct))
        assert done.returncode == 4 and "Can't connect to root@192.0.2.77" in done.stderr
        done = rig.a.run("vzmigrate", "--ssh=-F none -i /nonexistent", rig.b.address4, str(ct))
        assert done.returncode == 4
        assert status(rig.a, ct) == RUNNING

    def test_locked(self, rig: Rig, new: Callable[..., int]) -> None:
        ct = new(rig)
        for node, text in ((rig.a, "Container already locked"), (rig.b, "is locked on the destination node")):
            lock = node.path(f"/vz/lock/{ct}.lck")
            lock.write_text(f"{os.getpid()}\n")
            self.refused(rig, ct, 20, text)
            assert lock.read_text() == f"{os.getpid()}\n"
            lock.unlink()

    def test_suspended(self, rig: Rig, new: Callable[..., int]) -> None:
        ct = new(rig, state="stopped")
        dump = rig.a.path(f"/vz/dump/Dump.{ct}")
        dump.write_text("")
        done = rig.migrate(rig.a, ct)
        assert done.returncode == 8 and "is suspended" in done.stderr
        dump.unlink()

    def test_the_destination_is_switched_off(self, rig: Rig, new: Callable[..., int]) -> None:
        ct, conf = new(rig), rig.b.path("/etc/vz/vz.conf")
        old = conf.read_text()
        conf.write_text(old.replace("VIRTUOZZO=yes", "VIRTUOZZO=no"))
        self.refused(rig, ct, 14, "VIRTUOZZO is not yes")
        conf.rename(conf.with_name("aside"))
        self.refused(rig, ct, 19, "on the destination node")
        conf.with_name("aside").unlink()
        conf.write_text(old)

    def test_no_vz_there(self, rig: Rig, new: Callable[..., int]) -> None:
        ct = new(rig)
        rig.b.run("mount", "--bind", "/bin/false", f"{programs()}/bin/vz-launcher")
        try:
            self.refused(rig, ct, 14, f"vz on root@{rig.b.address4} does not answer")
        finally:
            rig.b.run("umount", f"{programs()}/bin/vz-launcher")

    @pytest.mark.parametrize(
        "words",
        [
            ["-r", "maybe", "h", "1"], ["-r"], ["h"], ["--nonsense", "h", "1"], ["-c", "h", "1"], ["-vvvvv", "h", "1"],
            ["-f=moon", "h", "1"], ["--", "h", "1"], ["", "1"], ["-oProxyCommand=x", "1"], ["a b", "1"],
        ],
        ids=" ".join,
    )  # fmt: skip
    def test_usage(self, rig: Rig, words: list[str]) -> None:
        done = rig.a.run("vzmigrate", *words)
        assert done.returncode == 1 and done.stderr.startswith("Invalid usage: "), done.stderr

    def test_no_words(self, rig: Rig) -> None:
        for words in ([], ["--help"], ["-h"]):
            done = rig.a.run("vzmigrate", *words)
            assert done.returncode == 0 and "Usage:" in done.stdout


class TestFar:
    """The destination's areas are on another file system, with no template yet."""

    def test_the_template_comes_first_and_hard_links_hold(self, far_rig: Rig, new: Callable[..., int]) -> None:
        rig = far_rig
        ct = new(rig, template=template("debian-12"))
        script = "cd /usr/bin; stat -c %h perl; echo '# changed' >> perl; ls -i perl perl5.36.0; sha256sum perl perl5*0"
        inside(rig.a, ct, "rm /etc/motd; mkdir /srv/x; mv /srv/x /srv/y; rm -r /usr/share/doc/bash; " + script)
        look = "cd /usr/bin; stat -c %h perl; stat -c %i perl perl5*0 | uniq | wc -l; sha256sum perl perl5*0"
        look += "; ls /srv /usr/share/doc; ls /etc | wc -l; find / -xdev | wc -l"
        before = inside(rig.a, ct, look)
        done = rig.migrate(rig.a, "-v", ct, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Copying template" in done.stdout
        after = inside(rig.b, ct, look)
        assert after.splitlines()[:-1] == before.splitlines()[:-1]
        assert abs(int(after.splitlines()[-1]) - int(before.splitlines()[-1])) < 20  # what a boot writes
        assert before.splitlines()[:2] == ["2", "1"]
        assert ok(rig.b, "vztmpl", "list", "-H").split()[0] == template("debian-12")
        # a second one finds it there, and a fresh CT can be made of it
        ct = new(rig, template=template("debian-12"), state="stopped")
        done = rig.migrate(rig.a, "-v", ct)
        assert done.returncode == 0 and "Copying template" not in done.stdout
        # and the way back
        done = rig.migrate(rig.b, ct)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_a_template_whose_archive_has_gone(self, far_rig: Rig, new: Callable[..., int]) -> None:
        rig = far_rig
        ct = new(rig)
        inside(rig.a, ct, "echo x > /root/file")
        conf = rig.a.path(f"/etc/vz/conf/{ct}.conf")
        conf.write_text(conf.read_text().replace(BUSYBOX, "forgotten"))
        done = rig.migrate(rig.a, "-v", ct)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Copying template" in done.stdout
        assert inside(rig.b, ct, "cat /root/file; ls /bin | wc -l").split()[0] == "x"

    def test_too_little_space(self, far_rig: Rig, new: Callable[..., int]) -> None:
        rig = far_rig
        ct = new(rig)
        ok(rig.a, "fallocate", "-l", "1G", f"/vz/private/{ct}/up/big")
        done = rig.migrate(rig.a, ct)
        assert done.returncode == 6 and "MB free, the container needs" in done.stderr, done.stderr
        assert status(rig.a, ct) == RUNNING and left_at_last(rig.b, ct) == []

    def test_a_disk_that_fills_on_the_way(self, far_rig: Rig, new: Callable[..., int]) -> None:
        rig = far_rig
        ct = new(rig)
        inside(rig.a, ct, "truncate -s 1G /root/hole")
        # all holes here; without --sparse in the second pass it would be 1 GB over there
        done = rig.migrate(rig.a, "--rsync=--no-sparse", ct)
        assert done.returncode == 6 and "No space left on device" in done.stderr, done.stdout + done.stderr
        assert status(rig.a, ct) == RUNNING and left_at_last(rig.b, ct) == []
