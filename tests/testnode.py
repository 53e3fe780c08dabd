"""A test node: a host of its own for the commands, made of a mount, a network and a UTS namespace.

It has its own /etc/vz, /vz, /run/vz and /var/lib/vzctl, its own cgroup parent and id pool (those are not namespaced)
and an uplink with documentation addresses.  Two clones can test at once.  A node whose owner was killed is cleared
away by the next one.  Nodes with different numbers can be joined: see ``rig``.
"""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import hostsettings
from hostsettings import start_time

TREE = Path(__file__).resolve().parent.parent
SCRATCH = Path(os.environ.get("VZ_TEST_SCRATCH", "/var/tmp"))
PREFIX = "vz-node-"
NETWORK4, NETWORK6 = "192.0.2.", "2001:db8::"
ADDRESS4, ADDRESS6 = f"{NETWORK4}1", f"{NETWORK6}1"
VZ_CONF = """\
VIRTUOZZO=yes
LOCKDIR=/vz/lock
DUMPDIR=/vz/dump
TEMPLATE=/vz/template
VE_ROOT=/vz/root/$VEID
VE_PRIVATE=/vz/private/$VEID
VE_LAYOUT=overlay
LOGFILE=/var/lib/vzctl/vzctl.log
NAMESERVER=192.0.2.53
LOCAL_UID={uid}
CGROUP_PARENT=vz/{name}
"""


@functools.cache
def programs() -> Path:
    """Return the tree that the commands run from: a copy where a careful admin's clone is closed to other users."""
    if TREE.stat().st_mode & 0o005 == 0o005:
        return TREE
    copy = Path(tempfile.mkdtemp(prefix="vz-tree-", dir=SCRATCH))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for entry in TREE.iterdir():
        if entry.name in ("bin", "src"):
            shutil.copytree(entry, copy / entry.name, symlinks=True)
        else:
            (copy / entry.name).symlink_to(entry)
    subprocess.run(["chmod", "-R", "a+rX", str(copy)], check=True)
    return copy


