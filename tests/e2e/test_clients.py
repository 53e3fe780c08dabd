"""The programs of others that call these commands: each one's own words, and its own way of reading the answer.

Written after the public code of the clients; what belongs to later versions (checkpoints, snapshots) is
refused here and checked to be.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from conftest import BUSYBOX, Vz
from testnode import Node

UP, DOWN = 7101, 7102


class Client:
    """Two CTs, one of them running, and a shell on the node as clients have it."""

    def __init__(self, vz: Vz) -> None:
        self.vz = vz

    def sh(self, line: str, status: int = 0, stdin: str = "") -> str:
        """Run a client's own command line and return what it printed."""
        done = self.vz.run("sh", "-c", line, stdin=stdin)
        assert done.returncode == status, (line, done)
        return done.stdout

    def json(self, line: str) -> list[dict[str, object]]:
        found = json.loads(self.sh(line), object_pairs_hook=unique)
        assert isinstance(found, list)
        return found


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """JSON objects whose keys are there once: some parsers refuse others."""
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


@pytest.fixture(scope="module")
def client(vz: Vz) -> Iterator[Client]:
    try:
        for ctid, name in ((UP, "web"), (DOWN, "db")):
            vz.ok("create", ctid, "--ostemplate", BUSYBOX, "--hostname", f"{name}.example.com", "--name", name)
            vz.ok("set", ctid, "--ipadd", f"192.0.2.{ctid - 7000}/24", "--description", "web, prod", "--ram", "256M",
                  "--swap", "0", "--save")  # fmt: skip
        vz.ok("start", UP)
        yield Client(vz)
    finally:
        vz.remove(UP)
        vz.remove(DOWN)


def test_ansible_inventory(client: Client) -> None:
    (found,) = client.json("vzlist -j")
    assert found["hostname"] == "web.example.com" and found["ctid"] == UP
    assert found["ip"] == ["192.0.2.101"]
    groups = found["description"]
    assert isinstance(groups, str) and [group.strip() for group in groups.split(",")] == ["web", "prod"]
    assert found["private"] == f"/vz/private/{UP}" and found["root"] == f"/vz/root/{UP}"


def test_ansible_module(client: Client, node: Node) -> None:
    ids = [row["veid"] for row in client.json("vzlist -a1j")]
    assert {UP, DOWN} <= set(ids)
    assert ids == [int(line) for line in client.sh("vzlist -1a").split()]
    (found,) = client.json(f"vzlist -aj {DOWN}")
    assert found["physpages"]["limit"] == 65536  # type: ignore[index]
    assert found["status"] == "stopped" and found["ip"] == ["192.0.2.102/24"]
    assert client.sh(f"vzlist -a1 -o status {DOWN}") == "stopped\n"
    assert client.sh(f"vzlist -a1 -o status {UP}").strip() == "running"
    done = client.vz.run("sh", "-c", f"vzctl  start   {UP}")
    assert done.returncode in (0, 32) and "already running" in done.stderr
    text = node.path(f"/etc/vz/conf/{DOWN}.conf").read_text()
    values = dict(re.findall(r'^(\w+)="(.*)"$', text, re.M))
    assert values["HOSTNAME"] == "db.example.com" and values["OSTEMPLATE"] == BUSYBOX


def test_ansible_module_diskspace(client: Client, node: Node) -> None:
    path = node.path(f"/etc/vz/conf/{DOWN}.conf")
    old = path.read_text()
    path.write_text(old + 'DISKSPACE="2G:3G"\n')
    try:
        (found,) = client.json(f"vzlist -aj {DOWN}")
        assert found["diskspace"]["hardlimit"] == 3 << 20  # type: ignore[index]
    finally:
        path.write_text(old)


def test_pyinfra(client: Client) -> None:
    by_id = {row["ctid"]: row for row in client.json("vzlist -a -j")}
    assert {UP, DOWN} <= set(by_id)
    assert by_id[DOWN]["hostname"] == "db.example.com"


def test_panels(client: Client, node: Node) -> None:
    assert [row["ctid"] for row in client.json("vzlist --json")] == [UP]
    (found,) = client.json("vzlist -jo hostname,laverage,vpsid,diskspace,cpulimit,cpuunits")
    assert list(found) == ["hostname", "laverage", "vpsid", "diskspace", "cpulimit", "cpuunits"]
    assert found["vpsid"] == UP and isinstance(found["cpuunits"], int)
    assert client.sh("vzlist -1") == f"      {UP}\n"
    lines = [line.split() for line in client.sh("vzlist -Hto ctid,status,hostname").splitlines()]
    assert lines == [[str(UP), "running", "web.example.com"]]
    for option, address in (("--ipadd", "192.0.2.111"), ("--ipdel", "192.0.2.111")):
        out = client.sh(f"vzctl set {UP} --save --setmode restart {option} {address}")
        assert f"CT configuration saved to /etc/vz/conf/{UP}.conf" in out and "Restarting" not in out
    assert 'IP_ADDR="192.0.2.101/24"\n' in node.path(f"/etc/vz/conf/{UP}.conf").read_text()


