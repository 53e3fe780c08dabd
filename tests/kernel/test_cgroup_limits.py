"""vz.resources on the real cgroups of this host, version 1 or 2: made, joined, limited, frozen, killed, removed."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from vz.config.conffile import ConfFile
from vz.config.ctconfig import CTConfig
from vz.config.nodeconfig import NodeConfig
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import bpf, cgroup
from vz.resources import cgroups, devices, limits, tree, usage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BASE = 1_900_000_000
PAGE = 4096
FILES = {  # what a limit is called, by version
    "pids": {1: "pids.max", 2: "pids.max"},
    "memory": {1: "memory.limit_in_bytes", 2: "memory.max"},
    "shares": {1: "cpu.shares", 2: "cpu.weight"},
}


def container(parent: str, ctid: int = 777, **values: str) -> Container:
    node = NodeConfig(ConfFile("vz.conf", f"CGROUP_PARENT={parent}\n".encode()))
    conf = CTConfig({"LOCAL_UID": str(BASE), "LOCAL_GID": str(BASE), **values}, None)
    return Container(ctid, node, conf)


def tops() -> list[str]:
    places = cgroup.hierarchies()
    return [*places.v1_mounts, *([places.unified] if places.unified else [])]


@pytest.fixture
def parent() -> Iterator[str]:
    name = f"vz/test-res-{os.getpid()}"
    yield name
    for top in tops():
        cgroup.remove(f"{top}/{name}")


@pytest.fixture
def make(parent: str) -> Iterator[Callable[..., Container]]:
    made = []

    def maker(ctid: int = 777, **values: str) -> Container:
        ct = container(parent, ctid, **values)
        made.append(ct)
        cgroups.create(ct)
        return ct

    yield maker
    for ct in made:
        cgroups.thaw(ct)
        cgroups.kill_all(ct)
        cgroups.remove(ct)


def inside(ct: Container, what: Callable[[], object]) -> int:
    """Run *what* in a child in the CT's cgroups; its true value or errno as the exit status, 0 for a false one."""
    pid = cgroups.fork_into(ct)
    if pid == 0:
        status = 255
        try:
            status = int(what() or 0)  # type: ignore[call-overload]
        except OSError as exc:
            status = exc.errno or 254
        finally:
            os._exit(status & 0xFF)
    return wait(pid)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sleeper(ct: Container, leaf: str = "") -> int:
    """Start a process in the CT that sleeps, and return its pid once it is there."""
    reader, writer = os.pipe()
    pid = cgroups.fork_into(ct, leaf)
    if pid == 0:
        try:
            os.write(writer, b".")
            time.sleep(100)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    return pid


def value(ct: Container, controller: str, what: str) -> str:
    version, path = cgroups.limit_dir(ct, controller)
    if not version:
        pytest.skip(f"needs the {controller} controller")
    return cgroup.read(path, FILES[what][version])


def test_a_process_joins_every_hierarchy(make: Callable[..., Container], parent: str) -> None:
    ct = make()
    pid = sleeper(ct)
    with open(f"/proc/{pid}/cgroup") as file:
        lines = file.read().splitlines()
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    assert f"0::/{parent}/777/ct" in lines
    assert len(lines) >= len(tops())
    for line in lines:
        number, names, path = line.split(":", 2)
        if number != "0" and any(name in cgroup.hierarchies().v1 for name in names.split(",")):
            limiting = any(name in cgroups.V1_OWN for name in names.split(","))
            assert path == (f"/{parent}/777" if limiting else f"/{parent}"), line


