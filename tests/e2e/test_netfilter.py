"""The CT's own packet filter: nft and iptables of the node's release, run in a whole Debian CT; and none at all."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Vz, template

# asks the kernel for what nft, conntrack and iptables need, and says for each what became of it
ASK = r"""
use Socket;
sub try { my ($name, $done) = @_; print "$name: ", ($done ? "yes" : "$!"), "\n"; }
try("nfnetlink", socket(my $n, 16, 3, 12));
try("rtnetlink", socket(my $r, 16, 3, 0));
socket(my $four, AF_INET, SOCK_RAW, 255) or die;
socket(my $six, AF_INET6, SOCK_RAW, 255) or die;
try("iptables get", defined getsockopt($four, 0, 64));
try("iptables set", setsockopt($four, 0, 64, "x" x 10));
try("ip6tables set", setsockopt($six, 41, 64, "x" x 10));
try("arptables set", setsockopt($four, 0, 96, "x" x 10));
try("ebtables set", setsockopt($four, 0, 128, "x" x 10));
try("ttl", setsockopt($four, 0, 2, pack("i", 9)));
try("tclass", setsockopt($six, 41, 67, pack("i", 0)));
"""


REFUSED = ("Protocol not supported", "Protocol not available")


def closure(program: str) -> list[str]:
    """Return *program* and the libraries it loads."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"needs {program} on the node")
    real = os.path.realpath(path)
    listed = subprocess.run(["ldd", real], capture_output=True, text=True, check=True).stdout
    return [real, *(word for word in listed.split() if word.startswith("/"))]


def bring(vz: Vz, ct: int, files: list[str], folder: str = "/opt/filter") -> None:
    """Copy *files* into the CT's *folder*."""
    found = [Path(name) for name in files]
    links = [name for path in found for name in (f"--directory={path.parent}", path.name)]
    packed = subprocess.run(["tar", "-ch", *links], capture_output=True, check=True).stdout
    done = vz("exec2", ct, f"mkdir -p {folder} && tar -C {folder} -xf -", stdin=packed)
    assert done.returncode == 0, done.stderr


def run(vz: Vz, ct: int, program: str, words: str) -> subprocess.CompletedProcess[str]:
    libraries = (
        "/opt/filter/ld-linux-x86-64.so.2" if os.uname().machine == "x86_64" else "/opt/filter/ld-linux-aarch64.so.1"
    )
    return vz("exec2", ct, f"{libraries} --library-path /opt/filter /opt/filter/{program} {words}")


