"""A CT's configuration over the node's: layers, lazy parsing, warnings, and what loading it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vz.config.ctconfig as module
import vz.config.nodeconfig as nodemodule
from vz.config.conffile import ConfFile
from vz.config.ctconfig import CTConfig, load_ct, store
from vz.config.nodeconfig import NodeConfig, load_node
from vz.errors import InvalidConfig, NoGlobalConfig

SRC = Path(module.__file__).parents[2]


def node(text: str = "") -> NodeConfig:
    return NodeConfig(ConfFile("vz.conf", text.encode()))


def ct(text: str, node_text: str = "") -> CTConfig:
    return load_ct(101, node(node_text), ConfFile("101.conf", text.encode()))


def test_the_cts_own_file_counts_before_the_nodes() -> None:
    conf = ct('CPUUNITS="500"\n', 'CPUUNITS="2000"\nONBOOT="yes"\nNAMESERVER="inherit"\n')
    assert conf.cpuunits == 500
    assert conf.onboot is True
    assert conf.nameserver == ["inherit"]
    assert conf.cpulimit is None


def test_node_keys_that_mean_something_else_are_no_defaults() -> None:
    conf = ct("", 'LOCAL_UID="100000"\nNETFILTER="full"\nNAME="x"\nIP_ADDR="192.0.2.1"\n')
    assert conf.local_uid is None
    assert conf.netfilter is None
    assert conf.name is None
    assert conf.ip_addr is None


def test_values_are_parsed_into_base_units() -> None:
    conf = ct(
        'PHYSPAGES="0:256M"\nDISKSPACE="2G:2.2G"\nIP_ADDR="192.0.2.1/24 2001:db8::1"\nFEATURES="ppp:on"\nDISABLED=no\n'
    )
    assert conf.physpages == (0, 65536)
    assert conf.diskspace == (2097152, 2306867)
    assert conf.ip_addr == ["192.0.2.1/24", "2001:db8::1"]
    assert conf.features == {"ppp": True}
    assert conf.disabled is False


def test_a_bad_value_is_skipped_with_one_warning_that_says_where() -> None:
    conf = ct('# x\nCPUUNITS="lots"\nCPUS="2"\n')
    assert conf.cpuunits is None
    assert conf.cpuunits is None
    assert conf.cpus == 2
    assert len(conf.warnings) == 1
    assert conf.warnings[0].startswith("Warning at 101.conf:2: CPUUNITS: ")


def test_empty_values_are_unset_but_empty_lists_are_empty() -> None:
    conf = ct('CPUS=""\nIP_ADDR=""\nNETIF=""\nHOSTNAME=\n')
    assert conf.cpus is None
    assert conf.hostname is None
    assert conf.ip_addr == []
    assert conf.netif == []
    assert conf.warnings == []


def test_check_names_unknown_keys_later_keys_and_vain_capabilities() -> None:
    conf = ct(
        'FOO="1"\nCPUUWEIGHT="1"\nIOPRIO="4"\nIOLIMIT="x"\n'
        'CAPABILITY="SYS_TIME:on CHOWN:on"\nVEID="101"\nPHYSPAGES="0:1G"\nSWAPPAGES="0"\nNUMPTY="16"\n'
        'FEATURES="nfs:on ppp:on userns:off"\n'
    )
    text = "\n".join(conf.check())
    assert "Warning at 101.conf:1: unknown parameter FOO, ignored" in text
    assert "Not in force in this version: CPUUWEIGHT" in text.splitlines()
    assert "101.conf:4: IOLIMIT" in text
    assert "no user namespace can give SYS_TIME" in text
    assert "FEATURES: not in this version: nfs:on userns:off" in text
    assert "VEID" not in text


def test_an_old_iptables_list_is_read_as_netfilter() -> None:
    assert ct('IPTABLES="iptable_nat ipt_state"\n').netfilter == "full"
    assert ct('IPTABLES="iptable_nat"\nNETFILTER="disabled"\n').netfilter == "disabled"
    assert ct('IPTABLES="iptable_nat"\nNETFILTER=""\n').netfilter is None


def test_a_part_of_netfilter_in_a_file_is_read_and_named() -> None:
    for word in ("stateless", "stateful"):
        conf = ct(f'NETFILTER="{word}"\n')
        assert conf.netfilter == word
        assert any(line.startswith(f"NETFILTER={word}: ") for line in conf.check())
    for word in ("full", "disabled", ""):
        assert not any("NETFILTER" in line for line in ct(f'NETFILTER="{word}"\n').check())


def test_unknown_attributes_are_attribute_errors() -> None:
    with pytest.raises(AttributeError):
        ct("").nonsense  # noqa: B018


def test_veid_in_paths() -> None:
    conf = ct('VE_ROOT="/vz/root/$VEID"\n')
    assert conf.expand(conf.ve_root, 101) == "/vz/root/101"
    assert conf.expand("/a/${VEID}/$VEID", 7) == "/a/7/7"


def test_store_writes_the_stored_form() -> None:
    file = ConfFile("101.conf")
    store(file, "physpages", (0, 65536))
    store(file, "onboot", True)
    store(file, "capability", {"net_admin": True, "chown": False})
    store(file, "ip_addr", ["192.0.2.1/24", "2001:db8::1"])
    store(file, "name", "x")
    store(file, "name", None)
    assert file.dump().decode() == (
        'PHYSPAGES="0:65536"\nONBOOT="yes"\nCAPABILITY="NET_ADMIN:on CHOWN:off"\nIP_ADDR="192.0.2.1/24 2001:db8::1"\n'
    )


def test_a_missing_conf_is_no_error_and_a_bad_one_is_85(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONF_DIR", str(tmp_path))
    assert load_ct(101, node()).conf is None
    (tmp_path / "101.conf").write_bytes(b"A\0B")
    with pytest.raises(InvalidConfig):
        load_ct(101, node())
    (tmp_path / "102.conf").mkdir()
    with pytest.raises(InvalidConfig):
        load_ct(102, node())


def test_a_missing_vz_conf_is_status_10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodemodule, "VZ_CONF", str(tmp_path / "vz.conf"))
    with pytest.raises(NoGlobalConfig) as caught:
        load_node()
    assert caught.value.code == 10
    (tmp_path / "vz.conf").write_bytes(b"\0")
    with pytest.raises(InvalidConfig):
        load_node()


def test_the_nodes_defaults() -> None:
    empty = node()
    assert (empty.lockdir, empty.dumpdir, empty.template) == ("/vz/lock", "/vz/dump", "/vz/template")
    assert (empty.ve_layout, empty.cgroup_parent, empty.ipv6, empty.stop_timeout_s) == ("overlay", "vz", True, 0)
    assert empty.local_uid + empty.local_uid_pool <= 4294967295


def test_numbers_of_the_node_that_are_none_are_the_default() -> None:
    assert node('VERBOSE="much"\nSTOP_TIMEOUT="-1"\nLOCAL_UID="١"\n').verbose == 0
    assert node('STOP_TIMEOUT="30"\n').stop_timeout_s == 30


@pytest.mark.parametrize("path", ["..", "../x", "a/../..", "", "/", "a//b", "a b", "$(x)", "."])
def test_the_cgroup_parent_stays_below_the_top(path: str) -> None:
    with pytest.raises(InvalidConfig):
        _ = node(f'CGROUP_PARENT="{path}"\n').cgroup_parent
    assert node('CGROUP_PARENT="/machine.slice/vz/"\n').cgroup_parent == "machine.slice/vz"


COST = """
import sys
sys.path.insert(0, sys.argv[1])
import os
before = set(sys.modules)
from vz.config.conffile import ConfFile
from vz.config.ctconfig import load_ct
from vz.config.nodeconfig import NodeConfig
node = NodeConfig(ConfFile("vz.conf", b'VE_ROOT="/vz/root/$VEID"'))
conf = load_ct(101, node, ConfFile("c", b'LOCAL_UID="65536"\\nVE_PRIVATE="/p"\\nPHYSPAGES="0:1G"'))
assert (conf.ve_root, conf.local_uid) == ("/vz/root/$VEID", 65536)
assert (conf.local_uid_count, conf.features, conf.capability) == (None, None, None)
print(*sorted(set(sys.modules) - before))
"""


def test_what_status_and_exec_ask_for_imports_neither_the_table_nor_anything_heavy() -> None:
    out = subprocess.check_output([sys.executable, "-I", "-S", "-c", COST, str(SRC)], text=True)
    assert out.split() == [
        "__future__",
        "vz",
        "vz.config",
        "vz.config.conffile",
        "vz.config.ctconfig",
        "vz.config.nodeconfig",
        "vz.config.paths",
        "vz.errors",
    ]
