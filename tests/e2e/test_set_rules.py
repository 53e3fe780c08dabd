"""set: the meta rules of the contract, each with its words, its status, and whether the conf is touched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Vz
from testnode import Node

LOST = "WARNING: Settings were not saved to config and will be lost after CT restart (use --save flag)\n"
UNSAVED = "WARNING: Settings were not saved to config (use --save flag)\n"
NOTHING = "No changes in CT configuration, not saving\n"
NOT_SAVING = "Error: failed to apply some parameters, not saving configuration file!\n"
CONSIDER = (
    "WARNING: Some of the parameters could not be applied to a running container. "
    "Please consider using --setmode option\n"
)


def saved(ctid: int) -> str:
    return f"CT configuration saved to /etc/vz/conf/{ctid}.conf\n"


def conf_of(node: Node, ctid: int) -> Path:
    return node.path(f"/etc/vz/conf/{ctid}.conf")


@pytest.fixture
def stopped(new_ct: Callable[..., int]) -> int:
    return new_ct(start=False)


@pytest.fixture
def untouched(node: Node) -> Iterator[Callable[[int], None]]:
    """Note the conf of a CT; at the end it is the same file with the same bytes."""
    noted = {}

    def note(ctid: int) -> None:
        noted[ctid] = (conf_of(node, ctid).stat().st_ino, conf_of(node, ctid).read_bytes())

    yield note
    for ctid, (inode, data) in noted.items():
        path = conf_of(node, ctid)
        assert (path.stat().st_ino, path.read_bytes()) == (inode, data)


@pytest.mark.parametrize(
    ("words", "applied"),
    [
        (["--hostname", "a.example"], ""),
        (["--onboot", "yes"], ""),
        (["--description", "x"], ""),
        (
            ["--cpuunits", "500", "--cpulimit", "20", "--cpus", "1"],
            "Setting CPU units: 500\nSetting CPU limit: 20\nSetting CPUs: 1\n",
        ),
        (["--numproc", "200"], "UB limits were set successfully\n"),
        (["--ram", "128M", "--swap", "0"], "UB limits were set successfully\n"),
        (["--devices", "c:10:200:rw"], "Setting devices\n"),
        (["--devnodes", "null:rw"], "Setting devices\n"),
        (["--ipadd", "192.0.2.41/24 192.0.2.42"], "Adding IP address(es): 192.0.2.41 192.0.2.42\n"),
        (["--netif_add", "eth0"], "Configure veth devices: eth0\n"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_running_without_save(
    vz: Vz, node: Node, ct: int, untouched: Callable[[int], None], words: list[str], applied: str
) -> None:
    untouched(ct)
    done = vz("set", ct, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, applied + LOST, "")


@pytest.mark.parametrize(
    ("words", "applied"),
    [
        (["--hostname", "a.example"], ""),
        (["--cpuunits", "500"], "Setting CPU units: 500\n"),
        (["--stop-timeout", "7"], ""),
        (["--bootorder", "3"], ""),
        (["--disabled", "yes"], ""),
        (["--ostemplate", "other"], ""),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_running_with_save(vz: Vz, ct: int, words: list[str], applied: str) -> None:
    done = vz("set", ct, *words, "--save")
    assert (done.returncode, done.stdout, done.stderr) == (0, applied + saved(ct), "")
    done = vz("set", ct, *words, "--save")
    assert (done.returncode, done.stdout, done.stderr) == (0, applied + NOTHING, "")


@pytest.mark.parametrize(
    "words",
    [
        ["--cpuunits", "500"],
        ["--cpulimit", "5"],
        ["--cpus", "1"],
        ["--cpumask", "0"],
        ["--numproc", "9"],
        ["--ram", "1G"],
    ]
    + [["--swap", "1G"], ["--devices", "c:1:3:r"], ["--devnodes", "fuse:r"], ["--hostname", "a", "--cpus", "1"]],
    ids=lambda words: words[0],
)
def test_stopped_without_save_resources_are_31(
    vz: Vz, stopped: int, untouched: Callable[[int], None], words: list[str]
) -> None:
    untouched(stopped)
    done = vz("set", stopped, *words)
    assert (done.returncode, done.stdout) == (31, "")
    assert done.stderr == "Unable to apply new values: container is not running\n"


def test_stopped_without_save_the_rest_is_a_warning(vz: Vz, stopped: int, untouched: Callable[[int], None]) -> None:
    untouched(stopped)
    done = vz("set", stopped, "--hostname", "a.example", "--ipadd", "192.0.2.43", "--features", "ppp:on")
    assert (done.returncode, done.stdout, done.stderr) == (0, UNSAVED, "")


def test_stopped_with_save_is_saved_only(vz: Vz, node: Node, stopped: int) -> None:
    done = vz("set", stopped, "--cpuunits", "500", "--ipadd", "192.0.2.44", "--features", "ppp:on", "--save")
    assert (done.returncode, done.stdout, done.stderr) == (0, saved(stopped), "")
    text = conf_of(node, stopped).read_text()
    for line in ('CPUUNITS="500"', 'IP_ADDR="192.0.2.44"', 'FEATURES="ppp:on"'):
        assert f"{line}\n" in text


def test_save_without_anything_to_save(vz: Vz, stopped: int, untouched: Callable[[int], None]) -> None:
    untouched(stopped)
    for words in (["--save"], ["--force", "--save"], ["--ipdel", "192.0.2.99", "--save"]):
        done = vz("set", stopped, *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, NOTHING, "")
    assert vz("set", stopped).returncode == 20


def test_a_failed_step_saves_nothing_and_gives_its_status(vz: Vz, ct: int, untouched: Callable[[int], None]) -> None:
    untouched(ct)
    for words, status in (
        (["--hostname", "b.example", "--netdev_add", "nosuch0"], 104),
        (["--onboot", "yes", "--devnodes", "nosuch:rw"], 86),
        (["--cpuunits", "700", "--cpumask", "8000"], 2),
        (["--netif_add", "eth0,,,,nosuchbr"], 130),
    ):
        done = vz("set", ct, *words, "--save")
        assert done.returncode == status, done
        assert done.stderr.startswith(NOT_SAVING) and done.stderr.count("\n") == 2
        done = vz("set", ct, *words)
        assert done.returncode == status and NOT_SAVING not in done.stderr and done.stderr.count("\n") == 1


def test_force_saves_what_cannot_be_applied_now(vz: Vz, node: Node, ct: int) -> None:
    done = vz("set", ct, "--cpumask", "8000", "--description", "x", "--force", "--save")
    assert (done.returncode, done.stdout) == (0, saved(ct))
    assert done.stderr.splitlines()[0].startswith("Unable to set cpumask")
    assert done.stderr.splitlines()[1] == (
        "WARNING: not everything could be applied now; it is saved and counts from the next start (--force)"
    )
    assert 'CPUMASK="8000"\n' in conf_of(node, ct).read_text()
    vz.ok("set", ct, "--cpumask", "all", "--save")


def test_a_missing_conf_is_made_with_a_warning(vz: Vz, node: Node, ctid: int) -> None:
    done = vz("set", ctid, "--hostname", "a.example", "--save")
    try:
        assert (done.returncode, done.stdout) == (0, saved(ctid))
        assert done.stderr == f"WARNING: /etc/vz/conf/{ctid}.conf does not exist: it is made anew\n"
        assert conf_of(node, ctid).read_text() == 'HOSTNAME="a.example"\n'
    finally:
        conf_of(node, ctid).unlink()


RESTART_ONLY = [
    (["--capability", "net_raw:off"], "capability", 'CAPABILITY="NET_RAW:off"'),
    (["--features", "ppp:on"], "features", 'FEATURES="ppp:on"'),
    (["--netfilter", "full"], "iptables/netfilter", 'NETFILTER="full"'),
    (["--iptables", "iptable_nat"], "iptables/netfilter", 'NETFILTER="full"'),
    (["--mount_opts", "noatime"], "mount options", 'MOUNT_OPTS="noatime"'),
]


@pytest.mark.parametrize(
    ("words", "name", "line"), RESTART_ONLY, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_what_needs_a_restart(vz: Vz, node: Node, ct: int, words: list[str], name: str, line: str) -> None:
    before = conf_of(node, ct).read_bytes()
    record = node.path(f"/run/vz/{ct}/record").read_text()
    refusal = f"Unable to set {name} on a running container\n"
    done = vz("set", ct, *words, "--setmode", "ignore", "--save")
    assert (done.returncode, done.stdout) == (32, "")
    assert done.stderr.endswith(NOT_SAVING + refusal)
    assert conf_of(node, ct).read_bytes() == before
    done = vz("set", ct, *words, "--save")
    assert (done.returncode, done.stdout) == (0, saved(ct))
    assert done.stderr.endswith(refusal + CONSIDER)
    assert f"{line}\n" in conf_of(node, ct).read_text()
    assert node.path(f"/run/vz/{ct}/record").read_text() == record, "it was not restarted"


def test_setmode_restart_restarts_only_for_a_change(vz: Vz, node: Node, ct: int) -> None:
    record = node.path(f"/run/vz/{ct}/record")
    first = record.read_text()
    words = ["--capability", "mknod:off", "--hostname", "r.example", "--setmode", "restart", "--save"]
    done = vz("set", ct, *words, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(
        "Starting container...\nContainer is mounted\nContainer start in progress...\n" + saved(ct)
    )
    second = record.read_text()
    assert second != first
    assert vz("exec", ct, "hostname").stdout == "r.example\n"
    done = vz("set", ct, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, NOTHING, "")
    done = vz("set", ct, "--setmode", "restart", "--save", "--ipadd", "192.0.2.45")  # a panel's words
    assert (done.returncode, done.stdout) == (0, "Adding IP address(es): 192.0.2.45\n" + saved(ct))
    assert record.read_text().split("init_start")[1].splitlines()[0] == second.split("init_start")[1].splitlines()[0]


def test_a_restart_that_fails_saves_nothing(vz: Vz, node: Node, ct: int, untouched: Callable[[int], None]) -> None:
    script = node.path(f"/etc/vz/conf/{ct}.mount")
    vz.ok("set", ct, "--stop-timeout", "1", "--save")
    untouched(ct)
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    try:
        done = vz("set", ct, "--features", "ppp:on", "--setmode", "restart", "--save")
        assert done.returncode == 79
        assert NOT_SAVING in done.stderr
        assert vz.ok("status", ct) == f"CTID {ct} exist unmounted down\n"
    finally:
        script.unlink()


def test_root_and_private_only_while_it_is_down(vz: Vz, node: Node, stopped: int) -> None:
    vz.ok("mount", stopped)
    for option, key in (("--root", "VE_ROOT"), ("--private", "VE_PRIVATE")):
        done = vz("set", stopped, option, "/vz/other/$VEID", "--save")
        assert (done.returncode, done.stdout) == (41, "")
        assert done.stderr == f"Unable to change {key} on a mounted container (umount first)\n"
    vz.ok("start", stopped)
    for option, key in (("--root", "VE_ROOT"), ("--private", "VE_PRIVATE")):
        done = vz("set", stopped, option, "/vz/other/$VEID", "--save")
        assert (done.returncode, done.stdout, done.stderr) == (
            32,
            "",
            f"Unable to change {key} on a running container\n",
        )
    vz.ok("stop", stopped, "--fast")
    vz.ok("set", stopped, "--root", "/vz/other-root/${VEID}", "--save")
    assert 'VE_ROOT="/vz/other-root/${VEID}"\n' in conf_of(node, stopped).read_text()
    vz.ok("start", stopped)
    assert f"/vz/other-root/{stopped} " in vz.run("cat", "/proc/mounts").stdout
    vz.ok("stop", stopped, "--fast")


def test_passwords_need_no_save_and_leave_no_trace(
    vz: Vz, node: Node, stopped: int, untouched: Callable[[int], None]
) -> None:
    untouched(stopped)
    for _ in range(2):
        done = vz("set", stopped, "--userpasswd", "root:s3cret:x y")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        vz.ok("start", stopped)
        assert vz("exec", stopped, "grep ^root: /etc/shadow").stdout.startswith("root:$6$")
        done = vz("set", stopped, "--userpasswd", "root:s3cret", "--save")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        vz.ok("stop", stopped, "--fast")
    assert "s3cret" not in node.path("/var/lib/vzctl/vzctl.log").read_text()
    assert vz.ok("status", stopped) == f"CTID {stopped} exist unmounted down\n"


def test_names_and_their_links(vz: Vz, node: Node, stopped: int) -> None:
    link = node.path("/etc/vz/names/n 1")
    assert vz.ok("set", stopped, "--name", "n 1", "--save") == "Name n 1 assigned\n" + saved(stopped)
    assert os.readlink(link) == f"/etc/vz/conf/{stopped}.conf"
    link.unlink()  # lost: saving the same name makes it anew
    assert vz.ok("set", stopped, "--name", "n 1", "--save") == "Name n 1 assigned\n" + NOTHING
    assert link.is_symlink()
    link.unlink()
    assert vz("set", stopped, "--applyconfig_map", "name", "--save").returncode == 0
    assert link.is_symlink()
    assert vz.ok("set", "n 1", "--name", "n2", "--save") == "Name n2 assigned\n" + saved(stopped)
    assert not link.is_symlink() and vz.ok("status", "n2").startswith(f"CTID {stopped} ")
    assert vz.ok("set", "n2", "--name", "", "--save") == saved(stopped)
    assert 'NAME=""\n' in conf_of(node, stopped).read_text()
    assert not os.path.lexists(node.path("/etc/vz/names/n2"))


def test_applyconfig(vz: Vz, node: Node, stopped: int) -> None:
    """All keys of a sample but identity; the conf's own other keys stay."""
    sample = node.path("/etc/vz/conf/ve-of-test.conf-sample")
    sample.write_text(
        'HOSTNAME="no"\nIP_ADDR="192.0.2.66"\nOSTEMPLATE="no"\nVE_ROOT="/no"\nVE_PRIVATE="/no"\nDESCRIPTION="no"\n'
        'NAME="no"\nVE_LAYOUT="ploop"\nCPUUNITS="321"\nKMEMSIZE="1000:2000"\nIOPRIO="5"\n'
    )
    try:
        vz.ok("set", stopped, "--hostname", "mine", "--cpus", "1", "--save")
        before = conf_of(node, stopped).read_text()
        assert vz("set", stopped, "--applyconfig", "of-test").returncode == 31
        vz.ok("set", stopped, "--applyconfig", "of-test", "--cpulimit", "5", "--save")
        added = 'CPUUNITS="321"\nKMEMSIZE="1000:2000"\nIOPRIO="5"\nORIGIN_SAMPLE="of-test"\nCPULIMIT="5"\n'
        assert conf_of(node, stopped).read_text() == before + added
    finally:
        sample.unlink()


