"""Fixtures: a test node for the session, a busybox CT for a test, and the skip that names what is missing."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "src"))
sys.path.insert(0, os.path.dirname(__file__))

from daemonrig import Daemon
from netns import Neighbour, Netns  # noqa: E402
from rig import Rig, sshd_tree  # noqa: E402
from testnode import TREE, Node, cgroup_dirs  # noqa: E402

MACHINE = os.uname().machine
BUSYBOX = f"busybox-{MACHINE}"
SOAK = "VZ_SOAK" in os.environ
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOENT, errno.EPERM)
_ids = itertools.count(1001)
# a shell's background jobs ignore the one, what nohup(1) starts the other, and so would the commands
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a VM, skip by name what cannot run there, saying why."""
    kind = os.environ.get("VZ_TEST_VM")
    if kind is None:
        return
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "vm"))
    from vm_limits import reasons

    why = reasons(kind, "VZ_TEST_VM_WHOLE" in os.environ)
    for item in items:
        for name, reason in why.items():
            if item.name == name or item.name.partition("[")[0] == name or item.path.name == name:
                item.add_marker(pytest.mark.skip(reason=f"in the VM: {name}: {reason}"))


def needs(feature: str, probe: Callable[[], object]) -> None:
    """Skip, saying why, when the kernel refuses *probe*; fail where the caller promises the feature."""
    try:
        probe()
    except OSError as exc:
        if exc.errno not in UNSUPPORTED:
            raise
        report = pytest.fail if "VZ_TEST_NO_SKIP" in os.environ else pytest.skip
        report(f"needs {feature}: {exc}")


def template(name: str) -> str:
    """Return the full name of a template, or skip when it has not been built."""
    full = f"{name}-{MACHINE}" if not name.endswith("sysvinit") else name.replace("-sysvinit", f"-{MACHINE}-sysvinit")
    cache = os.environ.get("VZ_TEST_TEMPLATES", str(TREE / ".cache/templates"))
    if not os.path.exists(f"{cache}/cache/{full}.tar.zst"):
        pytest.skip(f"needs template {full}: make templates builds it")
    return full


class Vz:
    """The commands on the test node: ``vz("start", 101)`` is vzctl, ``vz.run`` any program."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __call__(
        self, *words: object, stdin: str | bytes = b"", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return self.node.run("vzctl", *(str(word) for word in words), stdin=stdin, timeout=timeout)

    def run(self, *words: object, stdin: str | bytes = b"", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return self.node.run(*(str(word) for word in words), stdin=stdin, timeout=timeout)

    def ok(self, *words: object, stdin: str | bytes = b"", timeout: float = 120) -> str:
        done = self(*words, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"vzctl {words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def sh(self, ctid: int, script: str, timeout: float = 120) -> str:
        """Run *script* in the CT and return what it printed, both streams; its status does not matter."""
        done = self("exec2", ctid, "-", stdin=script, timeout=timeout)
        return done.stdout + done.stderr

    def remove(self, ctid: int) -> None:
        """Destroy the CT; again where a node daemon, which has its lock or starts it again, was in between."""
        conf = self.node.path(f"/etc/vz/conf/{ctid}.conf")
        for _ in range(20):
            self("stop", ctid, "--fast")
            self("umount", ctid)
            self("destroy", ctid)
            if not conf.exists():
                return
            time.sleep(0.1)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Node() as made:
        yield made


@pytest.fixture(scope="session")
def vz(node: Node) -> Vz:
    return Vz(node)


@pytest.fixture
def ctid() -> int:
    return next(_ids)


@pytest.fixture
def new_ct(vz: Vz) -> Iterator[Callable[..., int]]:
    """Return a maker of CTs, which are gone at the end of the test."""
    made = []

    def make(*options: object, template: str = BUSYBOX, layout: str = "overlay", start: bool = True) -> int:
        ctid = next(_ids)
        made.append(ctid)
        vz.ok("create", ctid, "--ostemplate", template, "--layout", layout)
        if options:
            vz.ok("set", ctid, *options, "--save")
        if start:
            vz.ok("start", ctid)
        return ctid

    yield make
    for ctid in made:
        vz.remove(ctid)


@pytest.fixture
def ct(new_ct: Callable[..., int]) -> int:
    """A running busybox CT without an address."""
    return new_ct()


@pytest.fixture(scope="session")
def inside(node: Node) -> Iterator[Netns]:
    """The node's network namespace, to look at from the test."""
    assert node.holder is not None
    made = Netns(f"/proc/{node.holder.pid}/ns/net")
    yield made
    made.close()


