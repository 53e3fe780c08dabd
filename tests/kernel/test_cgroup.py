"""vz.kernel.cgroup against /proc and the file system itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from vz.kernel import cgroup

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
50 31 0:33 /docker/abc /mnt/part rw - cgroup cgroup rw,memory
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:33 / /sys/fs/cgroup/mem\\040ory rw,relatime - cgroup cgroup rw,memory
34 31 0:33 / /srv/second rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /nowhere/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_mounts_of_a_hybrid_host() -> None:
    found = cgroup.parse_mounts(HYBRID)
    assert found.unified == "/nowhere/unified"
    assert found.v1["cpu"] == found.v1["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert found.v1["memory"] == "/sys/fs/cgroup/mem ory"  # not the part, not the second mount
    assert found.v1_mounts == ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/mem ory", "/sys/fs/cgroup/systemd"]
    assert [found.version(name) for name in ("cpu", "io", "memory")] == [1, 0, 1]


def test_this_host_as_proc_cgroup_says() -> None:
    found = cgroup.hierarchies()
    with open("/proc/self/cgroup") as file:
        lines = [line.split(":")[:2] for line in file.read().splitlines()]
    mine = {name for number, names in lines if number != "0" for name in names.split(",")}
    assert {name for name in found.v1 if not name.startswith("name=")} <= mine
    for name in found.v1:
        assert found.version(name) in (1, 2)


@pytest.fixture
def group() -> Iterator[str]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    unified = cgroup.hierarchies().unified
    if not unified:
        pytest.skip("needs cgroup2")
    path = f"{unified}/vz/test-cgroup-{os.getpid()}"
    os.makedirs(path)
    yield path
    cgroup.remove(path)


def test_a_file_is_read_and_written(group: str) -> None:
    cgroup.write(group, "cgroup.max.depth", 7)
    assert cgroup.read(group, "cgroup.max.depth") == "7"


def test_a_refused_value_is_named(group: str) -> None:
    with pytest.raises(OSError) as caught:
        cgroup.write(group, "cgroup.max.depth", "many")
    assert caught.value.errno == errno.EINVAL
    assert "'many'" in str(caught.value)
    assert caught.value.filename == f"{group}/cgroup.max.depth"


def test_a_file_that_is_not_there_is_not_made(group: str) -> None:
    with pytest.raises(FileNotFoundError):
        cgroup.write(group, "memory.maximum", 1)


def test_making_twice_says_so(group: str) -> None:
    assert cgroup.make(f"{group}/a")
    assert not cgroup.make(f"{group}/a")


def test_removal_takes_what_is_below(group: str) -> None:
    os.makedirs(f"{group}/a/b/c")
    os.makedirs(f"{group}/d")
    cgroup.remove(group)
    assert not os.path.exists(group)
    cgroup.remove(group)


def test_removal_takes_what_is_nested_deeper_than_a_path_is_long_or_python_recurses(group: str) -> None:
    try:
        cgroup.write(group, "cgroup.max.depth", "max")
    except FileNotFoundError:
        pass
    name = "n" * 100
    fd = os.open(group, os.O_RDONLY)
    for _ in range(1500):
        try:
            os.mkdir(name, dir_fd=fd)
        except OSError as exc:
            if exc.errno != errno.EAGAIN:
                raise
            break  # a limit further up
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    cgroup.remove(group)
    assert not os.path.exists(group)


def test_removal_gives_up_where_a_process_stays(group: str) -> None:
    os.mkdir(f"{group}/a")
    pid = os.fork()
    if pid == 0:
        os.pause() if hasattr(os, "pause") else __import__("signal").pause()
        os._exit(0)
    cgroup.write(f"{group}/a", "cgroup.procs", pid)
    with pytest.raises(OSError) as caught:
        cgroup.remove(group, 0.05)
    assert caught.value.errno == errno.EBUSY
    cgroup.write(group, "cgroup.kill", 1)
    os.waitpid(pid, 0)
