"""First-level disk quota: where the node's file system counts by project, and what is said where it does not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable

import pytest

from conftest import BUSYBOX, Vz, left_at_last
from probes import give
from rig import Rig, ok
from testnode import Node
from vz.disk import project, quota
from vz.kernel import quota as calls

MIB = 1024  # KiB
LAYOUTS = ("overlay", "simfs")
NewCT = Callable[..., int]


def has_quota(node: Node) -> bool:
    fd = quota.open_area(str(node.home))
    try:
        return not quota.problem(fd, "here")
    finally:
        os.close(fd)


@pytest.fixture(autouse=True)
def kept(request: pytest.FixtureRequest, node: Node) -> None:
    """Skip the tests of one kind of node on the other."""
    wanted = not request.node.name.startswith("test_without_")
    if has_quota(node) != wanted:
        pytest.skip("needs a file system with project quota" if wanted else "this node has project quota")


def held(node: Node, ctid: int, path: str = "") -> tuple[int, calls.Dqblk]:
    """Return the project of the CT's area and what the kernel has counted and will allow."""
    fd = quota.open_area(path or str(node.path(f"/vz/private/{ctid}")))
    try:
        number = calls.get_project(fd)[0]
        return number, calls.get_project_quota(fd, number)
    finally:
        os.close(fd)


