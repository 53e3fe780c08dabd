"""Two test nodes with an sshd each and a client between them: what migrations are tested on.

The nodes' uplinks and the client are ports of one bridge in the client's network namespace.  The sshd is the one of
the Debian 12 template, run with that tree's own loader and libraries: nothing is installed on the host.  It sees a
passwd and shadow of its own, in which root's account is open to keys.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import testnode
from testnode import NETWORK4, NETWORK6, TREE, Node
from vz.kernel.files import make_dirs

CLIENT4, CLIENT6 = f"{NETWORK4}100", f"{NETWORK6}100"
SSHD_CONFIG = """\
ListenAddress {address}
HostKey {home}/ssh/host
AuthorizedKeysFile {home}/ssh/user.pub
UsePAM no
StrictModes no
PidFile none
PrintMotd no
MaxStartups 100
SetEnv PATH={path}
"""


def sshd_tree() -> Path | None:
    """Return the unpacked Debian 12 template, None where it has not been unpacked."""
    top = Path(os.environ.get("VZ_TEST_TEMPLATES", TREE / ".cache/templates"))
    for info in sorted(top.glob(f"cache/debian-12-{os.uname().machine}*.info")):
        facts = dict(line.split("=", 1) for line in info.read_text().splitlines() if "=" in line)
        tree = top / "unpacked" / facts.get("digest", "-") / "fs"
        if (tree / "usr/sbin/sshd").exists():
            return tree
    return None


class Rig:
    """``with Rig() as rig``: ``rig.a`` and ``rig.b`` are nodes, ``rig.client`` runs programs between them.

    *disk_mb*: the second node's /vz is a file system of its own of that size, which has no template.  *ids*: both nodes
    take their containers' ids from this number on.
    """

    def __init__(self, *, disk_mb: int = 0, ids: int = 0) -> None:
        self.a = Node(f"{os.getpid()}-{os.urandom(2).hex()}a", number=1, ids=ids)
        self.b = Node(f"{os.getpid()}-{os.urandom(2).hex()}b", number=2, disk_mb=disk_mb, ids=ids)
        self.holder: subprocess.Popen[bytes] | None = None
        self.daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Rig:
        try:
            self.a.__enter__()
            self.b.__enter__()
            self._join()
            for node, other in ((self.a, self.b), (self.b, self.a)):
                self._serve(node, other)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.daemons:
            daemon.terminate()
            daemon.wait()
        self.daemons.clear()
        self.b.stop()
        self.a.stop()
        if self.holder is not None:
            self.holder.kill()
            self.holder.wait()
            assert self.holder.stdout is not None
            self.holder.stdout.close()
            self.holder = None

    def _join(self) -> None:
        script = f"""