class Node:
    """``with Node() as node: node.run("vzctl", …)``

    *number* makes its addresses (192.0.2.NUMBER); with *disk_mb* its /vz is a file system of its own, templates
    included, of which it has none then; *ids* is the first id of its pool, 0 for one of its own.
    """

    def __init__(self, name: str = "", *, number: int = 1, disk_mb: int = 0, ids: int = 0) -> None:
        self.name = name or f"{os.getpid()}-{os.urandom(2).hex()}"
        self.hostname = "node" if number == 1 else f"node{number}"
        self.address4, self.address6 = f"{NETWORK4}{number}", f"{NETWORK6}{number}"
        self.disk_mb = disk_mb
        self.ids = ids or (10000 + int.from_bytes(os.urandom(2), "big") % 20000) * 65536
        self.home = SCRATCH / f"{PREFIX}{self.name}"
        self.cgroup_parent = f"vz/{PREFIX}{self.name}"
        self.holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Node:
        clear_stale()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        if os.geteuid() != 0:
            raise SystemExit("a test node needs root")
        for name in ("etc", "vz/root", "vz/private", "vz/lock", "vz/dump", "vz/template", "state", "run"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o755)
        for name in ("root", "private", "dump"):  # as make install makes them
            (self.home / "vz" / name).chmod(0o700)
        shutil.copytree(TREE / "etc", self.home / "etc", symlinks=True, dirs_exist_ok=True)
        for name in ("conf", "names", "dists"):
            (self.home / "etc" / name).mkdir(exist_ok=True)
        (self.home / "etc/vz.conf").write_text(VZ_CONF.format(uid=self.ids, name=f"{PREFIX}{self.name}"))
        (self.home / "owner").write_text(f"{os.getpid()} {start_time(os.getpid())}\n")
        templates = Path(os.environ.get("VZ_TEST_TEMPLATES", TREE / ".cache/templates"))
        templates.mkdir(parents=True, exist_ok=True)
        hostsettings.hold(self.name)
        if self.disk_mb:
            with open(self.home / "disk", "wb") as disk:
                disk.truncate(self.disk_mb << 20)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", self.home / "disk"], check=True)
        home = shlex.quote(str(self.home))
        script = f"""
set -e
mkdir -p /etc/vz /vz /run/vz /var/lib/vzctl /run/netns
mount --bind {home}/etc /etc/vz
[ ! -e {home}/disk ] || mount -o loop {home}/disk {home}/vz
mount --bind {home}/vz /vz
mkdir -p -m 700 /vz/root /vz/private /vz/dump
mkdir -p /vz/lock /vz/template/cache
mount --bind {home}/state /var/lib/vzctl
mount -t tmpfs -o mode=755 vz-node /run/vz
mount -t tmpfs -o mode=755 vz-node /run/netns
[ -e {home}/disk ] || mount --bind {shlex.quote(str(templates))} /vz/template
hostname {self.hostname}
ip link set lo up
ip link add up0 type bridge
ip addr add {self.address4}/24 dev up0
ip addr add {self.address6}/64 dev up0 nodad
ip link set up0 up
sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
echo ready
exec sleep infinity
"""
        argv = ["unshare", "--mount", "--net", "--uts", "--propagation", "private", "sh", "-c", script]
        self.holder = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self.holder.stdout is not None
        if self.holder.stdout.readline().strip() != b"ready":
            raise SystemExit("the test node did not come up: it needs the namespaces and iproute2")
        (self.home / "holder").write_text(f"{self.holder.pid} {start_time(self.holder.pid)}\n")

    def argv(self, *argv: str) -> list[str]:
        assert self.holder is not None
        return ["nsenter", "-t", str(self.holder.pid), "-m", "-n", "-u", "--", *argv]

    @property
    def env(self) -> dict[str, str]:
        path = f"{programs()}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "HOME": "/root", "TERM": "dumb", "LC_ALL": "C.UTF-8"}

    def run(self, *argv: str, stdin: str | bytes = b"", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command on the node; its output as text."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(self.argv(*argv), input=data, capture_output=True, timeout=timeout, env=self.env)
        return subprocess.CompletedProcess(
            argv, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )

    def popen(self, *argv: str, **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv(*argv), env=self.env, **options)  # type: ignore[call-overload, no-any-return]

    def path(self, name: str) -> Path:
        """Return where *name*, a path of the node, is for the test: through the holder's root."""
        assert self.holder is not None
        return Path(f"/proc/{self.holder.pid}/root{name}")

    def stop(self) -> None:
        if self.holder is not None:
            kill_cgroups(self.cgroup_parent)
            kill_processes(self.holder.pid)  # a session of an sshd outlives it
            self.holder.kill()
            self.holder.wait()
            if self.holder.stdout is not None:
                self.holder.stdout.close()
            self.holder = None
        hostsettings.let_go(self.name)
        clear(self.home)


def processes(holder: int, kinds: tuple[str, ...] = ("mnt",)) -> dict[int, str]:
    """Return {pid: command line} of what shares a namespace of one of *kinds* with a node's *holder*, but itself."""
    wanted = [(kind, os.readlink(f"/proc/{holder}/ns/{kind}")) for kind in kinds]
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == holder:
            continue
        try:
            if any(os.readlink(f"/proc/{name}/ns/{kind}") == link for kind, link in wanted):
                words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ")
                found[int(name)] = words.decode("utf-8", "replace")
        except OSError:
            continue  # it has ended
    return found


def kill_processes(holder: int) -> None:
    """Kill what still runs on the node of *holder*, which keeps its namespaces."""
    for pid in processes(holder, ("mnt", "net")):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def cgroup_dirs(parent: str) -> list[Path]:
    return [path / parent for path in Path("/sys/fs/cgroup").glob("*/") if (path / parent).is_dir()] + (
        [Path("/sys/fs/cgroup") / parent] if (Path("/sys/fs/cgroup") / parent / "cgroup.procs").exists() else []
    )


def kill_cgroups(parent: str) -> None:
    """Kill what is below *parent* in the cgroup2 tree and remove its directories everywhere."""
    for top in cgroup_dirs(parent):
        if (top / "cgroup.kill").exists():
            (top / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = cgroup_dirs(parent)
        if not left:
            return
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
        time.sleep(0.02)


def dev_kept(home: Path) -> Path:
    """Return the host's own file that keeps its /dev/vz while the node of *home* has something mounted there."""
    return Path(f"/dev/vz/.{home.name}")


def clear(home: Path) -> None:
    """Remove the scratch directory of a node that is down; a background deleter may still be at work in it."""
    for path in (home / "state" / "ids").glob("[0-9]*"):  # device nodes of CTs that were not stopped
        for line in path.read_text().splitlines():
            shutil.rmtree(f"/dev/vz/{line.split()[0]}", ignore_errors=True)
    dev_kept(home).unlink(missing_ok=True)
    for _ in range(50):
        subprocess.run(["rm", "-rf", "--one-file-system", "--", str(home)], stderr=subprocess.DEVNULL)
        if not home.exists():
            return
        time.sleep(0.1)


def clear_stale() -> None:
    """Clear away nodes whose owner is dead."""
    for home in SCRATCH.glob(f"{PREFIX}*"):
        try:
            pid, start = (home / "owner").read_text().split()
        except (OSError, ValueError):
            continue
        if start_time(int(pid)) == start:
            continue
        try:
            holder, holder_start = (home / "holder").read_text().split()
            if start_time(int(holder)) == holder_start:
                kill_processes(int(holder))
                os.kill(int(holder), signal.SIGKILL)
        except (OSError, ValueError):
            pass
        kill_cgroups(f"vz/{home.name}")
        clear(home)