@pytest.fixture
def neighbour(inside: Netns) -> Iterator[Neighbour]:
    """A second host on the node's network."""
    made = Neighbour(inside)
    yield made
    made.close()


@pytest.fixture
def bridge(inside: Netns) -> Iterator[Callable[[str], None]]:
    """Return a maker of bridges on the node, which are gone at the end of the test."""
    made = []

    def make(name: str) -> None:
        inside.run("ip", "link", "add", name, "type", "bridge")
        inside.run("ip", "link", "set", name, "up")
        made.append(name)

    yield make
    for name in made:
        inside.run("ip", "link", "del", name)


@pytest.fixture
def vz_conf(node: Node) -> Iterator[Callable[[str], None]]:
    """Return what adds lines to the node's vz.conf, for this test."""
    conf = node.path("/etc/vz/vz.conf")
    old = conf.read_text()
    yield lambda lines: conf.write_text(old + lines + "\n")  # type: ignore[misc, func-returns-value]
    conf.write_text(old)


def left_at_last(node: Node, ctid: int, stays: list[str] | None = None) -> list[str]:
    """Return what is left of a CT once the background deleter has had its time, or only *stays* is."""
    deadline = time.monotonic() + 30
    while (found := leftovers(node, ctid)) not in ([], stays) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def rest(node: Node, ctid: int) -> list[str]:
    """Return what is left of a CT that has moved away from *node*, or did not come, once a deleter has had its time."""
    dumps = [n for n in os.listdir(node.path("/vz/dump")) if f".{ctid}" in n and not n.endswith(".fail")]
    streams = [n for n in os.listdir(node.path("/run/vz")) if n.startswith("pages-")]
    return left_at_last(node, ctid) + dumps + streams


def leftovers(node: Node, ctid: int) -> list[str]:
    """Return what is still there of a CT that was destroyed."""
    found = []
    for top in cgroup_dirs(node.cgroup_parent):
        if (top / str(ctid)).exists():
            found.append(str(top / str(ctid)))
    for path in (
        f"/run/vz/{ctid}",
        f"/vz/private/{ctid}",
        f"/vz/private/{ctid}.tmp",
        f"/vz/root/{ctid}",
        f"/vz/lock/{ctid}.lck",
        f"/var/lib/vzctl/veip/{ctid}",
        f"/var/lib/vzctl/vepid/{ctid}",
        f"/var/lib/vzctl/journal/{ctid}",
        f"/etc/vz/conf/{ctid}.conf",
        f"/run/netns/{ctid}",
    ):
        if os.path.lexists(node.path(path)):
            found.append(path)
    if f"/vz/root/{ctid} " in node.path("/proc/self/mountinfo").read_text():
        found.append("a mount")
    mounts = node.run("cat", "/proc/self/mountinfo").stdout
    if f"/vz/root/{ctid} " in mounts or f"/run/vz/{ctid}/" in mounts:
        found.append("a mount")
    if f"vz{ctid}:" in node.run("cat", "/proc/net/dev").stdout:
        found.append(f"interface vz{ctid}")
    if f'"vz{ctid}"' in node.run("nft", "list", "ruleset").stdout:
        found.append("an nft element")
    ids = node.path("/var/lib/vzctl/ids")
    if ids.is_dir():
        for path in ids.iterdir():
            try:
                lines = path.read_text().splitlines() if path.name.isdigit() else []
            except FileNotFoundError:  # given back meanwhile
                continue
            found += [f"id range {line}" for line in lines if line.split()[2] == str(ctid)]
    return found


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """Two nodes that reach each other by ssh, with the templates on both."""
    with made_rig() as made:
        yield made


@pytest.fixture(scope="module")
def far_rig() -> Iterator[Rig]:
    """As rig, but the second node's /vz is a small file system of its own, without templates."""
    with made_rig(disk_mb=900) as made:
        yield made


def made_rig(disk_mb: int = 0) -> Rig:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for program in ("ssh", "ssh-keygen", "rsync"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    if sshd_tree() is None:
        pytest.skip("needs the unpacked template debian-12, whose sshd is used: make templates builds it")
    return Rig(disk_mb=disk_mb)


@pytest.fixture
def idle_daemon(node: Node) -> Iterator[Daemon]:
    """One that the test starts."""
    made = Daemon(node)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    for path in (node.path("/run/vz/eventd"), node.path("/run/vz/eventd.pid"), made.told):
        path.unlink(missing_ok=True)


@pytest.fixture
def daemon(idle_daemon: Daemon) -> Iterator[Daemon]:
    yield idle_daemon.start()
    idle_daemon.stop()