def test_the_layout_is_stored_again(vz: Vz, node: Node, stopped: int) -> None:
    path = conf_of(node, stopped)
    path.write_text(path.read_text().replace('VE_LAYOUT="overlay"\n', ""))
    assert vz.run("vzlist", "-Ho", "layout", stopped).stdout == "overlay\n"
    vz.ok("set", stopped, "--cpus", "1", "--save")
    assert path.read_text().endswith('CPUS="1"\nVE_LAYOUT="overlay"\n')


def test_the_layout_of_files_still_to_come_is_not_guessed(vz: Vz, node: Node, ctid: int) -> None:
    """An old node's vzmigrate sets the paths before it copies the files."""
    path = conf_of(node, ctid)
    path.write_text('HOSTNAME="a"\n')
    try:
        vz.ok("set", ctid, "--private", "/vz/private/$VEID", "--root", "/vz/root/$VEID", "--save")
        assert path.read_text() == 'HOSTNAME="a"\nVE_PRIVATE="/vz/private/$VEID"\nVE_ROOT="/vz/root/$VEID"\n'
    finally:
        path.unlink()


def test_addresses(vz: Vz, node: Node, ct: int) -> None:
    vz.ok("set", ct, "--ipadd", "192.0.2.51/24", "--ip", "2001:db8::51/64", "--save")
    done = vz("set", ct, "--ipdel", "all", "--ipadd", "192.0.2.52", "--ipadd", "0.0.0.0", "--ipadd", "::/0", "--save")
    assert done.stdout == (
        "Deleting IP address(es): 192.0.2.51 2001:db8::51\nAdding IP address(es): 192.0.2.52\n" + saved(ct)
    )
    assert 'IP_ADDR="192.0.2.52"\n' in conf_of(node, ct).read_text()
    done = vz("set", ct, "--ipadd", "192.0.2.52/24", "--save")  # another mask: the address itself stays
    assert (done.returncode, done.stdout) == (0, saved(ct))
    assert 'IP_ADDR="192.0.2.52/24"\n' in conf_of(node, ct).read_text()