def test_openstack_nova(client: Client, node: Node, ctid: int) -> None:
    """The driver keeps its instance's name in NAME and asks for it by vzlist's pattern."""
    ids = [int(line) for line in client.sh("vzlist --all --no-header --output ctid").splitlines()]
    assert {UP, DOWN} <= set(ids)
    done = client.vz.run("vzlist", "-H", "-o", "ctid,status,name", "--all", "--name_filter", "instance-1")
    assert (done.returncode, done.stdout) == (0, "")
    limits = [line.split() for line in client.sh("vzlist --all -H -o ctid,privvmpages.l").splitlines()]
    assert all(len(words) == 2 and words[1].isdigit() for words in limits)
    client.sh(f"vzctl create {ctid} --ostemplate {BUSYBOX}")
    try:
        for words in (
            f"--ostemplate {BUSYBOX}",
            "--applyconfig basic",
            "--name instance-1",
            "--hostname instance-1",
            "--cpuunits 1000",
            "--cpulimit 50",
            "--cpus 1",
            "--onboot no",
        ):
            client.sh(f"vzctl set {ctid} --save {words}")
        for words in (
            "--vmguarpages 1000",
            "--privvmpages 1000",
            "--kmemsize 1000:2000",
            "--ioprio 3",
            "--diskspace 10G:11G",
        ):
            done = client.vz.run("sh", "-c", f"vzctl set {ctid} --save {words}")
            assert done.returncode == 0 and len(done.stderr.splitlines()) <= 1  # what the node cannot do is said
        client.sh(f"vzctl start {ctid}")
        line = client.sh("vzlist -H -o ctid,status,name --all --name_filter instance-1")
        assert line.split() == [str(ctid), "running", "instance-1"]
        client.sh(f"vzctl exec2 {ctid} echo root:pw '|' cat '>' /tmp/chpasswd")
        assert client.vz("exec", ctid, "cat /tmp/chpasswd").stdout == "root:pw\n"
        client.sh(f"vzctl stop {ctid}")
        client.sh(f"vzctl destroy {ctid}")
        assert node.path(f"/etc/vz/conf/{ctid}.conf.destroyed").exists()
        node.path(f"/etc/vz/conf/{ctid}.conf.destroyed").unlink()
    finally:
        client.vz.remove(ctid)


def test_vagrant_openvz(client: Client, node: Node) -> None:
    assert client.sh(f"vzlist -a -H -t -o ip {UP}") == "192.0.2.101\n"
    pattern = re.compile(r"^CTID\s+\d+\s+(exist|deleted)\s+(mounted|unmounted)\s+(running|down)$")
    for ctid, words in ((UP, ("exist", "mounted", "running")), (DOWN, ("exist", "unmounted", "down"))):
        match = pattern.match(client.sh(f"vzctl status {ctid}").rstrip("\n"))
        assert match and match.groups() == words
    assert client.sh(f"vzctl exec {UP} hostname") == "web.example.com\n"
    assert node.path(f"/vz/root/{UP}/etc/hostname").read_text() == "web.example.com\n"


def test_salt(client: Client) -> None:
    for line in client.sh("vzlist -a | tail -n +2").splitlines():
        ctid, processes, status, ip, hostname = line.split()
        if ctid == str(UP):
            assert processes.isdigit() and (status, ip, hostname) == ("running", "192.0.2.101", "web.example.com")
        if ctid == str(DOWN):
            assert (processes, status, ip) == ("-", "stopped", "192.0.2.102/24")


def test_zabbix(client: Client) -> None:
    rows = {}
    for line in client.sh("vzlist -a -o veid,hostname,status,laverage -H").splitlines():
        match = re.match(r"^\s*(\d+)\s+(\S+)\s+(\w+)\s+(\S+)$", line)
        assert match, line
        rows[int(match[1])] = match.groups()[1:]
    assert rows[UP][:2] == ("web.example.com", "running")
    load = rows[UP][2]
    assert load == "-" or [float(word) for word in load.split("/")]


def test_opennode(client: Client) -> None:
    lines = client.sh("vzlist -a -H -o ctid").splitlines()
    assert all(len(line) == 10 and line.startswith("   ") for line in lines)
    assert f"{UP:>10}" in lines


