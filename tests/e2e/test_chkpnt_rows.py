"""Rows of what a checkpoint carries, or names, that take the node's hand: mounts, links, rules, what nobody has taken."""

from __future__ import annotations

from pathlib import Path

import inner_python
import pytest
from chkpnt_rig import cycle
from test_chkpnt_carried import looked
from test_chkpnt_check import call, libc, named, planted  # noqa: F401

from conftest import Vz
from netns import wait_until
from vz.kernel import mounts

ADDRESS = "192.0.2.86"
SCRIPT = """\
#!/bin/sh
mount --bind /vz/shared /vz/root/{ct}/mnt
mount -t tmpfs -o mode=777 x /vz/root/{ct}/mnt/sub
mount --bind /vz/shared/sub /vz/root/{ct}/opt
mount -o remount,bind,ro,nosuid /vz/root/{ct}/opt
mount --bind /vz/shared/file /vz/root/{ct}/etc/one
"""
UNDO = "#!/bin/sh\nfor path in mnt/sub mnt opt etc/one; do umount /vz/root/{ct}/$path; done\n"


@pytest.mark.parametrize("layout", ["overlay", "simfs"])
def test_mounts_of_a_mount_script(vz: Vz, new_ct, layout: str) -> None:  # type: ignore[no-untyped-def]
    ct = new_ct(layout=layout)
    vz.sh(ct, "mkdir -p /opt /mnt; touch /etc/one")
    vz.ok("stop", ct, "--fast")
    scripts = [vz.node.path(f"/etc/vz/conf/{ct}.{name}") for name in ("mount", "umount")]
    for path, text in zip(scripts, (SCRIPT, UNDO), strict=True):
        path.write_text(text.format(ct=ct))
        path.chmod(0o755)
    assert vz.run("sh", "-c", "mkdir -p /vz/shared/sub; echo text > /vz/shared/file").returncode == 0
    try:
        vz.ok("start", ct)
        vz.sh(ct, "echo in > /mnt/sub/own; (tail -f /mnt/file >/run/out 2>&1 &) </dev/null")
        look = "grep -E ' /(mnt|mnt/sub|opt|etc/one) ' /proc/self/mountinfo | cut -d' ' -f4-6 | sort; cat /etc/one"
        before = vz.sh(ct, look)
        assert before.count("\n") == 5 and " /opt ro,nosuid" in before, before
        vz.ok("check", ct)
        for _ in range(2):
            cycle(vz, ct)
            assert vz.sh(ct, look) == before
        vz.run("sh", "-c", "echo more >> /vz/shared/file")
        assert "more" in vz.sh(ct, "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.3; grep more /run/out && break; done")
        assert "Read-only" in vz.sh(ct, "touch /opt/x")
        assert f"/run/vz/{ct}" not in vz.run("cat", "/proc/self/mountinfo").stdout
        # what the CT has unmounted stays so
        vz.ok("exec", ct, "killall tail; umount /mnt/sub /opt")
        cycle(vz, ct)
        assert [line.split()[1] for line in vz.sh(ct, look).splitlines()[:-2]] == ["/mnt", "/etc/one"]
        # a node whose script does not mount it cannot bring it back, and says what is missing; the dump stays
        vz.ok("chkpnt", ct)
        for path in scripts:
            path.rename(f"{path}.aside")
        done = vz("restore", ct)
        assert done.returncode == 17 and "no mount script of this node has mounted /mnt /mnt/sub" in done.stderr, done
        assert vz("status", ct).stdout.endswith("down suspended\n")
        for path in scripts:
            Path(f"{path}.aside").rename(path)
        vz.ok("restore", ct)
        assert vz.sh(ct, "cat /etc/one").startswith("text\n")
        vz.ok("stop", ct, "--fast")
    finally:
        vz("stop", ct, "--fast")
        vz("umount", ct)
        for path in scripts:
            path.unlink(missing_ok=True)
        vz.run("rm", "-r", "/vz/shared")