def test_only_the_process_files_belong_to_the_container(make: Callable[..., Container]) -> None:
    ct = make()
    top = cgroups.ct_dir(ct)
    owned = {name for name in os.listdir(f"{top}/ct") if os.stat(f"{top}/ct/{name}").st_uid == BASE}
    assert owned == {"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}
    assert os.stat(f"{top}/ct").st_uid == BASE
    assert os.stat(top).st_uid == 0
    for path in cgroups._v1_dirs(ct):
        assert {os.stat(f"{path}/{name}").st_uid for name in os.listdir(path)} == {0}


def test_limits_are_there_where_nothing_is_said(make: Callable[..., Container]) -> None:
    ct = make()
    assert value(ct, "pids", "pids") == str(limits.DEFAULT_PIDS)
    assert int(value(ct, "memory", "memory")) < os.sysconf("SC_PHYS_PAGES") * PAGE
    assert usage.cpu(ct) == (0, 1000)


def test_limits_are_what_the_configuration_says(make: Callable[..., Container]) -> None:
    ct = make(NUMPROC="40:50", PHYSPAGES="0:16384", SWAPPAGES="0:4096", CPUUNITS="2000", CPULIMIT="25")
    assert value(ct, "pids", "pids") == "50"
    assert value(ct, "memory", "memory") == str(20480 * PAGE)
    version, path = cgroups.limit_dir(ct, "memory")
    if version == 1 and os.path.exists(f"{path}/memory.memsw.limit_in_bytes"):
        assert cgroup.read(path, "memory.memsw.limit_in_bytes") == str(20480 * PAGE)
    assert usage.cpu(ct) == (25, 2000)
    assert usage.numproc_limit(ct) == 50


def test_a_fork_bomb_ends_at_numproc_and_is_counted(make: Callable[..., Container]) -> None:
    ct = make(NUMPROC="10:10")
    value(ct, "pids", "pids")

    def bomb() -> int:
        children = []
        try:
            while True:
                pid = os.fork()
                if pid == 0:
                    time.sleep(100)
                    os._exit(0)
                children.append(pid)
        except OSError as exc:
            assert exc.errno == errno.EAGAIN
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return len(children)

    assert inside(ct, bomb) == 9
    held, _, failcnt = usage.counter(ct, "numproc")
    assert (held, failcnt) == (0, 1)


def test_memory_beyond_ram_and_swap_kills_inside(make: Callable[..., Container]) -> None:
    ct = make(PHYSPAGES="0:8192", SWAPPAGES="0:2048")  # 40 MiB
    value(ct, "memory", "memory")
    assert inside(ct, lambda: len(bytearray(b"x") * (24 << 20)) != 24 << 20) == 0
    assert inside(ct, lambda: len(bytearray(b"x") * (80 << 20)) != 80 << 20) == -signal.SIGKILL
    held, maxheld, failcnt = usage.counter(ct, "physpages")
    assert held < maxheld <= 10240
    assert failcnt == 1


def test_a_memory_limit_below_what_is_used_is_refused_and_kills_nobody(make: Callable[..., Container]) -> None:
    ct = make(PHYSPAGES="0:65536", SWAPPAGES="0:0")
    before = value(ct, "memory", "memory")
    reader, writer = os.pipe()
    pid = cgroups.fork_into(ct)
    if pid == 0:
        hog = bytearray(b"x") * (64 << 20)
        os.write(writer, b".")
        time.sleep(100)
        os._exit(len(hog) & 1)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    os.close(writer)
    smaller = container(ct.node.cgroup_parent, PHYSPAGES="0:4096", SWAPPAGES="0:0")
    with pytest.raises(VzError) as caught:
        limits.apply(smaller, {"physpages"})
    assert caught.value.code == ExitCode.SETUBC_ERROR
    assert value(ct, "memory", "memory") == before
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    fits = container(ct.node.cgroup_parent, PHYSPAGES="0:32768", SWAPPAGES="0:0")
    limits.apply(fits, {"physpages"})
    assert value(ct, "memory", "memory") == str(32768 * PAGE)
    os.kill(pid, signal.SIGKILL)
    wait(pid)


def test_cpus_gives_so_many_to_see_and_to_use(make: Callable[..., Container]) -> None:
    ct = make(CPUS="1")
    if not cgroups.limit_dir(ct, "cpuset")[0]:
        pytest.skip("needs the cpuset controller")
    assert inside(ct, lambda: len(os.sched_getaffinity(0))) == 1
    limit = usage.cpu(ct)
    assert limit is not None and limit[0] == 100


def test_cpumask_says_which(make: Callable[..., Container]) -> None:
    last = max(os.sched_getaffinity(0))
    ct = make(CPUMASK=str(last))
    if not cgroups.limit_dir(ct, "cpuset")[0]:
        pytest.skip("needs the cpuset controller")
    assert inside(ct, lambda: os.sched_getaffinity(0) == {last}) == 1


def test_a_limit_that_cannot_be_set_is_an_error_and_leaves_nothing(parent: str) -> None:
    ct = container(parent, CPUMASK="4000")
    if not cgroups.limit_dir(ct, "cpuset")[0]:
        pytest.skip("needs the cpuset controller")
    with pytest.raises(VzError) as caught:
        cgroups.create(ct)
    assert caught.value.code == ExitCode.SETFSHD_ERROR
    assert not cgroups.exists(ct)
    assert [top for top in tops() if os.path.exists(f"{top}/{parent}/777")] == []


def test_a_device_is_used_only_by_whom_it_was_given_to(make: Callable[..., Container]) -> None:
    ct = make()
    other = make(778, DEVICES="c:1:11:r c:1:3:none")

    def refusals(*paths: str) -> Callable[[], int]:
        def probe() -> int:
            count = 0
            for path in paths:
                try:
                    os.close(os.open(path, os.O_RDONLY))
                except PermissionError:
                    count += 1
            return count

        return probe

    basic = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
    assert inside(ct, refusals(*basic)) == 0
    assert inside(ct, refusals("/dev/kmsg")) == 1
    assert inside(other, refusals("/dev/kmsg")) == 0
    devices.apply(container(ct.node.cgroup_parent, DEVICES="c:1:11:r"))  # and live
    assert inside(ct, refusals("/dev/kmsg")) == 0
    devices.apply(ct)
    assert inside(ct, refusals("/dev/kmsg")) == 1
    assert inside(ct, refusals(*basic)) == 0


def test_a_live_change_of_devices_never_takes_dev_null_away(make: Callable[..., Container]) -> None:
    ct = make()
    more = container(ct.node.cgroup_parent, DEVICES="c:1:11:r")
    pid = cgroups.fork_into(ct)
    if pid == 0:
        try:
            for _ in range(20000):
                os.close(os.open("/dev/null", os.O_RDONLY))
        except OSError as exc:
            os._exit(exc.errno or 1)
        os._exit(0)
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        devices.apply(more)
        devices.apply(ct)
    assert wait(pid) == 0


def test_freeze_stops_and_thaw_lets_go_on(make: Callable[..., Container]) -> None:
    ct = make()
    pid = sleeper(ct)
    cgroups.freeze(ct)
    assert cgroups.is_frozen(ct)
    assert "frozen 1" in cgroup.read(cgroups.ct_dir(ct), "cgroup.events")
    cgroups.thaw(ct)
    assert not cgroups.is_frozen(ct)
    cgroups.freeze(ct)
    cgroups.kill_all(ct)  # frozen or not
    assert wait(pid) == -signal.SIGKILL


def test_kill_reaches_processes_in_nested_groups(make: Callable[..., Container]) -> None:
    ct = make()
    first = sleeper(ct, cgroups.EXEC_LEAF)
    nested = f"{cgroups.ct_dir(ct)}/ct/a/b"
    os.makedirs(nested)
    second = sleeper(ct, cgroups.EXEC_LEAF)
    cgroup.write(nested, "cgroup.procs", second)
    cgroups.kill_all(ct)
    assert [wait(first), wait(second)] == [-signal.SIGKILL] * 2
    cgroups.remove(ct)
    assert not cgroups.exists(ct)


def test_exec_joins_where_systemd_has_made_the_top_an_inner_node(make: Callable[..., Container]) -> None:
    ct = make()
    top = f"{cgroups.ct_dir(ct)}/ct"
    enabled = cgroup.read(top, "cgroup.controllers").split()
    if enabled:
        cgroup.write(top, "cgroup.subtree_control", " ".join(f"+{name}" for name in enabled))
    pid = sleeper(ct, cgroups.EXEC_LEAF)
    with open(f"/proc/{pid}/cgroup") as file:
        assert f"0::/{ct.node.cgroup_parent}/777/ct/vz-exec" in file.read().splitlines()
    os.kill(pid, signal.SIGKILL)
    wait(pid)


def test_groups_nested_without_end_are_refused_and_removed(make: Callable[..., Container]) -> None:
    ct = make()
    fd = os.open(f"{cgroups.ct_dir(ct)}/ct", os.O_RDONLY)
    name = "n" * 200  # far beyond PATH_MAX
    depth = 0
    try:
        for depth in range(1, 10000):
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
    except OSError as exc:
        assert exc.errno == errno.EAGAIN
    os.close(fd)
    assert 32 < depth <= cgroups.MAX_DEPTH
    cgroups.remove(ct)
    assert not cgroups.exists(ct)


def test_twenty_at_once_below_a_parent_that_nobody_has_made(parent: str) -> None:
    cts = [container(parent, 800 + number) for number in range(20)]
    pids = []
    for ct in cts:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                cgroups.create(ct)
                status = inside(ct, lambda: 0)
            except BaseException as exc:
                print(repr(exc), file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        pids.append(pid)
    assert [wait(pid) for pid in pids] == [0] * 20
    for ct in cts:
        cgroups.remove(ct)
        assert not cgroups.exists(ct)


def test_a_cpuset_parent_that_was_never_filled_is_filled(parent: str) -> None:
    places = cgroup.hierarchies()
    if places.version("cpuset") != 1:
        pytest.skip("needs the version 1 cpuset controller")
    os.makedirs(f"{places.v1['cpuset']}/{parent}")  # whoever made it was killed, or has not come further
    ct = container(parent)
    cgroups.create(ct)
    assert inside(ct, lambda: 0) == 0
    cgroups.remove(ct)


def test_controllers_are_switched_on_below_a_parent_made_without_them(parent: str) -> None:
    places = cgroup.hierarchies()
    if "pids" not in places.v2:
        pytest.skip("needs the pids controller on cgroup version 2")
    os.makedirs(f"{places.unified}/{parent}/deeper")
    ct = container(f"{parent}/deeper", NUMPROC="33:33")
    cgroups.create(ct)
    assert cgroup.read(f"{cgroups.ct_dir(ct)}/ct", "pids.max") == "33"
    cgroups.remove(ct)


def test_the_tree_inside_is_saved_and_made_again(make: Callable[..., Container]) -> None:
    ct = make()
    top = f"{cgroups.ct_dir(ct)}/ct"
    for path in ("system.slice/with space", "user.slice/user-0.slice"):
        os.makedirs(f"{top}/{path}")
    os.chown(f"{top}/user.slice", BASE + 5, BASE + 6)
    lines = tree.save(ct)
    assert [line.split()[:3] for line in lines if line.startswith(("user.slice ", "user.slice/"))] == [
        ["user.slice", "5", "6"],
        ["user.slice/user-0.slice", "-", "-"],  # the node's root made it
    ]
    cgroups.remove(ct)
    cgroups.create(ct)
    tree.recreate(ct, lines)
    assert tree.save(ct) == lines
    assert os.path.isdir(f"{top}/system.slice/with space")
    status = os.stat(f"{top}/user.slice")
    assert (status.st_uid, status.st_gid) == (BASE + 5, BASE + 6)


def test_controllers_that_the_ct_switched_on_are_on_again(make: Callable[..., Container]) -> None:
    if "pids" not in cgroup.hierarchies().v2:
        pytest.skip("needs the pids controller on cgroup version 2")
    ct = make()
    top = f"{cgroups.ct_dir(ct)}/ct"
    os.makedirs(f"{top}/system.slice/cron.service")
    for path in (top, f"{top}/system.slice"):
        cgroup.write(path, "cgroup.subtree_control", "+pids")
    cgroup.write(f"{top}/system.slice", "pids.max", "7")
    lines = tree.save(ct)
    cgroups.remove(ct)
    cgroups.create(ct)
    tree.recreate(ct, lines)
    with open("/proc/self/cgroup") as file:
        ours = next(line[3:].strip() for line in file if line.startswith("0::"))
    cgroup.write(top, "cgroup.procs", os.getpid())  # as criu does with an init that is to have a cgroup namespace
    cgroup.write(f"{cgroup.hierarchies().unified}{ours}", "cgroup.procs", os.getpid())
    tree.limit(ct, lines)
    assert tree.save(ct) == lines
    assert cgroup.read(f"{top}/system.slice", "pids.max") == "7"
    assert os.path.exists(f"{top}/system.slice/cron.service/pids.max")


def test_the_tree_goes_nowhere_else(make: Callable[..., Container]) -> None:
    ct = make()
    for line in ("../evil 0 0", "/evil 0 0", "a/../../evil 0 0", "a -1 0", "a 0 65536", "a x 0", "a 0", ""):
        with pytest.raises(ValueError):
            tree.recreate(ct, [line])


def test_removal_is_quiet_about_what_is_not_there_and_loud_about_who_stays(make: Callable[..., Container]) -> None:
    ct = make()
    cgroups.remove(ct)
    cgroups.remove(ct)
    cgroups.create(ct)
    pid = sleeper(ct)
    timer = threading.Timer(0.2, os.kill, (pid, signal.SIGKILL))  # late, but within patience
    timer.start()
    reaper = threading.Thread(target=wait, args=(pid,))
    reaper.start()
    cgroups.remove(ct)
    assert not cgroups.exists(ct)
    timer.join()
    reaper.join()


def test_the_filter_is_one_and_stays_one(make: Callable[..., Container]) -> None:
    ct = make()
    for _ in range(20):  # an attach beside the old one would fail at 64 and let nobody through that one refuses
        devices.apply(ct)
    directory = os.open(cgroups.ct_dir(ct), os.O_RDONLY)
    try:
        assert bpf._attached(directory) >= 0
    finally:
        os.close(directory)