def test_ipv6_switched_off(vz: Vz, node: Node, stopped: int) -> None:
    conf = node.path("/etc/vz/vz.conf")
    old = conf.read_text()
    conf.write_text("IPV6=no\n" + old)
    try:
        done = vz("set", stopped, "--ipadd", "192.0.2.53 2001:db8::53", "--save")
        assert (done.returncode, done.stdout) == (0, saved(stopped))
        assert done.stderr == "WARNING: IPv6 is off in /etc/vz/vz.conf: 2001:db8::53 is left out\n"
        assert 'IP_ADDR="192.0.2.53"\n' in conf_of(node, stopped).read_text()
    finally:
        conf.write_text(old)


def test_lists_are_replaced_or_added_to(vz: Vz, node: Node, stopped: int) -> None:
    vz.ok("set", stopped, "--nameserver", "192.0.2.1", "--nameserver", "192.0.2.2", "--searchdomain", "a b", "--save")
    vz.ok("set", stopped, "--capability", "chown:off,kill:on", "--devices", "c:10:200:rw", "--save")
    vz.ok("set", stopped, "--nameserver", "192.0.2.3", "--capability", "CHOWN:on", "--devices", "c:10:229:r", "--save")
    text = conf_of(node, stopped).read_text()
    for line in (
        'NAMESERVER="192.0.2.3"',
        'SEARCHDOMAIN="a b"',
        'CAPABILITY="CHOWN:on KILL:on"',
        'DEVICES="c:10:200:rw c:10:229:r"',
    ):
        assert f"{line}\n" in text


