"""Rules 6 and 7 of the isolation rules: system calls and capabilities, of init and of every process that comes in."""

from __future__ import annotations

import errno
import os
import re

import pytest

from conftest import MACHINE, Vz
from probes import give

EPERM, ENOSYS, EAFNOSUPPORT, EOPNOTSUPP = errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EOPNOTSUPP
REFUSED = {
    EPERM: "init_module finit_module delete_module kexec_load kexec_file_load open_by_handle_at bpf perf_event_open "
    "clock_settime clock_settime64 clock_adjtime clock_adjtime64 settimeofday stime swapon swapoff acct syslog iopl ioperm",
    ENOSYS: "add_key request_key keyctl userfaultfd io_uring_setup io_uring_enter io_uring_register fanotify_init "
    "quotactl quotactl_fd file_setattr clone3",
}
HEADERS = {
    "x86_64": {"native": "x86_64-linux-gnu/asm/unistd_64.h", "i386": "x86_64-linux-gnu/asm/unistd_32.h"},
    "aarch64": {"native": "asm-generic/unistd.h"},
}[MACHINE]
LATER = {"quotactl_fd": 443, "file_setattr": 469}  # newer than some headers
NEWUSER, NEWPID, NEWNET, NEWUTS, NEWIPC, NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x4000000, 0x8000000, 0x80


def numbers(abi: str) -> dict[str, int]:
    """Return {name: number} of an ABI's system calls, from the C library's headers."""
    path = f"/usr/include/{HEADERS[abi]}"
    if not os.path.exists(path):
        pytest.skip("needs linux-libc-dev")
    with open(path) as file:
        found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", file.read())
    return {**LATER, **{name: int(number) for name, number in found}}


@pytest.fixture
def call(vz: Vz, ct: int):  # type: ignore[no-untyped-def]
    calls = give(vz, ct, "calls")

    def make(*words: object) -> str:
        return vz("exec2", ct, f"{calls} {' '.join(map(str, words))}").stdout.strip()

    return make


@pytest.mark.parametrize("abi", HEADERS)
def test_rule06_system_calls_that_reach_outside_are_refused(vz: Vz, ct: int, abi: str) -> None:
    """Each by its number, in both instruction sets of the machine."""
    calls, known = give(vz, ct, "calls"), numbers(abi)
    wanted, script = {}, ""
    for code, names in REFUSED.items():
        for name in names.split():
            if name in known:
                wanted[name] = f"-1 {code}"
                script += f"echo {name} $({calls} {abi} {known[name]} 0 0 0 0 0)\n"
    got = dict(line.split(" ", 1) for line in vz.sh(ct, script).splitlines())
    assert len(got) >= 25
    assert got == wanted


@pytest.mark.parametrize("abi", HEADERS)
def test_rule06_arguments_that_reach_outside_are_refused(vz: Vz, call, abi: str) -> None:  # type: ignore[no-untyped-def]
    known = numbers(abi)
    high = 1 << 32 if abi == "native" else 0  # what the kernel ignores must not hide anything
    for words, code in (
        ((known["socket"], 40 + high, 1, 0), EAFNOSUPPORT),
        ((known["ioctl"], 0, 0x5412 + high, 0), EPERM),
        ((known["ioctl"], 0, 0x541C + high, 0), EPERM),
        ((known["ioctl"], 0, 0x40086602 + high, 0), EOPNOTSUPP),
        ((known["ioctl"], 0, 0x401C5820 + high, 0), EOPNOTSUPP),
        ((known["unshare"], NEWUSER), EPERM),
        ((known["unshare"], NEWPID), EPERM),
        ((known["unshare"], NEWUTS | NEWNET), EPERM),
        ((known["unshare"], NEWIPC), EPERM),
        ((known["unshare"], NEWTIME), EPERM),
        ((known["clone"], NEWUSER | 17, 0, 0, 0, 0), EPERM),
        ((known["clone"], NEWPID | 17, 0, 0, 0, 0), EPERM),
    ):
        assert call(abi, *words) == f"-1 {code}", words
    assert call(abi, known["socket"], 2, 1, 0).endswith(" 0")  # and nothing else
    assert call(abi, known["unshare"], NEWNET) == "0 0"


