"""What a checkpoint carries, row by row, seen from inside; and what is put back beside criu."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import inner_python
import pytest
from chkpnt_rig import cycle

from conftest import Vz, template
from netns import Netns, Sniffer, wait_until
from probes import give
from vz.net.neighbours import ARP_REQUEST, Arp

CASES = [Path(__file__).with_name(name) for name in ("chkpnt_cases.py", "chkpnt_rows.py")]
ADDRESS = "192.0.2.80"


@pytest.mark.parametrize("layout", ["overlay", "simfs"])
def test_everything_that_is_carried(vz: Vz, new_ct, layout: str) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--ipadd", ADDRESS, template=template("debian-12-sysvinit"), layout=layout, start=False)
    vz.ok("start", ctid, "--wait")
    inner_python.install(vz, ctid)
    for path in CASES:
        vz("exec", ctid, f"cat > /opt/{path.name}", stdin=path.read_bytes())
    names = vz.ok("exec", ctid, f"{inner_python.PYTHON} /opt/chkpnt_rows.py --list").split()
    assert len(names) > 15
    vz.ok("exec", ctid, f"{inner_python.PYTHON} /opt/chkpnt_rows.py /var/tmp/cases")
    wait_for(vz, ctid, names, "ready")
    cycle(vz, ctid)
    cycle(vz, ctid)
    vz.ok("exec", ctid, "touch /var/tmp/cases/go")
    wait_for(vz, ctid, names, "result")
    results = {name: vz.ok("exec", ctid, f"cat /var/tmp/cases/{name}.result") for name in names}
    assert {name: text for name, text in results.items() if text != "ok"} == {}


def test_a_poll_with_a_timeout(vz: Vz, ct: int) -> None:
    """Programs such as mariadbd take EINTR, which criu would have it return, for the end of a connection."""
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86_64: elsewhere it is EINTR")
    probe = give(vz, ct, "pollwait")
    vz.sh(ct, f"mkfifo /root/fifo; setsid {probe} /root/fifo </dev/null >/root/result 2>&1 &")
    polling = "grep -lE '^(7|219) ' /proc/$(pidof pollwait)/task/*/syscall"
    assert wait_until(lambda: vz("exec", ct, polling).returncode == 0)
    cycle(vz, ct)
    vz.ok("chkpnt", ct, "--suspend")  # from here on it is in restart_syscall(2)
    vz.ok("chkpnt", ct, "--resume")
    cycle(vz, ct)
    assert vz("exec", ct, f"cat /root/result; {polling}").stdout.startswith("/proc/")
    vz.sh(ct, "echo x > /root/fifo")
    assert wait_until(lambda: vz("exec", ct, "cat /root/result").stdout == "1 0\n")


def wait_for(vz: Vz, ctid: int, names: list[str], suffix: str) -> None:
    deadline = time.monotonic() + 60
    missing = set(names)
    while missing:
        there = vz.sh(ctid, "ls /var/tmp/cases").split()
        missing = {name for name in names if f"{name}.{suffix}" not in there}
        assert time.monotonic() < deadline, f"no .{suffix} of {missing}"
        time.sleep(0.1)


def netns(vz: Vz, ctid: int) -> Netns:
    return Netns(str(vz.node.path(f"/proc/{init_pid(vz, ctid)}/ns/net")))


def init_pid(vz: Vz, ctid: int) -> int:
    return int(vz.run("cat", f"/var/lib/vzctl/vepid/{ctid}").stdout)


@pytest.fixture
def connected(vz: Vz, new_ct) -> int:  # type: ignore[no-untyped-def]
    ctid: int = new_ct("--ipadd", ADDRESS, "--ipadd", "2001:db8::80")
    return ctid


def looked(vz: Vz, ctid: int, *words: str) -> str:
    ns = netns(vz, ctid)
    try:
        return ns.run(*words)
    finally:
        ns.close()


def test_routes_of_other_tables_and_rules(vz: Vz, connected: int) -> None:
    for words in (
        "ip route add 198.51.100.0/24 dev venet0 table 100",
        "ip route add default via 198.51.100.1 dev venet0 onlink table 100 metric 7",
        "ip route add blackhole 203.0.113.0/24 table 1000",
        "ip -6 route add 2001:db8:5::/48 dev venet0 table 100",
        "ip rule add from 192.0.2.80 table 100",
        "ip route add 203.0.113.128/25 dev venet0",
    ):
        looked(vz, connected, *words.split())
    shown = (["ip", "route", "show", "table", "all"], ["ip", "-6", "route", "show", "table", "100"], ["ip", "rule"])
    before = [sorted(looked(vz, connected, *words).splitlines()) for words in shown]
    assert len(before[0]) > 5 and before[1]
    cycle(vz, connected)
    assert [sorted(looked(vz, connected, *words).splitlines()) for words in shown] == before


def test_permanent_neighbours(vz: Vz, connected: int) -> None:
    for words in (
        "ip link add b0 type bridge",
        "ip link set b0 up",
        "ip neigh add 198.51.100.9 lladdr 02:00:00:00:00:09 nud permanent dev b0",
        "ip -6 neigh add 2001:db8::99 lladdr 02:00:00:00:00:99 nud permanent dev b0",
        "ip neigh add proxy 198.51.100.10 dev b0",
    ):
        looked(vz, connected, *words.split())
    shown = (["ip", "neigh", "show", "nud", "permanent"], ["ip", "neigh", "show", "proxy"])
    before = [sorted(looked(vz, connected, *words).splitlines()) for words in shown]
    assert len(before[0]) == 2 and len(before[1]) == 1
    cycle(vz, connected)
    assert [sorted(looked(vz, connected, *words).splitlines()) for words in shown] == before


def test_traffic_control(vz: Vz, connected: int, inside: Netns) -> None:
    for words in (
        "tc qdisc add dev venet0 root handle 1: htb default 20",
        "tc class add dev venet0 parent 1: classid 1:1 htb rate 10mbit ceil 20mbit",
        "tc class add dev venet0 parent 1:1 classid 1:20 htb rate 1mbit",
        "tc filter add dev venet0 parent 1: protocol ip prio 1 u32 match ip dst 198.51.100.0/24 flowid 1:1",
    ):
        looked(vz, connected, *words.split())
    device = f"vz{connected}"
    for words in (
        f"tc qdisc add dev {device} root handle 1: htb default 10",
        f"tc class add dev {device} parent 1: classid 1:10 htb rate 5mbit",
    ):
        inside.run(*words.split())

    def look() -> list[list[str]]:
        found = [
            looked(vz, connected, "tc", "qdisc", "show", "dev", "venet0"),
            looked(vz, connected, "tc", "class", "show", "dev", "venet0"),
            looked(vz, connected, "tc", "filter", "show", "dev", "venet0"),
            inside.run("tc", "qdisc", "show", "dev", device),
            inside.run("tc", "class", "show", "dev", device),
        ]
        return [sorted(text.splitlines()) for text in found]

    before = look()
    assert all(before)
    cycle(vz, connected)
    assert look() == before


RULES = """
table inet guard {
    set blocked { type ipv4_addr; flags interval; elements = { 198.51.100.0/24, 203.0.113.7 } }
    map ports { type inet_service : verdict; elements = { 22 : accept, 23 : jump odd } }
    counter seen { packets 5 bytes 500 }
    chain odd {
        counter drop comment "odd one"
    }
    chain input {
        type filter hook input priority 0; policy accept;
        ip saddr @blocked drop
        tcp dport vmap @ports
        ct state established,related accept
        iifname "lo" counter name "seen"
        limit rate 10/second log prefix "x"
    }
}
table ip nat {
    chain out {
        type nat hook postrouting priority 100; policy accept;
        oifname "venet0" ip saddr 198.51.100.0/24 masquerade
    }
}
"""


def nft(vz: Vz, ctid: int, script: str) -> None:
    pid = init_pid(vz, ctid)
    done = vz.run("nsenter", f"--net=/proc/{pid}/ns/net", "nft", "-f", "-", stdin=script)
    assert done.returncode == 0, done.stderr


def test_the_packet_filter(vz: Vz, connected: int) -> None:
    nft(vz, connected, RULES)
    before = looked(vz, connected, "nft", "list", "ruleset")
    assert "198.51.100.0/24" in before and "masquerade" in before and 'comment "odd one"' in before
    cycle(vz, connected)
    assert looked(vz, connected, "nft", "list", "ruleset") == before


def test_iptables_knows_its_rules_afterwards(vz: Vz, connected: int) -> None:
    version = looked(vz, connected, "iptables", "-V")
    if "nf_tables" not in version:
        pytest.skip("needs iptables-nft on the node")
    for words in (
        "iptables -A INPUT -p tcp --dport 81 -m comment --comment mine -j DROP",
        "iptables -t nat -A POSTROUTING -s 198.51.100.0/24 -j MASQUERADE",
        "iptables -A INPUT -m state --state ESTABLISHED -j ACCEPT",
        "ip6tables -A INPUT -p udp -m multiport --dports 5,6 -j REJECT",
    ):
        looked(vz, connected, *words.split())

    def look() -> list[str]:
        text = looked(vz, connected, "iptables-save") + looked(vz, connected, "ip6tables-save")
        return [line for line in text.splitlines() if not line.startswith((":", "#"))]

    before = look()
    assert any("mine" in line for line in before)
    cycle(vz, connected)
    assert look() == before


def test_a_filter_that_is_refused_stops_the_restore(vz: Vz, connected: int) -> None:
    nft(vz, connected, RULES)
    vz.ok("chkpnt", connected)
    path = vz.node.path(f"/vz/dump/Dump.{connected}/firewall")
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    done = vz("restore", connected)
    assert done.returncode == 17 and "packet filter" in done.stderr, done
    assert "suspended" in vz("status", connected).stdout
    path.write_bytes(whole)
    vz.ok("restore", connected)


def test_cpu_affinity_and_priorities(vz: Vz, connected: int) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    vz.sh(connected, "sleep 1000 </dev/null >/dev/null 2>&1 &")
    pid = next(pid for pid in pids(vz, connected) if comm(pid) == "sleep")
    other = sorted(os.sched_getaffinity(pid))[-1]
    os.sched_setaffinity(pid, {other})
    os.setpriority(os.PRIO_PROCESS, pid, 7)
    assert vz.run("ionice", "-c", "3", "-p", str(pid)).returncode == 0
    cycle(vz, connected)
    pid = next(pid for pid in pids(vz, connected) if comm(pid) == "sleep")
    assert os.sched_getaffinity(pid) == {other}
    assert os.getpriority(os.PRIO_PROCESS, pid) == 7
    assert vz.run("ionice", "-p", str(pid)).stdout.startswith("idle")
    assert len(os.sched_getaffinity(init_pid(vz, connected))) > 1


def pids(vz: Vz, ctid: int) -> list[int]:
    shown = vz.run("vzpid", *(name for name in os.listdir("/proc") if name.isdecimal())).stdout.splitlines()
    return [int(words[0]) for words in map(str.split, shown) if words[1:2] == [str(ctid)]]


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_bridged_interfaces(vz: Vz, new_ct, bridge, inside: Netns) -> None:  # type: ignore[no-untyped-def]
    bridge("br7")
    inside.run("ip", "addr", "add", "198.51.100.1/24", "dev", "br7")
    ctid = new_ct("--netif_add", "eth0,,,,br7")
    vz.ok("exec", ctid, "ip addr add 198.51.100.2/24 dev eth0; ip link set eth0 up")
    mac = vz.ok("exec", ctid, "cat /sys/class/net/eth0/address")
    assert vz.run("ping", "-c1", "-W3", "198.51.100.2").returncode == 0
    vz.ok("exec", ctid, "ip addr add 2001:db8:5::2/64 dev eth0; sleep 2")
    seen = {name: Sniffer(inside, "br7") for name in ("arp", "nd")}
    cycle(vz, ctid)
    own = bytes.fromhex(mac.strip().replace(":", ""))
    address, address6 = (socket.inet_pton(f, a) for f, a in ((2, "198.51.100.2"), (10, "2001:db8:5::2")))
    arp = Arp(ARP_REQUEST, own, address, b"\xff" * 6, address).frame(own)
    assert seen["arp"].wait(lambda frame: frame[:42] == arp[:42]), "the segment is told where the address is now"
    assert seen["nd"].wait(
        lambda frame: frame[6:12] == own and frame[12:14] == b"\x86\xdd" and frame[62:78] == address6
    )
    for sniffer in seen.values():
        sniffer.close()
    assert vz.ok("exec", ctid, "cat /sys/class/net/eth0/address") == mac
    assert vz.run("ping", "-c1", "-W3", "198.51.100.2").returncode == 0
    filtered = inside.run("nft", "list", "ruleset")
    assert f"veth{ctid}.0" in filtered, "it is held to its MAC again"


def test_a_bridge_that_takes_its_time_is_told_too(vz: Vz, new_ct, bridge, inside: Netns) -> None:  # type: ignore[no-untyped-def]
    """With the spanning tree protocol a new port passes nothing on for some seconds."""
    bridge("br7")
    inside.run("ip", "link", "set", "br7", "type", "bridge", "stp_state", "1", "forward_delay", "200")
    ctid = new_ct("--netif_add", "eth0,,,,br7")
    vz.ok("exec", ctid, "ip addr add 198.51.100.2/24 dev eth0; ip link set eth0 up")
    own = bytes.fromhex(vz.ok("exec", ctid, "cat /sys/class/net/eth0/address").strip().replace(":", ""))
    seen = Sniffer(inside, "br7")
    cycle(vz, ctid)
    address = socket.inet_aton("198.51.100.2")
    arp = Arp(ARP_REQUEST, own, address, b"\xff" * 6, address).frame(own)
    assert seen.wait(lambda frame: frame[:42] == arp[:42], 15)
    seen.close()


def test_limits_come_from_the_configuration(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--ram", "128M", "--swap", "0")
    vz.ok("chkpnt", ctid)
    vz.ok("set", ctid, "--ram", "96M", "--save")
    vz.ok("restore", ctid)
    shown = vz.run("sh", "-c", f"cat /sys/fs/cgroup/memory/{vz.node.cgroup_parent}/{ctid}/memory.limit_in_bytes").stdout
    shown = shown or vz.run("sh", "-c", f"cat /sys/fs/cgroup/{vz.node.cgroup_parent}/{ctid}/ct/memory.max").stdout
    assert shown == f"{96 << 20}\n"


@pytest.mark.parametrize("name", ["", "lan7"])
def test_a_restored_interface_makes_way_for_the_next_start(vz: Vz, new_ct, bridge, name: str) -> None:  # type: ignore[no-untyped-def]
    """A connection that nobody closes holds the dead CT's network namespace, and so the device, for minutes."""
    bridge("br7")
    ctid = new_ct("--ipadd", ADDRESS, "--netif_add", f"eth0,,{name},,br7")
    vz.ok("exec", ctid, "setsid nc -ll -p 7000 -e /bin/cat </dev/null >/dev/null 2>&1 &")
    client = vz.node.popen(sys.executable, "-c", CLIENT, ADDRESS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"hello\n"
        cycle(vz, ctid)
        vz.ok("stop", ctid, "--fast")
        vz.ok("start", ctid)
        assert (name or f"veth{ctid}.0") in vz.run("ip", "-br", "link", "show", "master", "br7").stdout
    finally:
        client.kill()
        client.communicate()


# connects to an echo service and holds the connection
CLIENT = """
import socket, sys, time
for _ in range(200):
    try:
        sock = socket.create_connection((sys.argv[1], 7000), 5)
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
sock.send(b"hello\\n")
print(sock.recv(99).decode(), end="", flush=True)
time.sleep(100)
"""
