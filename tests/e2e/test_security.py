"""The rules of isolation, one by one, each with an attempt from inside to break it."""

from __future__ import annotations

import os
import time

import pytest

from conftest import BUSYBOX, Vz, template
from testnode import Node


@pytest.fixture
def debian(new_ct) -> int:  # type: ignore[no-untyped-def]
    return int(new_ct(template=template("debian-12")))


# identity


def test_root_inside_is_nobody_outside(vz: Vz, node: Node, ct: int) -> None:
    pid = int(node.path(f"/var/lib/vzctl/vepid/{ct}").read_text())
    text = vz.run("cat", f"/proc/{pid}/uid_map").stdout.split()
    assert text[0] == "0" and int(text[1]) >= 65536 and text[2] == "65536"
    assert os.stat(f"/proc/{pid}").st_uid == int(text[1])


def test_ranges_do_not_overlap(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    bases = set()
    for _ in range(3):
        ctid = new_ct()
        pid = node.path(f"/var/lib/vzctl/vepid/{ctid}").read_text().strip()
        bases.add(vz.run("cat", f"/proc/{pid}/uid_map").stdout.split()[1])
    assert len(bases) == 3


def test_files_keep_the_cts_own_ids_on_disk(vz: Vz, node: Node, ct: int) -> None:
    vz.sh(ct, "touch /root/f; chown 1234:65534 /root/f; cp /bin/busybox /root/suid; chmod 4755 /root/suid")
    status = os.stat(node.path(f"/vz/private/{ct}/up/root/f"))
    assert (status.st_uid, status.st_gid) == (1234, 65534)
    assert vz("exec", ct, "chown 70000 /root/f").returncode == 8
    area = os.stat(node.path(f"/vz/private/{ct}"))
    assert area.st_uid == 0 and area.st_mode & 0o777 == 0o700
    assert os.stat(node.path("/vz/template/unpacked")).st_mode & 0o777 == 0o700


def test_simfs_too(vz: Vz, node: Node, ctid: int) -> None:
    vz.ok("create", ctid, "--ostemplate", BUSYBOX, "--layout", "simfs")
    try:
        vz.ok("start", ctid)
        vz.sh(ctid, "touch /f; chown 7:8 /f")
        status = os.stat(node.path(f"/vz/private/{ctid}/f"))
        assert (status.st_uid, status.st_gid) == (7, 8)
    finally:
        vz.remove(ctid)


# start


def test_every_namespace_is_the_cts_own(vz: Vz, node: Node, ct: int) -> None:
    pid = node.path(f"/var/lib/vzctl/vepid/{ct}").read_text().strip()
    for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name


def test_no_limit_can_be_raised_from_inside(vz: Vz, node: Node, ct: int) -> None:
    listed = vz.sh(ct, "cd /sys/fs/cgroup; for f in *; do [ -f $f ] && [ -w $f ] && echo $f; done").split()
    writable = {"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}
    tried = vz.sh(
        ct,
        "echo max > /sys/fs/cgroup/pids.max; echo max > /sys/fs/cgroup/memory.max; echo 0 > /sys/fs/cgroup/cgroup.freeze",
    )
    assert tried.count("can't create") == 3, tried
    for name in listed:
        if name not in writable:
            assert "can't create" in vz.sh(ct, f"echo 1 > /sys/fs/cgroup/{name}") or "error" in vz.sh(
                ct, f"echo 1 > /sys/fs/cgroup/{name}"
            ), name
    mounts = vz("exec", ct, "cat /proc/mounts").stdout
    assert " cgroup " not in mounts.replace(" cgroup2 ", " ")
    assert "release_agent" not in vz.sh(ct, "find /sys/fs/cgroup -maxdepth 1")


@pytest.mark.parametrize(
    "name",
    "/proc/kcore /proc/kmsg /proc/keys /proc/timer_list /proc/sched_debug /proc/kpagecount /proc/vmallocinfo "
    "/proc/slabinfo /proc/sysrq-trigger /sys/firmware /sys/kernel /proc/acpi /proc/scsi".split(),
)
def test_what_is_the_hosts_is_masked(vz: Vz, ct: int, name: str) -> None:
    if not os.path.exists(name):
        return
    shown = vz.sh(ct, f"if [ -d {name} ]; then ls {name}; else cat {name}; fi")
    assert shown == "" or "Permission denied" in shown, shown


def test_what_lies_below_a_mask_is_no_secret_and_cannot_be_written(vz: Vz, ct: int) -> None:
    # root inside may unmount what was mounted in its own mount namespace; the kernel's ownership is the wall behind
    for name in (
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/timer_list",
        "/proc/vmallocinfo",
        "/proc/slabinfo",
        "/proc/sysrq-trigger",
    ):
        vz.sh(ct, f"umount {name}")
        assert vz.sh(ct, f"head -c 1 {name} 2>/dev/null") == "", name
        assert "can't create" in vz.sh(ct, f"echo b > {name}"), name
    vz.sh(ct, "umount /sys/kernel /sys/firmware; mount -o remount,rw /sys")
    script = (
        "find /sys -type f 2>/dev/null | head -20000 | while read f; do true 2>/dev/null >> $f && echo $f; done | head"
    )
    assert [line for line in vz.sh(ct, script).splitlines() if "/net/" not in line and "/cgroup/" not in line] == []


@pytest.mark.parametrize(
    "name", "kernel/shmmax kernel/shmall kernel/msgmni kernel/sem net/ipv4/tcp_rmem user/max_inotify_watches".split()
)
def test_limits_in_proc_sys_are_read_only(vz: Vz, ct: int, name: str) -> None:
    if os.path.exists(f"/proc/sys/{name}"):
        assert "Read-only" in vz.sh(ct, f"echo 1 > /proc/sys/{name}")


def test_the_hosts_sysctls_cannot_be_written(vz: Vz, ct: int) -> None:
    for name in ("kernel/core_pattern", "vm/drop_caches", "fs/file-max", "kernel/modprobe", "kernel/panic"):
        if os.path.exists(f"/proc/sys/{name}"):
            assert "can't create" in vz.sh(ct, f"echo x > /proc/sys/{name}"), name


def test_devices_are_the_whitelist(vz: Vz, ct: int) -> None:
    names = set(vz("exec", ct, "ls /dev").stdout.split())
    assert names == {
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    }
    for node_words in ("b 8 0", "c 1 1", "b 254 0", "c 10 229"):
        assert "not permitted" in vz.sh(ct, f"mknod /tmp/dev {node_words}")
    assert vz("exec", ct, "echo x > /dev/null && head -c 10 /dev/urandom | wc -c").stdout == "10\n"


def test_a_granted_device_works_in_one_ct_and_in_no_other(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    image = node.path("/vz/disk.img")
    with open(image, "wb") as file:
        file.write(b"loop data".ljust(1 << 20, b"\0"))
    device = vz.run("losetup", "-f", "--show", "/vz/disk.img").stdout.strip()
    assert device.startswith("/dev/loop")
    name = device.removeprefix("/dev/")
    try:
        granted, other = new_ct(start=False), new_ct()
        vz.ok("set", granted, "--devnodes", f"{name}:r", "--save")
        vz.ok("start", granted)
        assert vz("exec", granted, f"head -c 9 /dev/{name}").stdout == "loop data"
        assert "not permitted" in vz.sh(granted, f"echo x > /dev/{name}")
        assert "No such file" in vz.sh(other, f"head -c 9 /dev/{name}") or "can't open" in vz.sh(
            other, f"head -c 9 /dev/{name}"
        )
        vz.ok("set", granted, "--devnodes", f"{name}:none", "--save")
        assert "not permitted" in vz.sh(granted, f"head -c 9 /dev/{name}")
    finally:
        vz.run("losetup", "-d", device)


CALLS = {
    "bpf": (321, 1), "perf_event_open": (298, 1), "init_module": (175, 1), "finit_module": (313, 1), "kexec_load": (246, 1),
    "open_by_handle_at": (304, 1), "keyctl": (250, 38), "add_key": (248, 38), "request_key": (249, 38), "userfaultfd": (323, 38),
    "io_uring_setup": (425, 38), "fanotify_init": (300, 38), "clock_settime": (227, 1), "settimeofday": (164, 1), "swapon": (167, 1),
    "acct": (163, 1), "syslog": (103, 1), "quotactl": (179, 38), "clone3": (435, 38),
}  # fmt: skip


def test_system_calls_that_reach_outside_are_refused(vz: Vz, debian: int) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86_64 system call numbers")
    for name, (number, errno) in CALLS.items():
        script = f"perl -e '$r = syscall({number}, 0, 0, 0, 0, 0); printf \"%d %d\", $r, $!+0'"
        assert vz("exec", debian, script).stdout == f"-1 {errno}", name
    # AF_VSOCK, TIOCSTI, nested user and pid namespaces
    for script, errno in (
        ("$r = syscall(41, 40, 1, 0)", 97),
        ("$r = syscall(16, 0, 0x5412, 0)", 1),
        ("$r = syscall(272, 0x10000000)", 1),
        ("$r = syscall(272, 0x20000000)", 1),
        ("$r = syscall(56, 0x20000000 | 17, 0, 0, 0, 0)", 1),
    ):
        assert vz("exec", debian, f"perl -e '{script}; printf \"%d %d\", $r, $!+0'").stdout == f"-1 {errno}", script


def test_the_filter_is_on_init_and_on_every_exec(vz: Vz, ct: int) -> None:
    for pid in ("1", "self"):
        assert "Seccomp:\t2" in vz("exec", ct, f"cat /proc/{pid}/status").stdout


def test_capabilities_that_reach_outside_are_gone(vz: Vz, ct: int) -> None:
    for pid in ("1", "self"):
        words = dict(
            line.split(":\t", 1)
            for line in vz("exec", ct, f"cat /proc/{pid}/status").stdout.splitlines()
            if ":\t" in line
        )
        bounding = int(words["CapBnd"], 16)
        for number in (16, 17, 25, 30, 32, 33, 34, 35, 36, 38, 39, 40):
            assert not bounding & (1 << number), (pid, number)
            assert not int(words["CapEff"], 16) & (1 << number)


@pytest.mark.parametrize("name", ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/etc/inittab"])
def test_links_planted_in_the_root_lead_nowhere(vz: Vz, node: Node, new_ct, name: str) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--hostname", "h.example.com", "--nameserver", "192.0.2.9", "--ipadd", "192.0.2.40", start=False)
    victim = node.path("/vz/victim")
    victim.write_text("untouched")
    vz.ok("mount", ctid)
    vz.ok("umount", ctid)
    upper = node.path(f"/vz/private/{ctid}/up/etc")
    upper.mkdir(exist_ok=True)
    (node.path(f"/vz/private/{ctid}/up") / name[1:]).symlink_to("/../../../../../../../vz/victim")
    vz.ok("start", ctid)
    assert victim.read_text() == "untouched"


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "run"])
def test_mount_points_replaced_by_links_lead_nowhere(vz: Vz, node: Node, new_ct, name: str) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(start=False)
    target = node.path("/vz/victim.d")
    target.mkdir(exist_ok=True)
    upper = node.path(f"/vz/private/{ctid}/up")
    (upper / name).symlink_to("/vz/victim.d")
    done = vz("start", ctid)
    assert list(target.iterdir()) == []
    assert done.returncode in (0, 7)
    if done.returncode == 0:
        assert vz("exec", ctid, "true").returncode == 0


def test_fifos_and_odd_files_do_not_hold_up_a_start(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--hostname", "h.example.com", "--nameserver", "192.0.2.9", start=False)
    upper = node.path(f"/vz/private/{ctid}/up/etc")
    upper.mkdir(exist_ok=True)
    os.mkfifo(upper / "hosts")
    (upper / "resolv.conf").mkdir()
    (upper / "inittab").write_bytes(b"\xff\xfe::sysinit:/bin/true\n" * 3)
    assert vz("start", ctid, timeout=20).returncode == 0


# exec


def test_exec_joins_every_namespace_and_cgroup(vz: Vz, node: Node, ct: int) -> None:
    pid = node.path(f"/var/lib/vzctl/vepid/{ct}").read_text().strip()
    inside = vz(
        "exec", ct, "for n in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done"
    ).stdout.split()
    assert inside == [os.readlink(f"/proc/{pid}/ns/{n}") for n in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")]
    lines = vz("exec", ct, "cat /proc/self/cgroup").stdout.splitlines()
    assert all(line.split(":", 2)[2] in ("/", "/vz-exec") for line in lines), lines


def test_nothing_of_the_operator_is_left_in_an_exec(vz: Vz, ct: int) -> None:
    opened = vz("exec", ct, "ls -l /proc/self/fd").stdout
    assert "/vz/" not in opened and "/dev/pts" not in opened
    assert len([line for line in opened.splitlines() if "->" in line]) <= 4
    assert vz("exec", ct, "readlink /proc/self/cwd").stdout == "/\n"


def test_the_joining_process_gives_no_way_to_the_hosts_interpreter(vz: Vz, node: Node, ct: int) -> None:
    # a shell that is a link to /proc/self/exe, and a watcher that opens every /proc/PID/exe for writing
    vz.sh(
        ct,
        "(for i in $(seq 300); do for p in /proc/[0-9]*; do (echo x >> $p/exe) 2>/dev/null && echo $p $(readlink $p/exe) >> /tmp/broken; done; done) >/dev/null 2>&1 &",
    )
    for _ in range(10):
        vz("exec", ct, "true")
    python = os.path.realpath("/usr/bin/python3")
    assert "python" not in vz.sh(ct, "cat /tmp/broken 2>/dev/null")
    with open(python, "rb") as file:
        assert file.read(4) == b"\x7fELF"


# resources


def test_a_fork_bomb_stays_inside(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--numproc", "50")
    vz.sh(ctid, "(b() { b | b & }; b) >/dev/null 2>&1; sleep 1", timeout=30)
    held = int(vz.run("vzlist", "-H", "-o", "numproc", ctid).stdout)
    assert held <= 50
    assert vz("stop", ctid, "--fast", timeout=30).returncode == 0


def test_locks_and_ipc_of_two_cts_never_meet(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    debian = template("debian-12")
    one, two = new_ct(template=debian), new_ct(template=debian)
    hold = 'perl -e \'use Fcntl qw(:flock); open(F, ">>", "/etc/issue"); print flock(F, LOCK_EX|LOCK_NB) ? "got" : "busy"; close(STDOUT); sleep 5\''
    assert vz("exec", one, f"{hold} & sleep 0.5").stdout.startswith("got")
    assert vz("exec", two, hold.replace("sleep 5", "sleep 0")).stdout == "got"
    make = 'perl -e \'print defined(shmget(4711, 4096, 0666|01000)) ? "made" : "no"\''
    find = 'perl -e \'print defined(shmget(4711, 4096, 0)) ? "found" : "none"\''
    assert vz("exec", one, make).stdout == "made"
    assert vz("exec", one, find).stdout == "found"
    assert vz("exec", two, find).stdout == "none"


def test_a_page_of_libc_is_in_memory_once(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """Twenty CTs of one template, by the page frames that /proc/PID/pagemap has for the code of libc in their init."""
    debian = template("debian-12")
    seen = [code_frames(vz, node, new_ct(template=debian)) for _ in range(20)]
    shared = set(seen[0]).intersection(*seen)
    assert len(shared) > 10
    for index in shared:
        assert len({frames[index] for frames in seen}) == 1


def code_frames(vz: Vz, node: Node, ctid: int) -> dict[int, int]:
    """Return {page of libc's code: page frame number} of a CT's init, which is given time to use libc."""
    pid = node.path(f"/var/lib/vzctl/vepid/{ctid}").read_text().strip()
    found: dict[int, int] = {}
    for _ in range(200):
        lines = vz.run("cat", f"/proc/{pid}/maps").stdout.splitlines()
        ranges = [line.split()[0] for line in lines if "r-xp" in line and "libc.so.6" in line]
        if ranges:
            first, last = (int(word, 16) // 4096 for word in ranges[0].split("-"))
            with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
                pagemap.seek(first * 8)
                entries = memoryview(pagemap.read((last - first) * 8)).cast("Q")
            present = {index: entry & ((1 << 55) - 1) for index, entry in enumerate(entries) if entry >> 63}
            if present and not any(present.values()):
                pytest.skip("needs CAP_SYS_ADMIN in the first user namespace to read page frame numbers")
            if len(present) > len(found):
                found = present
            elif len(found) > 50:
                return found
        time.sleep(0.05)
    return found