def test_opennode_tries_the_umount_again(client: Client, node: Node) -> None:
    holder = node.popen("sh", "-c", f"cd /vz/root/{UP} && echo in && exec sleep 60", stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"in\n"
        assert client.vz("stop", UP).returncode == 51
    finally:
        holder.kill()
        holder.communicate()
    client.sh(f"vzctl umount {UP}")
    client.sh(f"vzctl start {UP}")


def test_rex(client: Client) -> None:
    assert "already runn" in client.vz("start", UP).stderr
    client.sh(f"vzctl stop {UP} | grep 'Container was stopped'")
    client.sh(f"vzctl start {UP} | grep 'start in progress'")


def test_puppet(client: Client, node: Node) -> None:
    client.sh(f"vzlist -a -H -o ctid,status | grep -E '{DOWN}\\s+stopped'")
    client.sh(f"vzlist -a -H -o ctid,status | grep -E '{UP}\\s+stopped'", status=1)
    assert client.sh("readlink /etc/vz/names/web") == f"/etc/vz/conf/{UP}.conf\n"


def test_vzdump(client: Client, node: Node) -> None:
    """It holds the lock itself, asks for the word ``running``, and goes around its own lock."""
    client.sh(f"vzctl status {UP} | grep -q running")
    client.sh(f"vzctl status {DOWN} | grep -q running", status=1)
    assert node.holder is not None
    lock = node.path(f"/vz/lock/{UP}.lck")
    lock.write_text(f"{node.holder.pid}\n\n")
    try:
        assert client.vz("stop", UP).returncode == 9
        done = client.vz("--skiplock", "chkpnt", UP, "--suspend")
        assert done.returncode in (0, 20)  # 20: checkpoints come later
        if done.returncode == 0:
            client.sh(f"vzctl --skiplock chkpnt {UP} --resume")
        assert lock.exists()
    finally:
        lock.unlink()
    assert client.vz("exec", UP, "true").returncode == 0


def test_shell_parsers_of_status(client: Client) -> None:
    assert client.sh(f"vzctl status {DOWN}") == f"CTID {DOWN} exist unmounted down\n"
    assert client.sh("vzctl status 7199 | cut -d' ' -f3-5") == "deleted unmounted down\n"
    assert client.sh(f"vzctl status {UP} | awk '{{print $5}}'") == "running\n"
    assert client.sh(f"vzctl status {UP} | awk '{{print $3 \" \" $5}}'") == "exist running\n"  # ManageVE
    assert client.sh("vzctl status web") == f"CTID {UP} exist mounted running\n"


def test_emulab(client: Client, node: Node) -> None:
    assert client.vz.run("ip", "link", "add", "emu0", "type", "veth", "peer", "emu1").returncode == 0
    try:
        client.sh(f"vzctl set {UP} --netdev_add emu0 --save")
        assert 'NETDEV="emu0"\n' in node.path(f"/etc/vz/conf/{UP}.conf").read_text()
        assert "emu0" in client.vz("exec2", UP, "cat /proc/net/dev").stdout
        client.sh(f"vzctl set {UP} --netdev_del emu0 --save")
        assert client.vz.run("ip", "link", "show", "emu0").returncode == 0
    finally:
        client.vz.run("ip", "link", "del", "emu0")


def test_confs_are_sourced(client: Client) -> None:
    """Action scripts, panels and old tools source both files, with VEID set and without."""
    line = f'VEID={UP}; . /etc/vz/vz.conf; . /etc/vz/conf/{UP}.conf; echo "$VE_ROOT|$HOSTNAME|$IP_ADDR|$DESCRIPTION"'
    for shell in ("sh", "bash", "bash --posix"):
        out = client.sh(f"{shell} -euc {shlex.quote(line)}")
        assert out == f"/vz/root/{UP}|web.example.com|192.0.2.101/24|web, prod\n"


@pytest.mark.parametrize(
    "line",
    [
        "vzctl chkpnt {} --dumpfile /vz/dump/x",
        "vzctl snapshot {} --id 6e1b4d9e-0f7d-4b4f-9a5e-6a0f1d2c3b4a --skip-suspend",
        "vzctl snapshot-list {} -H -o uuid",
        "vzctl compact {}",
    ],
)
def test_what_comes_later_is_refused_to_clients_with_one_line(client: Client, line: str) -> None:
    from vz.cli.table import VERBS

    if line.split()[1] in VERBS:
        pytest.skip("it is there now")
    done = client.vz.run("sh", "-c", line.format(DOWN))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (20, "", 1)
