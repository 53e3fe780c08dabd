"""What configure() does to whole roots: per family, and roots that want to hang, crash or mislead the launcher."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vz import guest
from vz.guest import files
from vz.kernel.namespaces import ChildFailed, run_in_child

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot")
GOLDEN = Path(__file__).resolve().parents[1] / "compat/guest"
ADDRESSES = ["192.0.2.101", "2001:db8::101"]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "root"
    for name in ("etc", "dev", "tmp", "proc"):
        (path / name).mkdir(parents=True)
    yield path


def config(addresses: list[str] | None = None) -> guest.GuestConfig:
    made = guest.GuestConfig()
    made.hostname = "ct.example.com"
    made.addresses = ADDRESSES if addresses is None else addresses
    made.nameservers = ["192.0.2.53"]
    made.searchdomains = ["example.com"]
    return made


def in_root(root: Path, function: Callable[[], bytes | None]) -> bytes:
    def child() -> bytes | None:
        os.chroot(root)
        os.chdir("/")
        return function()

    return run_in_child(child)


def configure(root: Path, wanted: guest.GuestConfig | None = None) -> list[str]:
    wanted = wanted or config()
    return in_root(root, lambda: "\n".join(guest.configure(wanted)).encode()).decode().splitlines()


def tree(root: Path) -> dict[str, str]:
    plain = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(root)): path.read_text() for path in plain}


def debian(root: Path) -> None:
    (root / "etc/debian_version").write_text("12.15\n")
    (root / "etc/network").mkdir()
    (root / "etc/network/interfaces").write_text("source /etc/network/interfaces.d/*\n")
    (root / "usr/lib/systemd").mkdir(parents=True)
    (root / "etc/systemd/network").mkdir(parents=True)
    (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n203.0.113.7 db\n")


def centos(root: Path) -> None:
    (root / "etc/redhat-release").write_text("CentOS release 6.10 (Final)\n")
    scripts = root / "etc/sysconfig/network-scripts"
    scripts.mkdir(parents=True)
    for name in ("ifcfg-venet0:7", "ifcfg-eth0"):
        (scripts / name).write_text("ONBOOT=no\n")
    (root / "etc/sysconfig/network").write_text("NETWORKING=yes\n")
    (root / "etc/sysconfig/init").write_text("ACTIVE_CONSOLES=/dev/tty[1-6]\n")
    (root / "etc/NetworkManager/conf.d").mkdir(parents=True)


def test_debian(root: Path) -> None:
    debian(root)
    assert configure(root) == []
    found = tree(root)
    assert found["etc/hostname"] == "ct.example.com\n"
    assert found["etc/resolv.conf"] == "search example.com\nnameserver 192.0.2.53\n"
    assert "203.0.113.7 db\n" in found["etc/hosts"] and "192.0.2.101 ct.example.com ct\n" in found["etc/hosts"]
    assert "ip addr replace 2001:db8::101/128" in found["etc/network/interfaces"]
    assert "Address=192.0.2.101/32" in found["etc/systemd/network/10-venet0.network"]
    machine_id = found["etc/machine-id"].strip()
    assert len(machine_id) == 32 and set(machine_id) <= set("0123456789abcdef")
    assert not [name for name in found if "vz-new" in name]


def test_nothing_is_written_where_nothing_changes(root: Path) -> None:
    debian(root)
    configure(root)
    before = {p: p.stat().st_ino for p in root.rglob("*")}
    assert configure(root) == []
    assert {p: p.stat().st_ino for p in root.rglob("*")} == before


def test_addresses_that_are_gone_leave_no_trace(root: Path) -> None:
    debian(root)
    configure(root)
    assert configure(root, config([])) == []
    found = tree(root)
    assert "venet0" not in found["etc/network/interfaces"]
    assert "etc/systemd/network/10-venet0.network" not in found


def test_centos(root: Path) -> None:
    centos(root)
    assert configure(root) == []
    found = tree(root)
    scripts = "etc/sysconfig/network-scripts"
    assert found[f"{scripts}/ifcfg-venet0:0"].startswith("DEVICE=venet0:0\n")
    assert f"{scripts}/ifcfg-venet0:7" not in found and found[f"{scripts}/ifcfg-eth0"] == "ONBOOT=no\n"
    assert 'HOSTNAME="ct.example.com"' in found["etc/sysconfig/network"]
    assert found["etc/sysconfig/init"] == "ACTIVE_CONSOLES=\n"
    assert "unmanaged" in found["etc/NetworkManager/conf.d/90-venet0.conf"]
    assert configure(root, config([])) == []
    assert not [name for name in tree(root) if "venet0" in name]


RELEASES = {  # what of the network a release has: files it came with, directories
    "5": ({"etc/redhat-release": "CentOS release 5.11 (Final)\n"}, ["etc/sysconfig/network-scripts"]),
    "6": (
        {
            "etc/redhat-release": "CentOS release 6.10 (Final)\n",
            "etc/sysconfig/network": 'NETWORKING="yes"\nHOSTNAME="localhost.localdomain"\nGATEWAY="192.0.2.1"\n',
            "etc/sysconfig/network-scripts/ifcfg-venet0:3": "DEVICE=venet0:3\nIPADDR=203.0.113.9\n",
            "etc/sysconfig/init": "ACTIVE_CONSOLES=/dev/tty[1-6]\n",
        },
        [],
    ),
    "7": (
        {
            "etc/redhat-release": "CentOS Linux release 7.9.2009 (Core)\n",
            "etc/sysconfig/network": "# Created by anaconda\n",
        },
        ["etc/sysconfig/network-scripts", "etc/NetworkManager/conf.d"],
    ),
    "8": (
        {"etc/redhat-release": "CentOS Linux release 8.5.2111\n"},
        ["etc/sysconfig/network-scripts", "etc/NetworkManager/conf.d"],
    ),
    "9": (
        {
            "etc/redhat-release": "CentOS Stream release 9\n",
            "etc/sysconfig/network-scripts/readme-ifcfg-rh.txt": "NetworkManager stores new profiles elsewhere.\n",
        },
        ["etc/NetworkManager/conf.d"],
    ),
}


@pytest.mark.parametrize("release", RELEASES)
def test_rhel_family(root: Path, release: str) -> None:
    files_there, folders = RELEASES[release]
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for name, text in files_there.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    wanted = config(["192.0.2.101", "198.51.100.7", "2001:db8::101", "2001:db8::102"])
    assert configure(root, wanted) == []
    found = {name: text for name, text in tree(root).items() if name != "etc/machine-id"}
    text = "".join(f"==> {name} <==\n{found[name]}" for name in sorted(found))
    golden = GOLDEN / f"centos-{release}.tree"
    if "VZ_WRITE_GOLDEN" in os.environ:
        golden.write_text(text)
    assert text == golden.read_text(), f"{golden} says otherwise"
    before = {path: path.lstat().st_ino for path in root.rglob("*")}
    assert configure(root, wanted) == []
    assert {path: path.lstat().st_ino for path in root.rglob("*")} == before, "a second start writes nothing"
    assert configure(root, config([])) == []
    assert not [name for name, text in tree(root).items() if "venet0" in name or "venet0" in text]


def test_fedora_without_network_scripts(root: Path) -> None:
    (root / "etc/redhat-release").write_text("Fedora release 41\n")
    (root / "etc/NetworkManager/conf.d").mkdir(parents=True)
    assert configure(root) == []
    assert not (root / "etc/sysconfig").exists()


def test_fallback_touches_names_only(root: Path) -> None:
    """Busybox: no network service reads files; the network is there already."""
    assert configure(root) == []
    assert sorted(tree(root)) == ["etc/hostname", "etc/hosts", "etc/resolv.conf"]


def test_an_empty_root_is_no_crash(tmp_path: Path) -> None:
    failed = configure(tmp_path)
    assert failed and all("No such file" in line for line in failed)


def test_links_to_elsewhere(root: Path) -> None:
    outside = root.parent / "outside"
    outside.write_text("127.0.0.1 the host\n")
    debian(root)
    for name in ("hosts", "resolv.conf", "hostname"):
        (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc" / name).symlink_to(outside)
    (root / "etc/network/interfaces").unlink()
    (root / "etc/network/interfaces").symlink_to("../../../../../../../.." + str(outside))
    configure(root)
    assert outside.read_text() == "127.0.0.1 the host\n"
    assert not (root / "etc/hosts").is_symlink() and "the host" not in (root / "etc/hosts").read_text()


def test_a_link_to_a_descriptor_of_ours_is_not_followed(root: Path) -> None:
    """The launcher has descriptors of the node open: /proc/self/fd/N must lead nowhere."""
    secret = root.parent / "secret"
    secret.write_text("127.0.0.1 secret\n")
    (root / "etc/hosts").symlink_to("/proc/self/fd/77")
    host_dir = root.parent / "host"
    host_dir.mkdir()
    (root / "etc/systemd").symlink_to("/proc/self/fd/78")
    (host_dir / "network").mkdir()

    def child() -> bytes:
        from vz.kernel import mounts, namespaces

        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        mounts.mount("proc", str(root / "proc"), "proc", 0)
        os.dup2(os.open(secret, os.O_RDONLY), 77)
        os.dup2(os.open(host_dir, os.O_RDONLY), 78)
        os.chroot(root)
        os.chdir("/")
        return "\n".join(guest.configure(config())).encode()

    failed = run_in_child(child).decode()
    assert [line.partition(":")[0] for line in failed.splitlines()] == ["/etc/hosts", "/etc/systemd/network"]
    assert failed.count("Too many levels of symbolic links") == 2
    assert list((host_dir / "network").iterdir()) == []


def test_fifos_devices_and_directories_in_place_of_files(root: Path) -> None:
    debian(root)
    (root / "etc/hosts").unlink()
    os.mkfifo(root / "etc/hosts")
    os.mkfifo(root / "etc/resolv.conf")
    os.mkfifo(root / "etc/inittab")
    (root / "etc/hostname").mkdir()
    os.mknod(root / "etc/machine-id", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    failed = [line.partition(":")[0] for line in configure(root)]
    assert failed == ["/etc/machine-id", "/etc/hostname", "/etc/hosts", "/etc/inittab"]
    assert (root / "etc/resolv.conf").is_file()
    assert "venet0" in (root / "etc/network/interfaces").read_text(), "one bad file does not stop the others"
    assert not list((root / "etc").glob(".*vz-new"))


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\n\n\n",
        b"auto venet0 \\\n  eth0\niface venet0 inet static \\\n  address 192.0.2.4\niface eth0 inet dhcp\n",
        b"iface venet0 inet static",
        b"auto\niface\nmapping\niface venet0\nallow-\nallow-hotplug\n",
        b"\xff\xfe\0\x01\r\niface venet0 inet static\r\n\taddress 192.0.2.4\r\niface eth0 inet dhcp\r\n",
        b"iface venet0 inet static\n" * 3000,
        b"# BEGIN vz: made anew at each start of the container\n" * 5 + b"# END vz\niface eth0 inet dhcp\n",
        b"a" * 900000,
        b"no-scripts venet0\nno-auto-down venet0 eth0\nrename eth1=venet0\ntemplate venet0\n",
    ],
)
def test_odd_interfaces_files(root: Path, odd: bytes) -> None:
    debian(root)
    path = root / "etc/network/interfaces"
    path.write_bytes(odd)
    assert configure(root) == []
    first = path.read_bytes()
    assert first.count(b"iface venet0 ") == 1 and first.count(b"ip addr replace 192.0.2.101/32") == 1
    assert (b"eth0" in odd) <= (b"eth0" in first), "nobody else's line is lost"
    assert b"192.0.2.4" not in first
    assert configure(root) == [] and path.read_bytes() == first
    assert configure(root, config([])) == []
    assert b"ip addr replace" not in path.read_bytes()


@pytest.mark.parametrize("folder", ["etc/sysconfig/network-scripts", "etc/systemd/network", "etc/network"])
@pytest.mark.parametrize("kind", ["file", "fifo", "dangling link", "link to itself", "link to a file"])
def test_odd_things_in_place_of_directories(root: Path, folder: str, kind: str) -> None:
    debian(root)
    (root / "etc/sysconfig").mkdir()
    path = root / folder
    if path.is_dir():
        for inner in path.iterdir():
            inner.unlink()
        path.rmdir()
    if kind == "file":
        path.write_text("text\n")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(
            {"dangling link": "/nowhere", "link to itself": path.name, "link to a file": "/etc/hosts"}[kind]
        )
    for wanted in (config(), config([])):
        failed = configure(root, wanted)
        assert all(folder in line for line in failed), failed
        assert "192.0.2.53" in (root / "etc/resolv.conf").read_text(), "the other files are written all the same"


def test_a_huge_hosts_file_is_left_alone(root: Path) -> None:
    """Lists of 100,000 names to block are common: they must not be taken for an empty file and replaced."""
    huge = "127.0.0.1 localhost\n" + "0.0.0.0 ads.example\n" * 60000
    (root / "etc/hosts").write_text(huge)
    assert configure(root) == ["/etc/hosts: larger than 1048576 bytes"]
    assert (root / "etc/hosts").read_text() == huge


def test_binary_files_survive(root: Path) -> None:
    data = b"127.0.0.1 localhost\n\xff\xfe\x00\x85\x0b\x0c\x1c text\n"
    (root / "etc/hosts").write_bytes(data)
    assert configure(root) == []
    assert (root / "etc/hosts").read_bytes().startswith(data)


def test_what_a_killed_launcher_left_is_no_hindrance(root: Path) -> None:
    (root / "etc/.hosts.vz-new").write_text("half")
    assert configure(root) == []
    (root / "etc/.hosts.vz-new").write_text("half")  # killed before it gave the file its name, by another round
    assert configure(root) == []
    assert sorted(tree(root)) == ["etc/hostname", "etc/hosts", "etc/resolv.conf"]


def test_mode_and_owner_stay(root: Path) -> None:
    hosts = root / "etc/hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    os.chown(hosts, 1234, 4321)
    hosts.chmod(0o664)
    configure(root)
    status = hosts.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 4321, 0o664)


def test_enable_wait(root: Path) -> None:
    (root / "etc/inittab").write_text("id:2:initdefault:")
    (root / ".vzfifo").write_text("")
    in_root(root, lambda: guest.enable_wait())
    in_root(root, lambda: guest.enable_wait())
    assert (root / "etc/inittab").read_text() == "id:2:initdefault:\nvz:2345:once:touch /.vzfifo\n"
    assert not (root / ".vzfifo").exists()


class TestPasswords:
    PASSWD = "root:x:0:0:r\x0boot:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n"

    def test_shadow(self, root: Path) -> None:
        (root / "etc/passwd").write_text(self.PASSWD)
        (root / "etc/shadow").write_text("root:*:1:0:99999:7:::\nbob:!:1:0:99999:7:::\n")
        (root / "etc/shadow").chmod(0o600)
        hashed = guest.hash_password("a:b c")
        in_root(root, lambda: guest.set_password("bob", hashed))
        lines = (root / "etc/shadow").read_text().split("\n")
        assert lines[0] == "root:*:1:0:99999:7:::" and lines[1].startswith(f"bob:{hashed}:") and lines[2:] == [""]
        assert stat.S_IMODE((root / "etc/shadow").stat().st_mode) == 0o600
        assert (root / "etc/passwd").read_text() == self.PASSWD

    def test_no_shadow_file(self, root: Path) -> None:
        (root / "etc/passwd").write_text(self.PASSWD)
        in_root(root, lambda: guest.set_password("root", "$6$x$y"))
        assert (root / "etc/passwd").read_text() == self.PASSWD.replace("root:x", "root:$6$x$y", 1)

    def test_a_user_that_shadow_lacks(self, root: Path) -> None:
        (root / "etc/passwd").write_text(self.PASSWD)
        (root / "etc/shadow").write_text("root:*:1:0:99999:7:::")
        in_root(root, lambda: guest.set_password("bob", "$6$x$y"))
        assert (root / "etc/shadow").read_text().split("\n")[1].startswith("bob:$6$x$y:")

    def test_unknown_user(self, root: Path) -> None:
        (root / "etc/passwd").write_text(self.PASSWD)
        with pytest.raises(ChildFailed, match="no user eve"):
            in_root(root, lambda: guest.set_password("eve", "$6$x$y"))

    def test_a_fifo_for_shadow(self, root: Path) -> None:
        (root / "etc/passwd").write_text(self.PASSWD)
        os.mkfifo(root / "etc/shadow")
        with pytest.raises(OSError, match="not a regular file"):
            in_root(root, lambda: guest.set_password("bob", "$6$x$y"))

    def test_the_hash_is_one(self) -> None:
        hashed = guest.hash_password("pässword")
        assert hashed.startswith("$6$") and len(hashed) > 90
        assert hashed != guest.hash_password("pässword"), "salted"


@pytest.mark.parametrize("path", ["/dev/zero", "/proc/self/status", "/sys/kernel/uevent_seqnum"])
def test_read_takes_nothing_of_the_kernels(path: str) -> None:
    """/proc/self is this very process: a link to it must not bring its memory map into a file of the CT."""
    with pytest.raises(OSError, match="not a regular file"):
        files.read(path)