@pytest.mark.skipif(MACHINE != "x86_64", reason="needs x86_64")
def test_rule06_no_socket_of_the_hypervisor_by_socketcall(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    """i386 has a second way to make sockets, whose arguments no filter can see."""
    ctid = new_ct()
    calls = give(vz, ctid, "calls")
    make = {40: f"{calls} i386 102 1 @40,1,0", 2: f"{calls} i386 102 1 @2,1,0"}
    assert vz("exec2", ctid, make[40]).stdout == f"-1 {EAFNOSUPPORT}\n"
    assert vz("exec2", ctid, f"{calls} i386 102 8 @40,1,0,@0,0").stdout.startswith("-1 ")
    vz.ok("set", ctid, "--features", "compat32:on", "--save", "--setmode", "restart")
    assert vz("exec2", ctid, make[2]).stdout.endswith(" 0\n")  # what 32-bit programs need; vzctl(8) says what it costs


@pytest.mark.skipif(MACHINE != "x86_64", reason="needs x86_64")
def test_rule06_other_call_numbers_are_no_way_round(call) -> None:  # type: ignore[no-untyped-def]
    for number in (321, 41, 250, 0):
        assert call("x32", number, 40, 1, 0) == f"-1 {ENOSYS}", number
    assert call("native", 0xFFFFFFFF, 0) == f"-1 {ENOSYS}"


def test_rule06_the_filter_is_on_init_and_on_whatever_comes_in(vz: Vz, ct: int) -> None:
    shown = vz("exec", ct, "cat /proc/1/status").stdout
    shown += vz("exec", ct, "cat /proc/self/status").stdout + vz("exec3", ct, "/bin/cat", "/proc/self/status").stdout
    shown += vz("enter", ct, "--exec", "cat /proc/self/status; exit").stdout
    shown += vz("runscript", ct, "/dev/stdin", stdin="cat /proc/self/status").stdout
    assert shown.count("Seccomp:\t2") == 5
    assert shown.count("Seccomp_filters:\t1") in (5, 0)


def test_rule06_nesting_lifts_the_namespaces_and_no_more(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--features", "nesting:on")
    calls, known = give(vz, ctid, "calls"), numbers("native")
    assert vz("exec2", ctid, f"{calls} native {known['unshare']} {NEWUSER | NEWPID | NEWUTS}").stdout == "0 0\n"
    for name in ("bpf", "keyctl", "io_uring_setup", "open_by_handle_at"):
        assert vz("exec2", ctid, f"{calls} native {known[name]}").stdout.startswith("-1 "), name
    # a user namespace of its own gives it nothing that the CT has not
    inner = "unshare -Ur sh -c 'mount -t proc p /mnt; echo x > /proc/sys/kernel/core_pattern; mknod /tmp/n c 1 1; echo 99999999 > /proc/sys/user/max_inotify_instances'"
    shown = vz.sh(ctid, inner)
    assert shown.count("ermi") + shown.count("can't create") >= 2, shown


def test_rule06_a_feature_that_is_not_there_is_refused(vz: Vz, ct: int) -> None:
    done = vz("set", ct, "--features", "userns:off", "--save")
    assert done.returncode != 0 and "every container has a user namespace" in done.stderr


GONE = {
    "sys_module": 16, "sys_rawio": 17, "sys_resource": 24, "sys_time": 25, "audit_control": 30, "mac_override": 32,
    "mac_admin": 33, "syslog": 34, "wake_alarm": 35, "block_suspend": 36, "perfmon": 38, "bpf": 39, "checkpoint_restore": 40,
}  # fmt: skip


def capability_sets(text: str) -> dict[str, int]:
    return {name: int(value, 16) for name, value in re.findall(r"Cap(\w+):\t([0-9a-f]+)", text)}


def test_rule07_capabilities_that_reach_outside_are_gone(vz: Vz, ct: int) -> None:
    texts = [vz("exec", ct, f"cat /proc/{pid}/status").stdout for pid in ("1", "self")]
    texts.append(vz("enter", ct, "--exec", "cat /proc/self/status; exit").stdout.replace("\r", ""))
    for text in texts:
        sets = capability_sets(text)
        for name, number in GONE.items():
            for which in ("Bnd", "Eff", "Prm", "Inh", "Amb"):
                assert not sets[which] >> number & 1, (name, which)
        assert sets["Eff"] == sets["Bnd"] != 0


def test_rule07_capability_changes_the_set(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--capability", "net_admin:off", "--capability", "sys_resource:on")
    for pid in ("1", "self"):
        bounding = capability_sets(vz("exec", ctid, f"cat /proc/{pid}/status").stdout)["Bnd"]
        assert not bounding >> 12 & 1 and bounding >> 24 & 1, pid
    assert "not permitted" in vz.sh(ctid, "ip link set lo down")
    done = vz("set", ctid, "--capability", "sys_module:on", "--save")
    assert done.returncode != 0 and "SYS_MODULE" in done.stderr


def test_rule07_a_capability_of_the_ct_is_none_of_the_node(vz: Vz, ct: int) -> None:
    """What the set still holds counts for what the CT's user namespace owns."""
    for script, word in (
        ("chroot / true && date -s 2030-01-01", "can't set date"),
        ("hwclock -w", "can't open"),
        ("mknod /tmp/x c 1 1", "not permitted"),
        ("chown 0:0 /proc/sys/kernel/panic", "not permitted"),
        ("dmesg", "not permitted"),
        ("swapon /tmp", "not permitted"),
        ("insmod /tmp/x.ko", "can't"),
        ("chattr +i /tmp", "not supported"),
    ):
        shown = vz.sh(ct, script)
        assert word in shown or "ermission" in shown or "applet not found" in shown or "not found" in shown, (
            script,
            shown,
        )