set -e
ip link set lo up
ip link add lan type bridge
ip addr add {CLIENT4}/24 dev lan
ip addr add {CLIENT6}/64 dev lan nodad
ip link set lan up
echo ready
exec sleep infinity
"""
        self.holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        assert self.holder.stdout is not None
        if self.holder.stdout.readline().strip() != b"ready":
            raise RuntimeError("the client's network did not come up")
        for name, node in (("porta", self.a), ("portb", self.b)):
            assert node.holder is not None
            self.client(
                "ip", "link", "add", "name", name, "type", "veth", "peer", "name", "up1", "netns", str(node.holder.pid)
            )
            self.client("ip", "link", "set", name, "master", "lan", "up")
            done = node.run("ip", "link", "set", "up1", "master", "up0", "up")
            assert done.returncode == 0, done.stderr

    def client(self, *argv: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in the client's network namespace."""
        done = subprocess.run(self.client_argv(*argv), capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0 or not check, f"{argv}: {done.returncode}: {done.stderr}"
        return done

    def client_argv(self, *argv: str) -> list[str]:
        return ["nsenter", "-t", str(self.client_pid), "-n", "--", *argv]

    @property
    def client_pid(self) -> int:
        """Return a process in the client's network namespace."""
        assert self.holder is not None
        return self.holder.pid

    def cut(self, node: Node) -> None:
        """Take the link of *node* away: nothing passes, nobody is told."""
        self.client("ip", "link", "set", "porta" if node is self.a else "portb", "nomaster")

    def heal(self, node: Node) -> None:
        self.client("ip", "link", "set", "porta" if node is self.a else "portb", "master", "lan")

    # -- ssh -----------------------------------------------------------------------------------------------------------

    def _serve(self, node: Node, other: Node) -> None:
        """Start an sshd on *node* that lets *other* in; both sides' keys are made on the way."""
        tree = sshd_tree()
        assert tree is not None
        for home in (node.home, other.home):
            (home / "ssh").mkdir(exist_ok=True)
        if not (node.home / "ssh/host").exists():
            _keygen(node.home / "ssh/host")
        for home in (node.home, other.home):
            if not (home / "ssh/user").exists():
                _keygen(home / "ssh/user")
        (node.home / "ssh/user.pub").chmod(0o644)
        accepted = node.home / "ssh/authorized"
        accepted.write_text((other.home / "ssh/user.pub").read_text() + (node.home / "ssh/user.pub").read_text())
        kind, key = (node.home / "ssh/host.pub").read_text().split()[:2]
        with open(other.home / "ssh/known", "a") as known:
            known.write(f"{node.address4} {kind} {key}\n")
        config = SSHD_CONFIG.format(address=node.address4, home=node.home, path=node.env["PATH"])
        config = config.replace(f"{node.home}/ssh/user.pub", str(accepted))
        (node.home / "ssh/config").write_text(config)
        passwd = [
            line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith(("root:", "sshd:"))
        ]
        passwd += ["root:x:0:0:root:/root:/bin/sh", "sshd:x:998:65534::/run/sshd:/usr/sbin/nologin"]
        (node.home / "ssh/passwd").write_text("\n".join(passwd) + "\n")
        (node.home / "ssh/shadow").write_text("root:*:19000:0:99999:7:::\n")
        (node.home / "ssh/shadow").chmod(0o600)
        loader = next((tree / "usr/lib").glob("*/ld-linux-*.so.*"))
        libraries = loader.parent
        # its directory must stay: removed by the last CT of another node of this host, it takes the mount below with it
        kept = testnode.dev_kept(node.home)
        make_dirs(str(kept.parent))  # as the commands make it, whatever the umask
        kept.touch()
        script = f"""
set -e
mount --bind {node.home}/ssh/passwd /etc/passwd
mount --bind {node.home}/ssh/shadow /etc/shadow
mkdir -p /run/sshd
mount -t tmpfs -o mode=755 vz-node /run/sshd
mount --bind /etc/vz/init.d /etc/init.d
mkdir -p /dev/vz  # two machines have two of it, and a CT may have the same ids on both
mount -t tmpfs -o mode=755 vz-node /dev/vz
"""
        done = node.run("sh", "-c", script)
        assert done.returncode == 0, done.stderr
        # -r: no second exec of itself, which would go without the loader
        sshd = node.popen(
            str(loader), "--library-path", str(libraries), f"{tree}/usr/sbin/sshd", "-r", "-D",
            "-f", f"{node.home}/ssh/config", "-E", f"{node.home}/ssh/log",
        )  # fmt: skip
        self.daemons.append(sshd)
        deadline = time.monotonic() + 20
        while "Server listening" not in (
            log := (node.home / "ssh/log").read_text() if (node.home / "ssh/log").exists() else ""
        ):
            if sshd.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd did not come up: {log}")
            time.sleep(0.02)

    def ssh_options(self, node: Node) -> str:
        """Return the options with which *node* reaches the other: for ``vzmigrate --ssh=``."""
        home = node.home
        return f"-F none -i {home}/ssh/user -o UserKnownHostsFile={home}/ssh/known"

    def other(self, node: Node) -> Node:
        return self.b if node is self.a else self.a

    def ssh(self, node: Node, command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run *command* on the other node through ssh from *node*, as an old vzmigrate does."""
        words = [
            "ssh",
            "-o",
            "BatchMode=yes",
            *self.ssh_options(node).split(),
            f"root@{self.other(node).address4}",
            command,
        ]
        return node.run(*words, timeout=timeout)

    def migrate_argv(self, node: Node, *words: object) -> list[str]:
        """Return the command line that moves containers from *node* to the other; the last word is the container."""
        *options, ct = [str(word) for word in words]
        return ["vzmigrate", f"--ssh={self.ssh_options(node)}", *options, self.other(node).address4, ct]

    def migrate(self, node: Node, *words: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return node.run(*self.migrate_argv(node, *words), timeout=timeout)


def ok(node: Node, *words: object, stdin: str = "") -> str:
    done = node.run(*(str(word) for word in words), stdin=stdin)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def inside(node: Node, ctid: int, script: str) -> str:
    return ok(node, "vzctl", "exec2", ctid, "-", stdin=script)


def status(node: Node, ctid: int) -> str:
    return " ".join(ok(node, "vzctl", "status", ctid).split()[2:])


GONE = "deleted unmounted down"
RUNNING, MOUNTED, STOPPED = "exist mounted running", "exist mounted down", "exist unmounted down"


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def processes(node: Node, *words: str) -> list[int]:
    """Return the pids of processes of *node* whose command line has all of *words*."""
    assert node.holder is not None
    return [pid for pid, line in testnode.processes(node.holder.pid).items() if all(word in line for word in words)]


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
