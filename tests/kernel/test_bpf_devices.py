"""vz.kernel.bpf: the device filter as the kernel runs it, on a cgroup2 directory with or without controllers."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

import pytest

from vz.kernel import bpf, cgroup
from vz.kernel.bpf import ACC_MKNOD, ACC_READ, ACC_WRITE, DEV_BLOCK, DEV_CHAR, DeviceRule

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NULL, ZERO, FULL = (1, 3), (1, 5), (1, 7)


@pytest.fixture
def group() -> Iterator[str]:
    unified = cgroup.hierarchies().unified
    if not unified:
        pytest.skip("needs cgroup2")
    path = f"{unified}/vz/test-bpf-{os.getpid()}"
    os.makedirs(path)
    yield path
    cgroup.remove(path)


def put(group: str, *rules: DeviceRule) -> None:
    fd = bpf.load(bpf.device_program(list(rules)))
    try:
        bpf.attach(fd, group)
    finally:
        os.close(fd)


def access(group: str, path: str, flags: int) -> int:
    """Open *path* in a process of *group*; the errno, 0 for success."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            cgroup.write(group, "cgroup.procs", 0)
            os.open(path, flags)
            status = 0
        except OSError as exc:
            status = exc.errno or 254
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def mknod(group: str, path: str, kind: int, device: tuple[int, int]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            cgroup.write(group, "cgroup.procs", 0)
            os.mknod(path, kind | 0o600, os.makedev(*device))
            status = 0
        except OSError as exc:
            status = exc.errno or 254
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_no_rule_refuses_everything(group: str) -> None:
    assert access(group, "/dev/null", os.O_RDONLY) == 0
    put(group)
    assert access(group, "/dev/null", os.O_RDONLY) == errno.EPERM


def test_access_is_allowed_only_whole(group: str) -> None:
    put(group, DeviceRule(DEV_CHAR, *NULL, ACC_READ), DeviceRule(DEV_CHAR, *ZERO, ACC_READ | ACC_WRITE))
    assert access(group, "/dev/null", os.O_RDONLY) == 0
    assert access(group, "/dev/null", os.O_WRONLY) == errno.EPERM
    assert access(group, "/dev/null", os.O_RDWR) == errno.EPERM
    assert access(group, "/dev/zero", os.O_RDWR) == 0
    assert access(group, "/dev/full", os.O_RDONLY) == errno.EPERM


def test_all_minors_of_one_major_and_no_other_kind(group: str) -> None:
    put(group, DeviceRule(DEV_CHAR, 1, None, ACC_READ))
    assert access(group, "/dev/full", os.O_RDONLY) == 0
    assert access(group, "/dev/tty", os.O_RDONLY) == errno.EPERM
    put(group, DeviceRule(DEV_BLOCK, 1, None, ACC_READ))
    assert access(group, "/dev/full", os.O_RDONLY) == errno.EPERM


def test_mknod_needs_its_own_bit(group: str) -> None:
    path = f"/dev/vz-test-{os.getpid()}"
    put(group, DeviceRule(DEV_CHAR, *NULL, ACC_READ | ACC_WRITE | ACC_MKNOD), DeviceRule(DEV_CHAR, *ZERO, ACC_READ))
    try:
        assert mknod(group, path, stat.S_IFCHR, NULL) == 0
        os.unlink(path)
        assert mknod(group, path, stat.S_IFCHR, ZERO) == errno.EPERM
        assert mknod(group, path, stat.S_IFBLK, NULL) == errno.EPERM
    finally:
        if os.path.exists(path):
            os.unlink(path)


def test_a_new_filter_takes_the_old_ones_place(group: str) -> None:
    put(group, DeviceRule(DEV_CHAR, *NULL, ACC_READ))
    put(group, DeviceRule(DEV_CHAR, *ZERO, ACC_READ))
    assert access(group, "/dev/null", os.O_RDONLY) == errno.EPERM
    assert access(group, "/dev/zero", os.O_RDONLY) == 0


def test_a_group_below_cannot_widen_it(group: str) -> None:
    put(group, DeviceRule(DEV_CHAR, *NULL, ACC_READ))
    below = f"{group}/below"
    os.mkdir(below)
    put(below, DeviceRule(DEV_CHAR, 1, None, ACC_READ | ACC_WRITE))
    assert access(below, "/dev/zero", os.O_RDONLY) == errno.EPERM
    assert access(below, "/dev/null", os.O_RDONLY) == 0


def test_hundreds_of_rules_load(group: str) -> None:
    rules = [DeviceRule(DEV_BLOCK, 4095, minor, ACC_READ) for minor in range(1_048_575, 1_048_175, -1)]
    put(group, *rules, DeviceRule(DEV_CHAR, *NULL, ACC_READ))
    assert access(group, "/dev/null", os.O_RDONLY) == 0
    assert access(group, "/dev/zero", os.O_RDONLY) == errno.EPERM


def test_a_signal_while_it_loads_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives up with EAGAIN then."""
    tries: list[int] = []
    whole = bpf.call

    def call(command: int, attr: bytes, name: str) -> int:
        tries.append(command)
        if len(tries) < 3:
            raise BlockingIOError(errno.EAGAIN, name)
        return whole(command, attr, name)

    monkeypatch.setattr(bpf, "call", call)
    os.close(bpf.load(bpf.device_program([])))
    assert len(tries) == 3
