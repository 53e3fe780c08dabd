"""CTID.conf files as OpenVZ 6 and its panels wrote them: they load, they validate, and no byte is lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vz.config.conffile import ConfFile
from vz.config.ctconfig import CTConfig, load_ct
from vz.config.netif import Netif
from vz.config.nodeconfig import NodeConfig
from vz.config.options import OPTIONS
from vz.config.units import UNLIMITED
from vz.config.validate import ERROR, check_file
from vz.container.ct import parse_ctid
from vz.errors import BadValue

CONF = Path(__file__).parent / "conf"
FILES = sorted(CONF.glob("*.conf"))
NODE = NodeConfig(ConfFile("vz.conf"))


def load(number: int) -> CTConfig:
    path = next(path for path in FILES if path.name.startswith(str(number)))
    return load_ct(number, NODE, ConfFile.read(str(path)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_set_is_the_same_file_byte_for_byte(path: Path, tmp_path: Path) -> None:
    file = ConfFile.read(str(path))
    assert file.dump() == path.read_bytes()
    copy = tmp_path / "copy.conf"
    file.save(str(copy))
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_setting_one_key_keeps_every_other_line(path: Path) -> None:
    file = ConfFile.read(str(path))
    before = path.read_bytes().split(b"\n")
    file.set("HOSTNAME", "new.example.com")
    after = file.dump().split(b"\n")
    line = b'HOSTNAME="new.example.com"'
    assert line in after
    kept = [text for text in before if not text.lstrip().startswith(b"HOSTNAME=") and text]
    assert [text for text in after if text in kept] == kept
    file.set("X_ADDED_LATER", "1")
    assert file.dump().endswith(b'\nX_ADDED_LATER="1"\n')


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_key_can_be_asked_for(path: Path) -> None:
    conf = load_ct(101, NODE, ConfFile.read(str(path)))
    for option in OPTIONS:
        value = getattr(conf, option.attr)
        if value is not None and option.attr not in ("ve_root", "ve_private", "ve_layout", "name", "ostemplate"):
            assert option.parse(option.format(value)) == value
    conf.check()


def test_ubc() -> None:
    conf = load(101)
    assert conf.kmemsize == (14372700, 14790164)
    assert conf.physpages == (0, UNLIMITED)
    assert conf.numothersock == (360, 360)
    assert conf.numflock == (188, 206)
    assert conf.diskspace == (1048576, 1153024)
    assert conf.onboot is True
    assert conf.nameserver == ["192.0.2.53", "198.51.100.53"]
    assert conf.netfilter == "stateless"
    assert conf.expand(conf.ve_root, 101) == "/vz/root/101"
    assert conf.capability == {"net_admin": True, "sys_time": True}
    assert "CAPABILITY: no user namespace can give SYS_TIME" in conf.check()
    assert not any(line.startswith("Not in force") for line in conf.warnings)


def test_vswap_and_ploop() -> None:
    conf = load(102)
    assert conf.physpages == (0, 262144)
    assert conf.ve_layout == "ploop"
    assert conf.ip_addr == ["192.0.2.102/24", "2001:db8::102/64"]
    assert conf.description == 'Customer "Example & Sons", paid in $ until 2014'
    assert (conf.cpulimit, conf.cpus, conf.iolimit, conf.iopslimit) == (200, 2, 10485760, 500)
    assert conf.features == {"nfs": True, "ppp": True}
    assert not any("Warning" in text for text in conf.check())


def test_netif_and_devices() -> None:
    conf = load(103)
    assert conf.netif == [
        Netif("eth0", "vmbr0", "7A:E6:2C:8D:0B:11", "veth103.0", "02:8C:3A:6F:11:5D", True),
        Netif("eth1", "", "00:18:51:5A:B1:22", "veth103.1", "00:18:51:B6:0D:27", False),
    ]
    assert conf.netdev == ["eth2", "dummy0"]
    assert conf.devices == ["c:10:200:rw", "c:108:0:rw", "b:8:all:none"]
    assert conf.devnodes == [("net/tun", "rw"), ("fuse", "rw")]
    assert conf.numproc == (UNLIMITED, UNLIMITED)
    assert conf.expand(conf.ve_private, 103) == "/var/lib/vz/private/103"


def test_comments_and_unknown_keys() -> None:
    conf = load(104)
    assert conf.onboot is False
    assert conf.cpuunits == 1500
    assert conf.ve_private == "/srv/big disk/104"
    assert conf.description == "multi tab, ünïcödé, 100% #1"
    warnings = "\n".join(conf.check())
    for word in ("X_BILLING_ID", "X_BILLING_PLAN", "SOMETHING_NEW", "OFFLINE_MANAGEMENT", ":15: not a KEY=VALUE line"):
        assert word in warnings
    for word in ("CONFIG_CUSTOMIZED", "SKIP_SYSCTL_SETUP", "VEID", "DISTRIBUTION", "TEMPLATE"):
        assert word not in warnings


def test_crlf() -> None:
    conf = load(105)
    assert conf.onboot is True
    assert conf.hostname == "crlf.example.com"
    assert conf.cpus == 2
    assert conf.ve_private == "/vz/private/$VEID"
    assert conf.check() == []


def test_duplicates_and_bad_values() -> None:
    conf = load(106)
    assert conf.cpuunits == 1000
    assert conf.hostname == "first.example.com"
    assert (conf.cpulimit, conf.onboot, conf.ip_addr, conf.netif, conf.description) == (None, None, None, None, None)
    assert conf.dcachesize == (1048576, 1097728)
    assert conf.numiptent == (128, 128)
    lines = {int(text.split(":")[1]) for text in conf.check() if text.startswith("Warning at")}
    assert lines == {4, 6, 7, 8, 9, 10, 11}


def test_latin_1_and_what_a_shell_would_run(tmp_path: Path) -> None:
    conf = load(108)
    assert conf.description.encode("utf-8", "surrogateescape") == b"caf\xe9 (Latin-1)"
    assert conf.mount_opts == "$(touch PWNED)`touch PWNED`"
    assert conf.conf is not None
    assert conf.conf.would_run() == ["MOUNT_OPTS"]
    conf.conf.set("MOUNT_OPTS", "noatime")
    conf.conf.set("MOUNT_OPTS", "$(touch PWNED)`touch PWNED`")  # written by us it is a constant
    path = tmp_path / "108.conf"
    conf.conf.save(str(path))
    subprocess.run(["sh", "-c", f". {path}"], cwd=tmp_path, check=True)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    ("number", "valid"),
    [(101, True), (102, True), (103, True), (104, True), (105, True), (106, False), (107, True), (108, True)],
)
def test_validation(number: int, valid: bool) -> None:
    conf = load(number).conf
    assert conf is not None
    errors = [item for item in check_file(conf, ram_bytes=1 << 36, swap_bytes=1 << 36) if item.level == ERROR]
    assert (errors == []) is valid, errors


BAD_IDS = [
    "0",
    "-1",
    "1_01",
    "١٠١",
    "../x",
    "101\n",
    "\n",
    "1" * 40,
    "",
    " 101",
    "101 ",
    "+101",
    "0x65",
    "01",
    "2147483645",
    "1.0",
    "²",
    "101/",
]


@pytest.mark.parametrize("word", BAD_IDS)
def test_bad_ids(word: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_ctid(word)
    assert caught.value.code == 21
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("word", ["1", "101", "2147483644"])
def test_ids(word: str) -> None:
    assert parse_ctid(word) == int(word)