def one(vz: Vz, ctid: int, columns: str) -> list[str]:
    return vz.run("vzlist", "-a", "-H", "-o", columns, ctid).stdout.split()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_space_and_files_end_where_the_limit_is(vz: Vz, node: Node, new_ct: NewCT, layout: str) -> None:
    """Written inside to the last block; df and vzlist say so; a neighbour, the node and the CT's own stop do not mind."""
    ct = new_ct("--diskspace", "20M", "--diskinodes", "3000", layout=layout)
    other = new_ct(layout=layout)
    number, before = held(node, ct)
    assert number == project.FIRST + ct and before.limits() == (20 * MIB, 20 * MIB, 3000, 3000)
    said = vz.sh(ct, "dd if=/dev/zero of=/root/big bs=64k; df -k / | tail -1; df -i / | tail -1; ls /root | wc -l")
    assert "Disk quota exceeded" in said or "No space left" in said, said
    _, full = held(node, ct)
    assert 20 * MIB - 64 <= full.space // 1024 <= 20 * MIB
    rows = [line.split() for line in said.splitlines() if line.endswith(" /")]
    assert [row[1] for row in rows] == [str(20 * MIB), "3000"] and int(rows[0][3]) < 64, said
    assert vz.sh(other, "dd if=/dev/zero of=/root/big bs=1M count=30 2>&1 && echo written").endswith("written\n")
    kib, soft, hard, files, files_hard = one(vz, ct, "diskspace,diskspace.s,diskspace.h,diskinodes,diskinodes.h")
    assert (soft, hard, files_hard) == (str(20 * MIB), str(20 * MIB), "3000")
    assert int(kib) == -(-full.space // 1024) and int(files) == full.inodes
    said = vz.sh(
        ct, "rm /root/big; mkdir /root/d; cd /root/d; for i in `seq 3100`; do : > $i || break; done 2>&1 | head -1"
    )
    assert "Disk quota exceeded" in said or "No space left" in said, said
    assert held(node, ct)[1].inodes == 3000
    vz.ok("set", ct, "--diskinodes", "3500:3600")
    assert vz.sh(ct, "cd /root/d; : > more && echo more") == "more\n"
    vz.sh(ct, "dd if=/dev/zero of=/root/big bs=64k")
    vz.ok("stop", ct, "--fast")
    vz.ok("start", ct)  # above both limits
    assert held(node, ct)[1].limits() == (20 * MIB, 20 * MIB, 3000, 3000), "the live change was not saved"
    assert vz.sh(ct, "touch /root/yet || echo full").startswith("full\n")


def test_live_saved_and_out_of_force(vz: Vz, node: Node, new_ct: NewCT) -> None:
    ct = new_ct()
    assert held(node, ct)[1].limits() == quota.NO_LIMITS
    done = vz("set", ct, "--diskspace", "10M:12M", "--save")
    assert (done.returncode, done.stderr) == (0, "") and held(node, ct)[1].limits() == (10 * MIB, 10 * MIB, 0, 0)
    assert 'DISKSPACE="10240:12288"\n' in node.path(f"/etc/vz/conf/{ct}.conf").read_text()
    assert one(vz, ct, "diskspace.s,diskspace.h,diskinodes.s") == ["10240", "12288", "-"]
    rows = vz.run("vzquota", "stat", ct).stdout.splitlines()
    assert rows[0] == "qid: path            usage      softlimit      hardlimit       time     expire"
    assert rows[1] == f"{ct}: /vz/private/{ct}" and len(rows) == 4
    assert rows[2].startswith("  1k-blocks ") and rows[2].split()[2:] == ["10240", "12288", "0", "0"]
    assert rows[3].startswith("     inodes ") and int(rows[3].split()[1]) > 3
    found = json.loads(vz.run("vzlist", "-j", ct).stdout)[0]
    assert found["diskspace"]["softlimit"] == 10240 and found["diskspace"]["hardlimit"] == 12288
    assert found["diskspace"]["usage"] > 0 and found["diskinodes"]["hardlimit"] == 0
    assert vz.run("vzquota", "on", ct).returncode == 5
    assert vz.run("vzquota", "setlimit", ct, "-b", "5000", "-B6000", "-I", "777").returncode == 0
    assert held(node, ct)[1].limits() == (5000, 6000, 0, 777)
    assert vz.run("vzquota", "off", ct).returncode == 0 and vz.run("vzquota", "drop", ct).returncode == 6
    assert vz.run("vzquota", "on", ct).returncode == 0 and vz.run("vzquota", "off").returncode == 2
    done = vz("set", ct, "--diskspace", "20M", "--diskinodes", "99", "--netdev_add", "nosuch", "--save")
    assert done.returncode and held(node, ct)[1].limits() == (10 * MIB, 10 * MIB, 0, 0), "undone as a whole"
    done = vz("set", ct, "--diskspace", "12M:10M", "--save")
    assert done.returncode == 21 and done.stderr.count("\n") == 1
    assert vz("set", ct, "--diskspace", "0", "--save").returncode == 21
    assert vz("quotaoff", ct).returncode == 0 and held(node, ct)[1].limits() == quota.NO_LIMITS
    done = vz("quotaoff", ct)
    assert (done.returncode, done.stderr.count("\n")) == (66, 1)
    done = vz("quotainit", ct)
    assert (done.returncode, done.stderr) == (61, "Unable to initialise the disk quota: the container is running\n")
    vz.ok("quotaon", ct)
    assert held(node, ct)[1].limits() == (10 * MIB, 10 * MIB, 0, 0)
    vz.ok("set", ct, "--diskquota", "no", "--save", "--setmode", "restart")
    assert vz("exec", ct, "true").returncode == 0 and held(node, ct)[1].limits() == quota.NO_LIMITS
    done = vz("quotaon", ct)
    assert (done.returncode, done.stderr) == (60, "Unable to switch the disk quota on: DISK_QUOTA is no\n")
    vz.ok("stop", ct, "--fast")
    assert vz("set", ct, "--diskspace", "9M").returncode == 31


def test_above_soft_for_the_grace(vz: Vz, node: Node, new_ct: NewCT) -> None:
    ct = new_ct("--diskspace", "8M:16M", "--quotatime", "2")
    assert held(node, ct)[1].limits() == (8 * MIB, 16 * MIB, 0, 0)
    try:
        said = vz.sh(
            ct,
            "dd if=/dev/zero of=/root/a bs=1M count=10 2>/dev/null && sync && echo above; sleep 4; touch /root/b; "
            "dd if=/dev/zero of=/root/b bs=64k count=9 2>&1; rm /root/a; "
            "for i in 1 2 3 4 5 6 7 8 9; do touch /root/c 2>&1 && echo below && break; sleep 1; done",  # XFS frees in the background
        )
        assert said.startswith("above\n") and "below\n" in said, said
        assert "Disk quota exceeded" in said or "No space left" in said, said
        assert held(node, ct)[1].bsoft == 8 * MIB
    finally:
        fd = quota.open_area(str(node.home))
        calls.set_project_grace(fd, quota.USUAL_GRACE_S)
        os.close(fd)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_way_out_from_inside(vz: Vz, node: Node, new_ct: NewCT, layout: str) -> None:
    ct = new_ct("--diskspace", "50M", "--features", "nesting:on", layout=layout)
    number, _ = held(node, ct)
    program = give(vz, ct, "project")
    said = vz.sh(
        ct,
        f"cd /root; echo x > file; mkdir dir; {program} file dir; {program} /etc/passwd /; {program} /bin/busybox /home",
    )
    lines = [line.split() for line in said.splitlines()]
    results = [(name, int(code)) for name, code, *_ in lines if name != "is"]
    assert len(results) > 25, said
    for name, code in results:
        if name == "unshare":
            assert code == 0, "nesting is on"
        elif name.startswith("quotactl"):
            assert code == errno.ENOSYS, said
        else:
            assert code == errno.EOPNOTSUPP, said
    assert lines[0] == ["is", str(number), "1"], "what is made inside belongs to it"
    vz.sh(
        ct,
        "cd /root; echo x > b; mv b dir/b; ln dir/b c; ln -s b l; mkfifo p; mv l p dir/; mkdir -p x/y; mv x dir; cp c d",
    )
    wrong = strays(node.path(f"/vz/private/{ct}"), number)
    assert wrong == []


def strays(top: os.PathLike[str], number: int) -> list[str]:
    """Return the files and directories below *top* that are not of project *number*."""
    found = []
    for folder, _, names in os.walk(top):
        for path in [folder, *(os.path.join(folder, name) for name in names)]:
            if not stat.S_ISREG(os.lstat(path).st_mode) and path != folder:
                continue
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if calls.get_project(fd)[0] != number:
                    found.append(path)
            finally:
                os.close(fd)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_came_without(vz: Vz, node: Node, new_ct: NewCT, layout: str) -> None:
    """A tree from before there were quotas is counted at the next start."""
    ct = new_ct(layout=layout)
    vz.sh(
        ct,
        "cd /root; echo x > a; ln a b; ln -s a l; mkfifo p; mkdir -p e/f; ln -s x e/f/m; touch -h -d @86400 l; "
        "rm -r /etc/init.d /bin/sleep; mv /bin/tar /bin/tar2; chown -h 5:6 l; ls -l / /root /root/e /bin > /tmp/ls",
    )
    vz.ok("restart", ct)  # overlayfs counts the links of what it has in its index otherwise after a mount
    look = "ls -lR /root /bin /etc | grep -v ^total; cat /root/b"
    listing = vz.sh(ct, look)
    vz.ok("stop", ct, "--fast")
    area = node.path(f"/vz/private/{ct}")
    number, whole = held(node, ct)
    for what in (["-R", "-p", "0"], ["-R", "-P"]):
        subprocess.run(["chattr", "-f", *what, str(area)], stderr=subprocess.DEVNULL)
    specials = [os.path.join(f, n) for f, _, names in os.walk(area) for n in names]
    for path in specials:  # what no ioctl reaches, made anew without the project
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode) and status.st_nlink == 1:
            target, above = os.readlink(path), os.stat(os.path.dirname(path))
            os.unlink(path)
            os.symlink(target, path)
            os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
            os.utime(os.path.dirname(path), ns=(above.st_atime_ns, above.st_mtime_ns))
    assert held(node, ct)[0] == 0
    vz.ok("set", ct, "--diskspace", "60M", "--save")
    vz.ok("start", ct)
    number, now = held(node, ct)
    assert project.is_ours(number) and strays(area, number) == []
    assert abs(now.inodes - whole.inodes) <= 2, (now.inodes, whole.inodes)
    assert vz.sh(ct, look) == listing
    said = vz.sh(
        ct,
        "set -e; cd /root; mv l e/l2; ln p q; mv e/f/m e/; mkdir /etc/init.d; mkdir /etc/init.d/x; echo > /bin/sleep; "
        "mv e/l2 /etc/init.d; mv /etc/init.d /root/moved; ls moved",
    )
    assert said == "l2\nx\n"
    vz.ok("stop", ct, "--fast")
    assert vz.ok("quotainit", ct).startswith("Disk quota is initialised: ")