def test_links_and_sysctls_of_its_own(vz: Vz, new_ct, request) -> None:  # type: ignore[no-untyped-def]
    ct = new_ct("--ipadd", ADDRESS, "--devnodes", "net/tun:rw")
    # open to all, as udev makes it
    script = "mknod -m 666 /vz/tun c 10 200; mount --bind /vz/tun /dev/net/tun"
    assert vz.run("sh", "-c", script).returncode == 0
    request.addfinalizer(lambda: vz.run("sh", "-c", "umount /dev/net/tun; rm /vz/tun"))
    for words in (
        "ip tuntap add mode tun name tun5 user 33",
        "ip addr add 198.51.100.5/30 dev tun5",
        "ip link set tun5 up",
        "ip link add b5 type bridge",
        "ip link add va type veth peer name vb",
        "ip link set va master b5",
        "ip addr add 198.51.100.9/29 dev b5",
        "ip link set b5 up",
        "sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.venet0.log_martians=1 net.core.somaxconn=77",
    ):
        looked(vz, ct, *words.split())
    kinds = ["tun5", "b5"]
    try:
        looked(vz, ct, "ip", "link", "add", "dm5", "type", "dummy")
        kinds.append("dm5")
    except AssertionError:
        pass  # this kernel has no such driver

    def look() -> list[str]:
        names = "net.ipv4.ip_forward net.ipv4.conf.venet0.log_martians"
        found = [looked(vz, ct, "sysctl", *names.split()), looked(vz, ct, "ip", "route")]
        # a device gets its link-local address, and a carrier, when the other end is there
        words = [line.split() for line in looked(vz, ct, "ip", "-br", "-4", "addr").splitlines()]
        found += [f"{line[0].partition('@')[0]} {line[2:]}" for line in words]
        for name in kinds:
            shown = looked(vz, ct, "ip", "-d", "link", "show", name)
            found += [word for word in ("tun type tun", "bridge", "dummy", "user 33", "<") if word in shown]
        found.append(looked(vz, ct, "ip", "-br", "link", "show", "master", "b5").split()[0])
        return found

    before = look()
    assert "tun5 ['198.51.100.5/30']" in before and before[-1] == "va@vb" and "linkdown" in before[1]
    cycle(vz, ct)
    before[1] = before[1].replace(" linkdown", "")  # until something happens to the device
    after = look()
    after[1] = after[1].replace(" linkdown", "")
    assert after == before


def test_iptables_of_the_old_kind(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ct = new_ct("--ipadd", ADDRESS)
    for family in ("iptables-legacy", "ip6tables-legacy"):
        try:
            looked(vz, ct, family, "-A", "INPUT", "-p", "tcp", "--dport", "81", "-j", "DROP")
        except (AssertionError, OSError) as exc:
            pytest.skip(f"this node has no {family}, or its kernel no such tables: {exc}")
    before = [looked(vz, ct, f"{family}-legacy-save").splitlines()[1:-1] for family in ("iptables", "ip6tables")]
    cycle(vz, ct)
    assert [
        looked(vz, ct, f"{family}-legacy-save").splitlines()[1:-1] for family in ("iptables", "ip6tables")
    ] == before


UNACCEPTED = """
import os, socket, time
def made(): return socket.socket(socket.{family})
address = {address!r}
listening, client = made(), made()
listening.bind(address)
listening.listen(4)
client.connect(address)
client.send(b"x")
if {closed}: client.close()
open("/run/ready", "w").close()
while not os.path.exists("/run/go"): time.sleep(0.05)
if not {closed}:
    client.settimeout(20)
    try:
        assert client.send(b"y") and client.recv(1) == b""
    except (ConnectionResetError, BrokenPipeError):
        pass
fresh = made()
fresh.connect(address)
fresh.send(b"new")
served, _ = listening.accept()
assert served.recv(9) == b"new"
print("as it should", flush=True)
"""


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize(
    ("family", "address", "name"),
    [("AF_INET", ("127.0.0.1", 8123), "port 8123"), ("AF_UNIX", "\0waiting", "socket @waiting")],
    ids=["tcp", "unix"],
)
def test_connections_that_nobody_accepts(
    vz: Vz, ct: int, family: str, address: object, name: str, closed: bool
) -> None:
    """A server that hangs keeps nobody from a checkpoint: named before, then ended; what comes after is served."""
    inner_python.install(vz, ct, with_libc=True)
    program = UNACCEPTED.format(family=family, address=address, closed=closed)
    vz("exec", ct, "cat > /program", stdin=program.encode())
    vz.sh(ct, f"(setsid {inner_python.PYTHON} /program </dev/null >/run/out 2>&1 &)")
    assert wait_until(lambda: vz("exec", ct, "test -e /run/ready").returncode == 0), vz.sh(ct, "cat /run/out")
    shown = vz("check", ct)
    words = f"does not accept the connections to {name}: those that wait are lost\n"
    assert shown.returncode == 0 and "Warning: process python3 (" in shown.stdout and words in shown.stdout, shown
    done = vz("chkpnt", ct)
    assert done.returncode == 0 and "WARNING: process python3 (" in done.stderr and words in done.stderr, done
    vz.ok("restore", ct)
    vz.sh(ct, "touch /run/go")
    assert wait_until(lambda: vz.sh(ct, "cat /run/out") == "as it should\n"), vz.sh(ct, "cat /run/out")


def test_hugetlbfs(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    """The CT's root cannot mount one; what a program of the node has put there is named."""
    if "hugetlbfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no hugetlbfs")
    held: list[int] = []

    def make() -> None:
        context = call(libc.syscall(430, b"hugetlbfs", 0))  # fsopen
        call(libc.syscall(431, context, 6, None, None, 0))  # fsconfig, FSCONFIG_CMD_CREATE
        held.append(call(libc.syscall(432, context, 0, 0)))  # fsmount

    ct = planted(make, lambda: mounts.move_mount(held[0], "/mnt"))
    named(vz, ct, "mount of hugetlbfs on /mnt", "unmount it")
