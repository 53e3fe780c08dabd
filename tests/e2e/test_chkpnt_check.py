"""What cannot be dumped is named before anything is frozen: by process, by file, with the way out."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from conftest import Vz, cgroup_dirs, template
from netns import wait_until
from vz.kernel import namespaces
from vz.ops.systemd import pidfds_have_inodes

libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"


def call(result: int) -> int:
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


@pytest.fixture
def planted(vz: Vz, new_ct) -> Iterator[Callable[..., int]]:  # type: ignore[no-untyped-def]
    """Return what starts a CT and in it, as a child of its init, a process that made something the filter forbids."""
    made: list[int] = []

    def plant(before: Callable[[], object], inside: Callable[[], object] = lambda: None) -> int:
        ctid: int = new_ct()
        init = int(vz.run("cat", f"/var/lib/vzctl/vepid/{ctid}").stdout)
        group = next(
            top / str(ctid) / "ct" for top in cgroup_dirs(vz.node.cgroup_parent) if (top / str(ctid) / "ct").exists()
        )
        news, teller = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(news)
                kept = before()
                (group / "cgroup.procs").write_text(str(os.getpid()))
                pidfd = os.pidfd_open(init)
                namespaces.setns(pidfd, namespaces.ALL_NAMESPACES)
                os.close(pidfd)
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
                call(libc.prctl(4, 1))  # or nothing inside may trace it
                os.chdir("/")
                if os.fork() == 0:
                    os.setsid()
                    kept = kept, inside()
                    libc.prctl(15, b"planted")
                    os.write(teller, b"ok")
                    time.sleep(600)
            except BaseException as exc:
                os.write(teller, f"{type(exc).__name__}: {exc}".encode())
            os._exit(0)
        os.close(teller)
        said = os.read(news, 1000).decode()
        os.close(news)
        os.waitpid(pid, 0)
        made.append(ctid)
        if said != "ok":
            pytest.skip(f"this kernel does not make one: {said}")
        return ctid

    yield plant


def named(vz: Vz, ctid: int, *words: str) -> None:
    """Both check and chkpnt must name it; the CT runs on, and is not even frozen for it."""
    shown = vz("check", ctid)
    assert shown.returncode == 16, shown
    lines = shown.stdout.splitlines()
    assert any(all(word in line for word in words) for line in lines), lines
    done = vz("chkpnt", ctid)
    assert done.returncode == 16
    assert all(line in done.stderr for line in lines), done.stderr
    assert "suspend..." not in done.stdout
    assert vz("exec", ctid, "true").returncode == 0
    assert vz.run("sh", "-c", f"ls /vz/dump/Dump.{ctid}*").returncode


def test_a_ct_that_can_be_dumped(vz: Vz, ct: int) -> None:
    done = vz("check", ct)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"Container {ct} can be checkpointed\n", "")
    vz.ok("stop", ct, "--fast")
    assert vz("check", ct).returncode == 31


@pytest.mark.skipif(not pidfds_have_inodes(), reason="this kernel's pidfds have no inodes of their own (Linux 6.9)")
def test_a_systemd_that_notices_a_restore(vz: Vz, ct: int) -> None:
    vz.sh(ct, "mkdir -p /usr/lib/systemd && touch /usr/lib/systemd/libsystemd-shared-259.so")
    done = vz("check", ct)
    assert done.returncode == 0
    assert "Warning: systemd 259 in the container knows its services by pidfds" in done.stdout
    done = vz("chkpnt", ct)
    assert (done.returncode, "WARNING: systemd 259" in done.stderr) == (0, True)


def test_io_uring(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]
    ctid = planted(lambda: call(libc.syscall(425, 4, ctypes.create_string_buffer(120))))
    named(vz, ctid, "process planted", "uses io_uring", "AIO")


def test_bpf(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]
    attributes = ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 8, 1), 64)
    ctid = planted(lambda: call(libc.syscall(321 if X86 else 280, 0, attributes, 64)))
    named(vz, ctid, "process planted", "a BPF program or map")


def test_userfaultfd(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]
    ctid = planted(lambda: call(libc.syscall(323 if X86 else 282, 1)))
    named(vz, ctid, "process planted", "uses userfaultfd")


def test_fanotify(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]
    ctid = planted(lambda: call(libc.fanotify_init(0, 0)))
    named(vz, ctid, "process planted", "fanotify")


def test_a_socket_of_a_kind_that_is_not_carried(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]
    ctid = planted(lambda: call(libc.socket(2, 1, 262)))
    named(vz, ctid, "process planted", "a Multipath TCP socket")


def test_a_device(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]
    path = "/dev/fuse" if os.path.exists("/dev/fuse") else "/dev/loop-control"
    ctid = planted(lambda: os.open(path, os.O_RDWR))
    named(vz, ctid, "process planted", "has device /dev/")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (0x20000000, "in a pid namespace of its own"),
        (0x04000000, "has a host name of its own"),
        (0x08000000, "has an ipc namespace of its own"),
        (0x10000000, "in a user namespace of its own"),
        (0x00000080, "has clocks of its own"),
    ],
)
def test_nested_namespaces(vz: Vz, planted, flag: int, words: str) -> None:  # type: ignore[no-untyped-def]
    def unshare() -> None:
        call(libc.unshare(flag))
        if flag in (0x20000000, 0x80):  # of the children only
            if os.fork():
                time.sleep(600)

    ctid = planted(lambda: None, unshare)
    named(vz, ctid, "process planted", words, "nesting:off")


def test_a_debugger(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]
    def trace() -> None:
        pid = os.fork()
        if pid == 0:
            libc.prctl(15, b"traced")
            time.sleep(600)
        time.sleep(0.1)
        call(libc.ptrace(0x4206, pid, 0, 0))  # PTRACE_SEIZE

    ctid = planted(lambda: None, trace)
    named(vz, ctid, "process traced", "is traced by process planted", "detach the debugger")


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    call(libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode()))


def test_an_overlay_inside(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]
    def make() -> None:
        for name in "luwm":
            os.makedirs(f"/run/o/{name}")
        mount("x", "/run/o/m", "overlay", "lowerdir=/run/o/l,upperdir=/run/o/u,workdir=/run/o/w")

    ctid = planted(lambda: None, make)
    named(vz, ctid, "overlay on /run/o/m", "container engine")


def test_message_queues(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]
    def make() -> int:
        return call(ctypes.CDLL("librt.so.1", use_errno=True).mq_open(b"/jobs", os.O_CREAT | os.O_RDWR, 0o600, None))

    ctypes.CDLL("librt.so.1")  # before the CT's root is there
    ctid = planted(lambda: None, make)
    named(vz, ctid, "POSIX message queue /jobs", "remove it")


def test_what_was_brought_in_would_be_lost(vz: Vz, ct: int) -> None:
    session = vz.node.popen("vzctl", "exec", str(ct), "sleep 600", stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while "sleep" not in vz.sh(ct, "cat /proc/[0-9]*/comm"):
            assert time.monotonic() < deadline
        named(vz, ct, "process sleep", "vzctl exec", "would be lost")
    finally:
        vz.sh(ct, "killall sleep")
        session.wait(timeout=20)
    vz.ok("check", ct)
    # what an exec has left behind belongs to init
    vz.ok("exec", ct, "(sleep 500 &) </dev/null >/dev/null 2>&1")
    vz.ok("chkpnt", ct)
    vz.ok("restore", ct)
    assert "sleep" in vz.sh(ct, "cat /proc/[0-9]*/comm")


def test_what_is_exec_ed_after_a_restore_can_be_dumped_again(vz: Vz, ct: int) -> None:
    vz.ok("chkpnt", ct)
    vz.ok("restore", ct)  # the CT has clocks of its own now, which an exec must join
    vz.ok("exec", ct, "(sleep 500 &) </dev/null >/dev/null 2>&1")
    vz.ok("check", ct)
    vz.ok("chkpnt", ct)
    vz.ok("restore", ct)
    assert "sleep" in vz.sh(ct, "cat /proc/[0-9]*/comm")


def test_a_dump_that_does_not_fit(vz: Vz, ct: int) -> None:
    vz.sh(ct, "dd if=/dev/zero of=/dev/shm/much bs=1M count=24 2>/dev/null")
    vz.sh(ct, "(tail /dev/zero -c 20000000 | sleep 600 &) </dev/null >/dev/null 2>&1")
    time.sleep(0.3)
    vz.run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", "/mnt")
    try:
        done = vz("chkpnt", ct, "--dumpfile", "/mnt/x")
    finally:
        vz.run("umount", "/mnt")
    assert done.returncode == 16
    assert "/mnt has 4 MB free, at least" in done.stderr or "/mnt has 3 MB free, at least" in done.stderr, done


def test_a_program_that_criu_calls(vz: Vz, ct: int) -> None:
    tar = os.path.realpath("/usr/bin/tar")
    assert vz.run("mount", "--bind", "/dev/null", tar).returncode == 0
    try:
        named(vz, ct, "tar is not installed", "criu needs it")
    finally:
        vz.run("umount", tar)


def test_a_file_on_a_mount_that_has_gone(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    """A session that is older than its logind holds a file on a mount of the former one."""
    ctid = new_ct(template=template("debian-13"), start=False)
    vz.ok("start", ctid, "--wait")
    vz.sh(ctid, "systemd-run -q --unit=session su -l root -c 'exec sleep 1000'")
    session = "ls -l /proc/$(pidof su)/fd | grep -F .ref"
    assert wait_until(lambda: vz("exec", ctid, session).returncode == 0)
    assert vz("check", ctid).returncode == 0
    vz.sh(ctid, "systemctl restart systemd-logind")
    done = vz("check", ctid)
    assert done.returncode == 16 and "on a mount that has gone" in done.stdout, done
    assert re.search(r"process su .* has /c\d+\.ref open", done.stdout), done
    assert vz("chkpnt", ctid).returncode == 16
    vz.sh(ctid, "systemctl stop session user@0")
    assert vz("check", ctid).returncode == 0
    vz.ok("chkpnt", ctid)