def test_interfaces_are_made_up_edited_and_taken(vz: Vz, node: Node, stopped: int) -> None:
    def netif() -> str:
        return next(line for line in conf_of(node, stopped).read_text().splitlines() if line.startswith("NETIF="))

    short = f"veth{stopped}.0"
    vz.ok("set", stopped, "--netif_add", "eth0,00:18:51:aa:bb:cc", "--netif_add", "eth1", "--save")
    assert netif().startswith(
        f'NETIF="ifname=eth0,mac=00:18:51:AA:BB:CC,host_ifname={short},host_mac=00:18:51:AA:BB:CC,mac_filter=on;ifname=eth1,mac=00:18:51:'
    ), "the MAC of the node's end is the one given"
    vz.ok("set", stopped, "--ifname", "eth0", "--bridge", "br0", "--mac_filter", "off", "--host_ifname", "h0", "--save")
    assert netif().startswith(
        'NETIF="ifname=eth0,bridge=br0,mac=00:18:51:AA:BB:CC,host_ifname=h0,host_mac=00:18:51:AA:BB:CC,mac_filter=off;'
    )
    vz.ok("set", stopped, "--netif_del", "eth0", "--netif_add", "eth2", "--save")
    names = [part.split("host_ifname=")[1].split(",")[0] for part in netif().split(";")]
    assert len(set(names)) == 2, "a made up name is never taken twice"
    assert vz("set", stopped, "--netif_add", "eth2", "--save").returncode == 130
    assert vz("set", stopped, "--ifname", "eth9", "--bridge", "br0", "--save").returncode == 130
    assert vz("set", stopped, "--netif_add", f"eth3,,{names[0]}", "--save").returncode == 130
    vz.ok("set", stopped, "--netif_del", "all", "--save")
    assert netif() == 'NETIF=""'


