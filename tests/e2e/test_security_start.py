"""Rules 3, 4 and 5 of the isolation rules: namespaces and cgroups, /proc and /sys, devices."""

from __future__ import annotations

import os
import subprocess

import pytest

from conftest import Vz
from probes import give
from testnode import Node

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
# opens for writing without writing: what could be changed
WRITABLE = "| while read f; do (: >> $f) 2>/dev/null && echo $f; done"


def init_of(node: Node, ctid: int) -> str:
    return node.path(f"/var/lib/vzctl/vepid/{ctid}").read_text().strip()


# rule 3


def test_rule03_every_namespace_is_the_cts_own(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    one, two = init_of(node, new_ct()), init_of(node, new_ct())
    for name in NAMESPACES:
        links = {os.readlink(f"/proc/{pid}/ns/{name}") for pid in (one, two, "self")}
        assert len(links) == 3, name


def test_rule03_no_limit_can_be_raised_from_inside(vz: Vz, node: Node, ct: int) -> None:
    writable = vz.sh(ct, f"find /sys/fs/cgroup -maxdepth 1 -type f {WRITABLE}").split()
    delegated = {f"/sys/fs/cgroup/cgroup.{name}" for name in ("procs", "threads", "subtree_control")}
    assert set(writable) == delegated
    tried = vz.sh(
        ct, "for f in pids.max memory.max cgroup.freeze cgroup.max.depth; do echo 1 > /sys/fs/cgroup/$f; done"
    )
    assert tried.count("can't create") == 4, tried
    assert " cgroup " not in vz("exec", ct, "cat /proc/mounts").stdout.replace(" cgroup2 ", " ")


def test_rule03_cgroups_that_root_inside_mounts_itself_are_its_own_and_read_only(vz: Vz, node: Node, ct: int) -> None:
    """The kernel lets it mount what the node has mounted: each shows the CT's group as its top, nothing to write."""
    script = """cd /tmp; for c in memory cpu cpuacct cpuset devices freezer blkio pids hugetlb perf_event net_cls name=systemd; do
      mkdir $c; mount -t cgroup -o $c c $c 2>/dev/null || continue
      find $c -type f | while read f; do (: >> $f) 2>/dev/null && echo writable $f; done
      find $c -type d | while read d; do mkdir $d/new 2>/dev/null && echo made $d/new; done
      find $c | grep -E 'release_agent|sane_behavior'; mount -o remount,release_agent=/x c $c 2>/dev/null && echo remounted $c
      (echo $$ > $c/tasks) 2>/dev/null && echo moved $c
    done; mkdir two; mount -t cgroup2 c two; ls -d two/../../sys >/dev/null; cat two/cgroup.procs | head -1
    mount -t cgroup2 -o remount,nsdelegate c two 2>/dev/null; echo 1 > two/cgroup.freeze"""
    shown = vz.sh(ct, script).splitlines()
    assert shown[0] in ("0", "1") and len(shown) == 2 and "can't create" in shown[1], shown


def test_rule03_nothing_of_the_nodes_root_is_left(vz: Vz, node: Node, ct: int) -> None:
    pid = init_of(node, ct)
    with open(f"/proc/{pid}/mountinfo") as table:
        lines = [line.split() for line in table]
    kinds = {fields[fields.index("-") + 1] for fields in lines}
    assert kinds <= {"overlay", "proc", "sysfs", "cgroup2", "tmpfs", "devtmpfs", "devpts", "mqueue"}, kinds
    assert {f[4] for f in lines if "devtmpfs" in f} == {
        f"/dev/{n}" for n in "null zero full random urandom tty".split()
    }
    assert not any("shared:" in word or "master:" in word for fields in lines for word in fields)  # propagation


def test_rule03_mounts_do_not_cross(vz: Vz, node: Node, ct: int) -> None:
    node.path("/vz/later").mkdir(exist_ok=True)
    vz.run("mount", "-t", "tmpfs", "later", f"/vz/root/{ct}/mnt")
    try:
        assert "later" not in vz("exec", ct, "cat /proc/mounts").stdout
        vz.sh(ct, "mount --make-rshared /; mount -t tmpfs inside /mnt; mount --bind /tmp /home")
        assert "inside" not in vz.run("cat", "/proc/self/mountinfo").stdout
        assert vz.run("sh", "-c", f"grep -c /vz/root/{ct} /proc/self/mountinfo").stdout == "2\n"
    finally:
        vz.run("umount", f"/vz/root/{ct}/mnt")


def test_rule03_ways_out_of_the_root_lead_nowhere(vz: Vz, node: Node, ct: int) -> None:
    """chroot and back, the new mount calls, file handles, and namespaces of others by /proc."""
    escape = give(vz, ct, "escape")
    shown = vz("exec", ct, escape).stdout
    assert shown == "done\n", shown


# rule 4


MASKED = (
    "/proc/kcore /proc/kmsg /proc/keys /proc/key-users /proc/timer_list /proc/sched_debug /proc/kpagecount "
    "/proc/kpageflags /proc/kpagecgroup /proc/vmallocinfo /proc/slabinfo /proc/sysrq-trigger /proc/acpi /proc/scsi "
    "/sys/firmware /sys/kernel"
).split()


@pytest.mark.parametrize("name", MASKED)
def test_rule04_what_is_the_hosts_is_masked(vz: Vz, ct: int, name: str) -> None:
    if not os.path.exists(name):
        pytest.skip(f"needs {name}")
    shown = vz.sh(ct, f"if [ -d {name} ]; then ls {name}; else cat {name}; fi")
    assert shown == "" or "Permission denied" in shown, shown


def test_rule04_below_the_masks_is_no_secret_and_nothing_to_write(vz: Vz, ct: int) -> None:
    """Root inside can take the masks off, or mount a proc of its own: the kernel's ownership is the wall."""
    vz.sh(
        ct, f"umount {' '.join(MASKED)} /proc/pressure; mkdir /tmp/p; mount -t proc p /tmp/p; mount -o remount,rw /sys"
    )
    for name in MASKED:
        if name.startswith("/proc/") and os.path.isfile(name) and name not in ("/proc/keys", "/proc/key-users"):
            for path in (name, f"/tmp/p{name.removeprefix('/proc')}"):
                assert vz.sh(ct, f"head -c 1 {path} 2>/dev/null") == "", path
                assert "can't create" in vz.sh(ct, f"echo b > {path}"), path
    keys = vz.sh(ct, "cat /proc/keys").splitlines()  # those of its own sessions only, which hold nothing
    assert all(line.split()[4:6] == ["3f030000", "0"] and line.endswith("_ses: empty") for line in keys), keys
    found = vz.sh(ct, f"find /sys -type f 2>/dev/null {WRITABLE}", timeout=600).splitlines()
    assert [line for line in found if "/net/" not in line and "/cgroup/" not in line] == []


def test_rule04_only_namespaced_sysctls_can_be_written(vz: Vz, ct: int) -> None:
    """In a proc that root inside has mounted itself, without any of our read-only binds."""
    vz.sh(ct, "mkdir /tmp/p; mount -t proc p /tmp/p")
    found = vz.sh(ct, f"cd /tmp/p/sys; find . -type f {WRITABLE}").split()
    kernel = {name.removeprefix("./kernel/") for name in found if name.startswith("./kernel/")}
    own = "shmmax shmall shmmni shm_rmid_forced msgmax msgmnb msgmni sem auto_msgmni hostname domainname"
    own += " msg_next_id sem_next_id shm_next_id ns_last_pid pid_max"
    assert kernel <= set(own.split()), kernel - set(own.split())
    rest = {name for name in found if not name.startswith(("./net/", "./kernel/", "./fs/mqueue/"))}
    assert rest == set()  # user/ among them: our limits


def test_rule04_writing_the_cts_own_sysctls_changes_nothing_outside(vz: Vz, ct: int) -> None:
    names = "net/ipv4/ip_forward net/ipv4/tcp_syncookies net/core/somaxconn net/ipv4/ip_unprivileged_port_start kernel/pid_max"
    before = vz.run("sh", "-c", f"cd /proc/sys; head {names}").stdout
    host = subprocess.run(["head", *names.split()], cwd="/proc/sys", capture_output=True).stdout
    for name in names.split():
        vz.sh(ct, f"echo 1000 > /proc/sys/{name}; echo 0 > /proc/sys/{name}")
    assert vz.run("sh", "-c", f"cd /proc/sys; head {names}").stdout == before
    assert subprocess.run(["head", *names.split()], cwd="/proc/sys", capture_output=True).stdout == host


@pytest.mark.parametrize("name", "kernel/core_pattern vm/drop_caches fs/file-max kernel/modprobe kernel/panic".split())
def test_rule04_the_hosts_sysctls_cannot_be_written(vz: Vz, ct: int, name: str) -> None:
    if not os.path.exists(f"/proc/sys/{name}"):
        pytest.skip(f"needs {name}")
    assert "can't create" in vz.sh(ct, f"echo x > /proc/sys/{name}")


# rule 5


def test_rule05_devices_are_the_whitelist(vz: Vz, ct: int) -> None:
    names = set(vz("exec", ct, "ls /dev").stdout.split())
    assert names == set("fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split())
    for words in ("b 8 0", "c 1 1", "b 254 0", "c 10 229", "c 1 3"):
        assert "not permitted" in vz.sh(
            ct, f"mknod /tmp/dev {words}; mount -t tmpfs -o dev t /mnt; mknod /mnt/d {words}"
        )
    assert vz("exec", ct, "echo x > /dev/null && head -c 10 /dev/urandom | wc -c").stdout == "10\n"


def test_rule05_nodes_in_the_root_itself_cannot_be_opened(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """An imported area may hold them; its file system is the node's and knows devices: the filter is what refuses."""
    ctid = new_ct(start=False)
    root = node.path(f"/vz/private/{ctid}/up/root")
    root.mkdir(exist_ok=True)
    status = os.stat(os.path.dirname(os.path.abspath(__file__)))
    os.mknod(root / "disk", 0o60666, status.st_dev)
    os.mknod(root / "mem", 0o20666, os.makedev(1, 1))
    os.mknod(root / "kmsg", 0o20666, os.makedev(1, 11))
    os.mknod(root / "zero", 0o20666, os.makedev(1, 5))
    vz.ok("start", ctid)
    for name in ("disk", "mem", "kmsg"):
        assert "not permitted" in vz.sh(ctid, f"head -c 1 /root/{name}"), name
        assert "not permitted" in vz.sh(ctid, f"echo x > /root/{name}"), name
    assert vz("exec", ctid, "head -c 3 /root/zero | wc -c").stdout == "3\n"


def test_rule05_device_nodes_of_two_cts_are_two(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """Same numbers, other files: no lock on one is seen by another CT or by the node."""
    one, two = new_ct(), new_ct()
    for ctid in (one, two):
        give(vz, ctid, "locks")
    for name in "null zero full random urandom".split():
        holding = node.popen("vzctl", "exec", str(one), f"/root/locks /dev/{name} 20", stdout=subprocess.PIPE)
        assert holding.stdout is not None and holding.stdout.readline() == b"got got got\n"
        assert vz.sh(one, f"/root/locks /dev/{name} 0") == "busy busy busy\n"
        assert vz("exec", two, f"/root/locks /dev/{name} 0").stdout == "got got got\n", name
        holding.kill()
        holding.communicate()
        vz.sh(one, "killall locks")


def test_rule05_a_loop_partition_works_in_the_one_ct_and_in_no_other(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    image = node.path("/vz/disk.img")
    with open(image, "wb") as file:
        file.truncate(4 << 20)
    device = vz.run("losetup", "-f", "--show", "/vz/disk.img").stdout.strip()
    vz.run("addpart", device, "1", "2048", "1024")  # this kernel may know no kind of partition table
    name = device.removeprefix("/dev/") + "p1"
    try:
        if not os.path.exists(f"/dev/{name}"):
            pytest.skip("needs loop partitions and devtmpfs")
        granted, other = new_ct(start=False), new_ct()
        vz.ok("set", granted, "--devnodes", f"{name}:rw", "--save")
        vz.ok("start", granted)
        assert vz("exec", granted, f"echo inside | dd of=/dev/{name} conv=fsync 2>/dev/null").returncode == 0
        with open(image, "rb") as file:
            file.seek(2048 * 512)
            assert file.read(7) == b"inside\n"
        number = os.stat(f"/dev/{name}").st_rdev
        root = node.path(f"/vz/private/{other}/up/root")
        root.mkdir(exist_ok=True)
        os.mknod(root / "part", 0o60666, number)
        assert "No such file" in vz.sh(other, f"head -c 6 /dev/{name} 2>&1") or "can't open" in vz.sh(
            other, f"cat /dev/{name}"
        )
        assert "not permitted" in vz.sh(other, "head -c 6 /root/part")
        vz.sh(granted, f"touch /root/kept; mount --bind /dev/{name} /root/kept")
        vz.ok("set", granted, "--devnodes", f"{name}:none", "--save")
        assert "No such file" in vz.sh(granted, f"head -c 6 /dev/{name}")
        assert "not permitted" in vz.sh(granted, "head -c 6 /root/kept")
        vz.ok("set", granted, "--devnodes", f"{name}:r", "--save")
        assert vz("exec", granted, f"head -c 6 /dev/{name}").stdout == "inside"
        assert "not permitted" in vz.sh(granted, f"echo x > /dev/{name}")
    finally:
        vz.run("delpart", device, "1")
        vz.run("losetup", "-d", device)


def test_rule05_a_serial_line_works_in_the_one_ct_and_in_no_other(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    if vz.run("stty", "-F", "/dev/ttyS0").returncode != 0:
        pytest.skip("needs a serial line")
    granted, other = new_ct(start=False), new_ct(start=False)
    root = node.path(f"/vz/private/{other}/up/root")
    root.mkdir(exist_ok=True)
    os.mknod(root / "line", 0o20666, os.stat("/dev/ttyS0").st_rdev)
    vz.ok("set", granted, "--devnodes", "ttyS0:rw", "--save")
    for ctid in (granted, other):
        vz.ok("start", ctid)
    assert "baud" in vz.sh(granted, "stty -F /dev/ttyS0")
    assert vz("exec", granted, "stat -c %U:%t:%T /dev/ttyS0").stdout == "root:4:40\n"
    assert "No such file" in vz.sh(other, "stty -F /dev/ttyS0")
    assert "not permitted" in vz.sh(other, "stty -F /root/line")
    vz.sh(granted, "touch /root/kept; mount --bind /dev/ttyS0 /root/kept")
    vz.ok("set", granted, "--devnodes", "ttyS0:none", "--save")
    assert "No such file" in vz.sh(granted, "stty -F /dev/ttyS0")
    assert "not permitted" in vz.sh(granted, "stty -F /root/kept")