def test_nft_works_inside(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct("--ipadd", "192.0.2.91", "--ipadd", "2001:db8::91", template=template("debian-12"))
    other = new_ct("--ipadd", "192.0.2.92")
    bring(vz, ct, closure("nft"))
    rules = (
        "add table inet mine",
        "add chain inet mine in '{ type filter hook input priority 0; }'",
        "add rule inet mine in icmp type echo-request counter drop",
        "add rule inet mine in ct state established accept",
        "add table ip nat",
        "add chain ip nat post '{ type nat hook postrouting priority 100; }'",
        "add rule ip nat post oifname venet0 masquerade",
    )
    for rule in rules:
        done = run(vz, ct, "nft", rule)
        assert done.returncode == 0, done.stderr
    assert vz.run("ping", "-c1", "-W1", "192.0.2.91").returncode != 0, "its own filter drops it"
    assert "packets 1 bytes 84" in run(vz, ct, "nft", "list ruleset").stdout
    assert vz("exec", other, "ping -c1 -W1 192.0.2.1").returncode == 0, "nobody else's business"
    assert "mine" not in vz.run("nft", "list", "ruleset").stdout
    assert run(vz, ct, "nft", "flush ruleset").returncode == 0
    assert vz.run("ping", "-c1", "-W1", "192.0.2.91").returncode == 0
    assert "table inet vz" in vz.run("nft", "list", "ruleset").stdout, "it flushed its own"


@pytest.mark.parametrize("kind", ["legacy", "nft"])
def test_iptables_works_inside(vz: Vz, new_ct: Callable[..., int], kind: str) -> None:
    files = closure(f"xtables-{kind}-multi")
    library = next(name for name in files if "libxtables" in name)
    plugins = [str(path) for path in (Path(library).parent / "xtables").glob("*.so")]
    ct = new_ct("--ipadd", "192.0.2.93", template=template("debian-12"))
    bring(vz, ct, files)
    bring(vz, ct, plugins, "/opt/filter/xtables")

    def iptables(words: str) -> subprocess.CompletedProcess[str]:
        loader = next(Path(name).name for name in files if "/ld-linux" in name)
        command = f"/opt/filter/{loader} --library-path /opt/filter /opt/filter/xtables-{kind}-multi iptables {words}"
        return vz("exec2", ct, f"XTABLES_LIBDIR=/opt/filter/xtables XTABLES_LOCKFILE=/run/xtables.lock {command}")

    for words in (
        "-A INPUT -p icmp -j DROP",
        "-A INPUT -m state --state ESTABLISHED -j ACCEPT",
        "-t nat -A POSTROUTING -o venet0 -j MASQUERADE",
        "-t mangle -A OUTPUT -j MARK --set-mark 7",
    ):
        done = iptables(words)
        assert done.returncode == 0, done.stderr
    assert vz.run("ping", "-c1", "-W1", "192.0.2.93").returncode != 0
    assert "MASQUERADE" in iptables("-t nat -S").stdout
    assert iptables("-F").returncode == 0
    assert vz.run("ping", "-c1", "-W1", "192.0.2.93").returncode == 0


def answers(vz: Vz, ct: int) -> dict[str, str]:
    return said(vz("exec2", ct, "perl", "-", stdin=ASK))


def said(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_without_netfilter_there_is_none(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct("--netfilter", "disabled", "--ipadd", "192.0.2.94", template=template("debian-12"), start=False)
    vz.ok("start", ct, "--wait")
    found = answers(vz, ct)
    assert found.pop("rtnetlink") == found.pop("ttl") == found.pop("tclass") == "yes", "only the filters are refused"
    assert found.pop("nfnetlink") == "Protocol not supported"
    assert set(found.values()) == {"Protocol not available"}, found
    assert vz("exec", ct, "ip addr add 203.0.113.1/32 dev lo").returncode == 0, "its network is still its own"
    bring(vz, ct, closure("nft"))
    done = run(vz, ct, "nft", "add table inet mine")
    assert done.returncode != 0 and "Protocol not supported" in done.stderr
    # init and what it starts, too
    unit = "systemd-run --pipe --wait --quiet perl -e 'socket(my $n, 16, 3, 12) or print $!'"
    assert "Protocol not supported" in vz.sh(ct, unit)
    assert vz.run("ping", "-c1", "-W1", "192.0.2.94").returncode == 0


def test_with_netfilter_nothing_of_it_is_refused(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct("--netfilter", "full", template=template("debian-12"))
    found = answers(vz, ct)
    assert found["nfnetlink"] == "yes"
    refused = {name for name, word in found.items() if word in REFUSED}
    absent = {name for name, word in said(vz.run("perl", "-", stdin=ASK)).items() if word in REFUSED}
    assert refused <= absent, "what the node's kernel has"
    if {"iptables set", "ip6tables set"} & absent:
        pytest.skip("the rest is tested; needs ip_tables and ip6_tables, which this node has not loaded")


def test_netfilter_is_set_for_the_next_start(vz: Vz, ct: int) -> None:
    done = vz("set", ct, "--netfilter", "disabled", "--save")
    assert done.returncode == 0 and "Unable to set iptables/netfilter on a running container" in done.stderr
    done = vz("set", ct, "--netfilter", "stateless", "--save")
    assert done.returncode == 0 and "NETFILTER=stateless: this kernel can withhold all or nothing" in done.stderr
    assert vz.run("vzlist", "-H", "-o", "netfilter", str(ct)).stdout.strip() == "stateless"