class Killed(BaseException):
    """Raised in place of a system call."""


def test_a_count_that_is_killed_twice_leaves_every_link_whole(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of its calls, and the one that mends it too; an overlay would take a file for another one else."""
    top = node.home / "adopted"
    left = 0

    def dying(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **words: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            real(*args, **words)

        monkeypatch.setattr(os, name, call)

    for name in "link rename unlink symlink mknod chown utime setxattr removexattr".split():
        dying(name)
    for point in range(1, 300):
        for folder in (top, top / "a", top / "b"):
            folder.mkdir()
        for path, target in (("a/l", "x"), ("s", "y"), ("a/z", "z")):
            (top / path).symlink_to(target)
        os.mknod(top / "c", 0o600 | stat.S_IFCHR, 0)
        os.mkfifo(top / "p")
        os.mkfifo(top / "b/q")
        for path, other in (("a/l", "b/l"), ("c", "b/c"), ("c", "a/c"), ("b/q", "q")):
            os.link(top / path, top / other, follow_symlinks=False)
        (top / "f").touch()
        fd = quota.open_area(str(top))
        rounds = []
        try:
            for left in (point, point // 2 + 1, 0):
                try:
                    rounds.append(project.adopt(fd, project.free_project(fd, 101)))
                except Killed:
                    assert project.project_of(fd, 101) == 0
            number = project.project_of(fd, 101)
            assert project.is_ours(number)
            for _ in range(50):
                if calls.get_project_quota(fd, number).inodes == 10:
                    break
                time.sleep(0.1)  # XFS frees in the background
            assert calls.get_project_quota(fd, number).inodes == 10
        finally:
            os.close(fd)
        names = [sorted(path.name for path in folder.iterdir()) for folder in (top, top / "a", top / "b")]
        assert names == [["a", "b", "c", "f", "p", "q", "s"], ["c", "l", "z"], ["c", "l", "q"]]
        for group in (("a/l", "b/l"), ("c", "b/c", "a/c"), ("q", "b/q")):
            found = [(top / path).lstat() for path in group]
            assert len({status.st_ino for status in found}) == 1 and found[0].st_nlink == len(group), (point, group)
        shutil.rmtree(top)
        if len(rounds) == 3:
            break
    assert 20 < point < 299


def test_a_ct_that_moves_is_counted_there_from_its_first_file(rig: Rig) -> None:
    """And is no longer here: the id's limits are gone, its own are in force on the other node."""
    ct = 7901
    home = quota.open_area(str(rig.a.home))
    for words in (
        ("create", ct, "--ostemplate", BUSYBOX, "--layout", "simfs"),
        ("set", ct, "--diskspace", "30M:40M", "--diskinodes", "5000", "--save"),
        ("start", ct),
    ):
        ok(rig.a, "vzctl", *words)
    try:
        before, _ = held(rig.a, ct)
        ok(rig.a, "vzctl", "exec", ct, "ln -s x /root/link; mkfifo /root/p")
        done = rig.migrate(rig.a, ct)
        assert done.returncode == 0, done.stderr
        after, found = held(rig.b, ct)
        assert project.is_ours(after) and found.limits() == (30 * MIB, 30 * MIB, 5000, 5000)
        assert found.inodes > 20 and strays(rig.b.path(f"/vz/private/{ct}"), after) == []
        ok(rig.b, "vzctl", "exec", ct, "cd /root; mkdir d && mv link d && ln p d/q")  # what no ioctl reaches, too
        if before != after:
            assert calls.get_project_quota(home, before).limits() == quota.NO_LIMITS
    finally:
        os.close(home)
        for node in (rig.a, rig.b):
            for verb in (("stop", ct, "--fast"), ("destroy", ct)):
                node.run("vzctl", *map(str, verb))


def test_destroy_takes_the_limits_along(vz: Vz, node: Node, new_ct: NewCT) -> None:
    """And the id's next CT starts from nothing, whatever of the last one is still being deleted."""
    ct = new_ct("--diskspace", "8M")
    vz.sh(ct, "dd if=/dev/zero of=/root/big bs=1M 2>/dev/null")
    vz.ok("stop", ct, "--fast")
    number, _ = held(node, ct)
    hold = os.open(node.path(f"/vz/private/{ct}/up/root/big"), os.O_RDONLY)  # keeps its blocks
    home = quota.open_area(str(node.home))
    try:
        vz.ok("destroy", ct)
        assert calls.get_project_quota(home, number).limits() == quota.NO_LIMITS
        assert left_at_last(node, ct) == []
        vz.ok("create", ct, "--ostemplate", BUSYBOX, "--diskspace", "8M")
        vz.ok("start", ct)
        other, fresh = held(node, ct)
        assert other != number and project.is_ours(other) and fresh.space < 2 << 20 and fresh.bhard == 8 * MIB
    finally:
        os.close(home)
        os.close(hold)


def test_without_it_one_line_says_so(vz: Vz, node: Node, new_ct: NewCT) -> None:
    """The values are kept; what runs cannot be given any; DISK_QUOTA=no is silence."""
    ct = new_ct()
    path = node.path(f"/etc/vz/conf/{ct}.conf")
    before = path.read_text()
    done = vz("set", ct, "--diskspace", "1G", "--cpuunits", "500", "--save")
    lines = done.stderr.splitlines()
    assert done.returncode == 62 and path.read_text() == before
    assert len(lines) == 2 and lines[1].startswith("Unable to set the disk quota: ") and "quota" in lines[1], lines
    done = vz("set", ct, "--diskspace", "1G")
    assert done.returncode == 62 and done.stderr.count("\n") == 1
    assert vz.run("vzquota", "on", ct).returncode == vz.run("vzquota", "stat", ct).returncode == 11
    for verb, code in (("quotaon", 63), ("quotaoff", 66), ("quotainit", 61)):
        done = vz(verb, ct)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done
    vz.ok("stop", ct, "--fast")
    done = vz("set", ct, "--diskspace", "1G:2G", "--diskinodes", "100:200", "--quotatime", "0", "--save")
    assert done.returncode == 0 and done.stderr.startswith(
        "WARNING: disk limits are saved, and do not hold on this node: "
    )
    assert 'DISKSPACE="1048576:2097152"\n' in path.read_text()
    done = vz("start", ct)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "DISK" in line] == done.stderr.splitlines()
    assert done.stderr.startswith("WARNING: DISKSPACE and DISKINODES do not hold: ") and done.stderr.count("\n") == 1
    assert one(vz, ct, "diskspace,diskspace.s,diskspace.h") == ["-", "1048576", "2097152"]
    assert vz("quotaon", ct).returncode == 60
    vz.ok("stop", ct, "--fast")
    vz.ok("set", ct, "--diskquota", "no", "--save")
    done = vz("start", ct)
    assert (done.returncode, done.stderr) == (0, "")