def test_device_nodes_come_and_go_in_a_running_ct(vz: Vz, node: Node, ct: int) -> None:
    if not node.path("/dev/fuse").exists():
        pytest.skip("needs /dev/fuse")
    vz.ok("set", ct, "--devnodes", "fuse:rw", "--save")
    assert vz("exec", ct, "test -c /dev/fuse && : <>/dev/fuse && stat -c '%u %g %a' /dev/fuse").stdout == "0 0 660\n"
    vz.ok("set", ct, "--devnodes", "fuse:r", "--save")
    assert vz("exec2", ct, ": </dev/fuse").returncode == 0
    assert vz("exec2", ct, ": >/dev/fuse").returncode != 0
    vz.ok("set", ct, "--devnodes", "fuse:none", "--save")
    assert vz("exec2", ct, "test -e /dev/fuse").returncode == 1
    assert 'DEVNODES="fuse:none"\n' in conf_of(node, ct).read_text()
    vz.ok("set", ct, "--devnodes", "fuse:rw", "--save")
    vz.ok("restart", ct, "--fast")
    assert vz("exec2", ct, ": <>/dev/fuse").returncode == 0


def test_a_link_in_the_way_of_a_node_leads_nowhere(vz: Vz, node: Node, ct: int) -> None:
    vz.sh(
        ct,
        "mkdir /tmp/net; rm -rf /dev/net; ln -s /tmp/net /dev/net; ln -s /etc/passwd /dev/fuse; cp /etc/passwd /tmp/p",
    )
    vz.ok("set", ct, "--devnodes", "fuse:rw")
    assert vz("exec2", ct, "cmp /etc/passwd /tmp/p && test -c /dev/fuse").returncode == 0
    if node.path("/dev/net/tun").exists():
        done = vz("set", ct, "--devnodes", "net/tun:rw")
        assert done.returncode == 86 and done.stderr.count("\n") == 1


def test_what_has_no_effect_says_so(vz: Vz, stopped: int) -> None:
    done = vz("set", stopped, "--mount_opts", "noatime", "--netfilter", "stateless", "--save")
    assert done.returncode == 0
    assert [line.split(" ")[1] for line in done.stderr.splitlines()] == ["MOUNT_OPTS", "NETFILTER=stateless:"]
