"""arpsend, ndsend, vzifup-post, vznetcfg and vznetaddbr, with a second host on the node's network that sees the frames."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from conftest import Vz
from netns import Neighbour, Netns, Sniffer
from testnode import ADDRESS4, Node
from vz.net.neighbours import Arp, parse_arp


@pytest.fixture
def seen(neighbour: Neighbour) -> Iterator[Sniffer]:
    sniffer = Sniffer(neighbour, "eth0")
    yield sniffer
    sniffer.close()


def node_mac(inside: Netns) -> str:
    return str(inside.json("ip", "-j", "link", "show", "up0")[0]["address"])


def arp_of(seen: Sniffer, last: int) -> Arp | None:
    """Return the next ARP packet whose sender is 192.0.2.*last*."""
    frame = seen.wait(lambda frame: (arp := parse_arp(frame)) is not None and arp.sender_ip == bytes((192, 0, 2, last)))
    return parse_arp(frame) if frame is not None else None


def advertised(seen: Sniffer, address: str, timeout_s: float = 5) -> bytes | None:
    target = socket.inet_pton(socket.AF_INET6, address)
    return seen.wait(
        lambda frame: frame[12:14] == b"\x86\xdd" and frame[54] == 136 and frame[62:78] == target, timeout_s
    )


def test_arpsend_updates(vz: Vz, inside: Netns, seen: Sniffer) -> None:
    done = vz.run("arpsend", "-U", "-i", "192.0.2.77", "-e", "192.0.2.77", "-c", "1", "up0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    arp = arp_of(seen, 77)
    assert arp is not None
    assert arp.operation == 1 and arp.sender_mac.hex(":") == node_mac(inside)
    assert arp.target_ip == bytes((192, 0, 2, 77)) and arp.target_mac == b"\xff" * 6


def test_arpsend_updates_as_often_as_asked(vz: Vz, seen: Sniffer) -> None:
    began = time.monotonic()
    assert vz.run("arpsend", "-Uc3", "-w0.1", "-i", "192.0.2.78", "up0").returncode == 0
    assert time.monotonic() - began >= 0.2
    arps = [arp_of(seen, 78) for _ in range(3)]
    assert all(arp is not None and arp.target_ip == bytes((192, 0, 2, 1)) for arp in arps), "asks for its own address"


def test_arpsend_detects(vz: Vz, neighbour: Neighbour) -> None:
    done = vz.run("arpsend", "-D", "-e", neighbour.ADDRESS4, "-c", "3", "-w", "2", "up0")
    assert done.returncode == 3
    assert done.stderr == f"arpsend: {neighbour.ADDRESS4} is detected on another computer : {neighbour.mac}\n"
    began = time.monotonic()
    done = vz.run("arpsend", "-D", "-e", "192.0.2.222", "-c", "2", "-w", "0.2", "up0")
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began >= 0.4, "it waited for an answer to each"
    done = vz.run("arpsend", "--detect", "--trg-ip=192.0.2.222", "-e", neighbour.ADDRESS4, "-c1", "-w1", "-o", "up0")
    assert done.returncode == 3
    # asked from an address of no network of the other's, which is what a probe of an unnumbered host is
    done = vz.run("arpsend", "-D", "-i", "0.0.0.0", "-e", neighbour.ADDRESS4, "-c", "2", "-w", "2", "up0")
    assert done.returncode == 3


def test_arpsend_requests_and_replies(vz: Vz, inside: Netns, neighbour: Neighbour, seen: Sniffer) -> None:
    words = ("-c", "1", "-w", "2", "up0")
    assert vz.run("arpsend", "-Q", "-o", "-e", neighbour.ADDRESS4, *words).returncode == 0
    assert vz.run("arpsend", "-Q", "-e", "192.0.2.222", "-c", "1", "-w", "0.1", "up0").returncode == 4
    macs = ("-s", "02:00:00:00:00:11", "-t", neighbour.mac, "-S", "020000000012", "-T", "broadcast")
    assert vz.run("arpsend", "-P", "-i", "192.0.2.79", "-e", "192.0.2.200", *macs, *words).returncode == 0
    frame = seen.wait(lambda frame: (arp := parse_arp(frame)) is not None and arp.sender_ip[3] == 79)
    assert frame is not None
    arp = parse_arp(frame)
    assert arp is not None
    assert frame[:6].hex(":") == neighbour.mac and frame[6:12].hex(":") == "02:00:00:00:00:11"
    assert arp.operation == 2 and arp.sender_mac.hex(":") == "02:00:00:00:00:12" and arp.target_mac == b"\xff" * 6


def test_arpsend_and_ipv6(vz: Vz, seen: Sniffer) -> None:
    """As ever: an update is handed to ndsend, and there is nothing to detect."""
    assert vz.run("arpsend", "-U", "-i", "2001:db8::77", "-c1", "up0").returncode == 0
    assert advertised(seen, "2001:db8::77") is not None
    assert vz.run("arpsend", "-D", "-e", "2001:db8::200", "-c1", "up0").returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        "",
        "up0",
        "-U up0",
        "-D up0",
        "-U -D -i 192.0.2.7 -e 192.0.2.7 up0",
        "-U -i 192.0.2.7",
        "-U -i 192.0.2.7 up0 up0",
        "-U -i 192.0.2.7/24 up0",
        "-U -i nothing up0",
        "-U -i 192.0.2.7 -c 0 up0",
        "-U -i 192.0.2.7 -c -1 up0",
        "-U -i 192.0.2.7 -w soon up0",
        "-P -s 02:00:00:00:00 up0",
        "-P -s zz:00:00:00:00:00 up0",
        "-U -i 192.0.2.7 -x up0",
        "--update=yes -i 192.0.2.7 up0",
        "-U -i",
    ],
)
def test_arpsend_wrong_usage(vz: Vz, words: str) -> None:
    done = vz.run("arpsend", *words.split())
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("device", "why"), [("nope0", "No such device"), ("lo", "does not speak ARP"), ("dn0", "down")]
)
def test_arpsend_on_what_is_no_network(vz: Vz, inside: Netns, device: str, why: str) -> None:
    inside.run("ip", "link", "add", "dn0", "type", "bridge")
    try:
        done = vz.run("arpsend", "-U", "-i", "192.0.2.7", "-c1", device)
        assert done.returncode == 2
        assert done.stderr.startswith(f"arpsend: {device}: ") and why in done.stderr
    finally:
        inside.run("ip", "link", "del", "dn0")


def test_ndsend(vz: Vz, inside: Netns, seen: Sniffer) -> None:
    done = vz.run("ndsend", "2001:DB8::79", "up0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    frame = advertised(seen, "2001:db8::79")
    assert frame is not None
    assert frame[78:80] == b"\2\1" and frame[80:86].hex(":") == node_mac(inside)
    for words, status in ((["2001:db8::1"], 1), (["192.0.2.1", "up0"], 1), (["--help"], 1), (["::7", "nope0"], 2)):
        done = vz.run("ndsend", *words)
        assert done.returncode == status and len(done.stderr.splitlines()) == 1, words


def proxies(inside: Netns) -> str:
    return inside.run("ip", "neigh", "show", "proxy") + inside.run("ip", "-6", "neigh", "show", "proxy")


def test_vzifup_post(vz: Vz, inside: Netns, seen: Sniffer, new_ct: Callable[..., int]) -> None:
    new_ct("--ipadd", "192.0.2.41", "--ipadd", "2001:db8::41")
    gone = new_ct("--ipadd", "192.0.2.42")
    vz.ok("stop", gone, "--fast")
    inside.run("ip", "link", "set", "up0", "down")
    inside.run("ip", "link", "set", "up0", "up")
    inside.run("ip", "addr", "replace", "2001:db8::1/64", "dev", "up0", "nodad")
    assert "192.0.2.41" not in proxies(inside), "or this test shows nothing"
    for words in (("lo",), ("nope0",), ("vz7",)):
        assert vz.run("vzifup-post", *words).returncode == 0
    assert "192.0.2.41" not in proxies(inside)
    done = vz.run("vzifup-post", "up0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "192.0.2.41 dev up0" in proxies(inside) and "2001:db8::41 dev up0" in proxies(inside)
    assert "192.0.2.42" not in proxies(inside)
    assert arp_of(seen, 41) is not None
    assert advertised(seen, "2001:db8::41") is not None
    for wrong in ((), ("",), ("up0", "x"), ("--help",)):
        done = vz.run("vzifup-post", *wrong)
        assert done.returncode == 1 and done.stderr.startswith("Usage: ")


def test_vzifup_post_brings_routes_back(vz: Vz, node: Node, inside: Netns, new_ct: Callable[..., int]) -> None:
    """With the address that a route has as its source the kernel takes the route away."""
    conf = node.path("/etc/vz/vz.conf")
    old = conf.read_text()
    conf.write_text(old + 'VE_ROUTE_SRC_DEV="up0"\n')
    try:
        new_ct("--ipadd", "198.51.100.43")
        assert f"src {ADDRESS4}" in inside.run("ip", "route", "show", "198.51.100.43")
        inside.run("ip", "addr", "del", f"{ADDRESS4}/24", "dev", "up0")
        assert inside.run("ip", "route", "show", "198.51.100.43") == ""
        inside.run("ip", "addr", "add", f"{ADDRESS4}/24", "dev", "up0")
        assert vz.run("vzifup-post", "up0").returncode == 0
        assert f"src {ADDRESS4}" in inside.run("ip", "route", "show", "198.51.100.43")
        assert vz.run("ping", "-c1", "-W2", "198.51.100.43").returncode == 0
    finally:
        conf.write_text(old)


@pytest.fixture
def vznet_conf(node: Node) -> Iterator[Callable[[str, str], None]]:
    """Write a vznet.conf whose EXTERNAL_SCRIPT is a program with this text."""
    conf, script = node.path("/etc/vz/vznet.conf"), node.path("/etc/vz/external")

    def write(line: str, text: str = "") -> None:
        conf.write_text(line)
        if text:
            script.write_text(text)
            script.chmod(0o755)

    yield write
    for path in (conf, script):
        path.unlink(missing_ok=True)


def masters(inside: Netns) -> dict[str, str]:
    return {link["ifname"]: link.get("master", "") for link in inside.json("ip", "-j", "link")}


def run_with(vz: Vz, veid: object, *argv: str) -> tuple[int, str, str]:
    done = vz.run("env", f"VEID={veid}", *argv)
    return done.returncode, done.stdout, done.stderr


def test_vznetcfg_and_vznetaddbr(
    vz: Vz, inside: Netns, new_ct: Callable[..., int], bridge: Callable[[str], None]
) -> None:
    bridge("br8")
    ct = new_ct("--netif_add", "eth0,,,,br8", "--netif_add", "eth1")
    first, second = f"veth{ct}.0", f"veth{ct}.1"
    assert masters(inside)[first] == "br8" and masters(inside)[second] == ""
    inside.run("ip", "link", "set", first, "nomaster")
    inside.run("ip", "link", "set", first, "down")
    assert run_with(vz, ct, "vznetcfg", "init", "veth", first) == (0, "", "")
    assert masters(inside)[first] == "br8"
    assert "UP" in inside.json("ip", "-j", "link", "show", first)[0]["flags"]
    inside.run("ip", "link", "set", second, "down")
    assert run_with(vz, ct, "vznetcfg", "init", "veth", second) == (0, "", "")
    assert "UP" in inside.json("ip", "-j", "link", "show", second)[0]["flags"]
    status, _, words = run_with(vz, ct, "vznetaddbr", "init", "veth", second)
    assert (status, words) == (1, "vznetaddbr: Bridge vmbr0 is not on this node\n")
    bridge("vmbr0")
    done = run_with(vz, ct, "vznetaddbr", "init", "veth", second)
    assert done == (0, f"Adding interface {second} to bridge vmbr0 on CT0 for CT{ct}\n", "")
    assert masters(inside)[second] == "vmbr0"
    inside.run("ip", "link", "set", first, "nomaster")
    assert run_with(vz, ct, "vznetaddbr", "init", "veth", first)[0] == 0
    assert masters(inside)[first] == "br8", "the bridge of NETIF"


@pytest.mark.parametrize("program", ["vznetcfg", "vznetaddbr"])
def test_what_is_no_interface_of_a_ct(vz: Vz, ct: int, program: str) -> None:
    for veid, words in (
        (ct, ("init", "veth", "nope0")),
        (ct, ("init", "veth")),
        (ct, ("init", "veth", "a", "b")),
        ("x", ("init", "veth", "lo")),
        (999999, ("init", "veth", "lo")),
    ):
        status, out, err = run_with(vz, veid, program, *words)
        assert status == 1 and out == "" and len(err.splitlines()) == 1 and "Traceback" not in err, (veid, words, err)


SCRIPT = """#!/bin/sh
echo "$VEID $* $HNAME $VNAME $BRIDGE" >> /vz/external.log
ip link set "$3" up mtu 1400
"""


def test_the_external_script_takes_the_place(
    vz: Vz, node: Node, inside: Netns, new_ct: Callable[..., int], vznet_conf: Callable[..., None],
    bridge: Callable[[str], None],
) -> None:  # fmt: skip
    bridge("br8")
    vznet_conf('#!/bin/bash\nEXTERNAL_SCRIPT="/etc/vz/external"\n', SCRIPT)
    log = node.path("/vz/external.log")
    ct = new_ct("--netif_add", "eth0,,,,br8")
    name = f"veth{ct}.0"
    assert log.read_text() == f"{ct} init veth {name} {name} eth0 br8\n"
    link = inside.json("ip", "-j", "link", "show", name)[0]
    assert link["mtu"] == 1400 and "master" not in link, "the script does it all"
    vz.ok("set", ct, "--netif_add", "eth1", "--save")  # a running CT, whose conf does not know it yet
    assert log.read_text().splitlines()[1] == f"{ct} init veth veth{ct}.1 veth{ct}.1 eth1 "
    assert run_with(vz, ct, "vznetcfg", "init", "veth", name) == (0, "", "")
    assert log.read_text().splitlines()[2] == f"{ct} init veth {name} {name} eth0 br8"


def test_vznetaddbr_as_the_external_script(
    vz: Vz, node: Node, inside: Netns, new_ct: Callable[..., int], vznet_conf: Callable[..., None],
    bridge: Callable[[str], None],
) -> None:  # fmt: skip
    bridge("vmbr0")
    program = vz.run("sh", "-c", "command -v vznetaddbr").stdout.strip()
    vznet_conf(f'EXTERNAL_SCRIPT="{program}"\n')
    ct = new_ct("--netif_add", "eth0")
    assert masters(inside)[f"veth{ct}.0"] == "vmbr0"
    done = vz.ok("set", ct, "--netif_add", "eth1", "--save")
    assert f"Adding interface veth{ct}.1 to bridge vmbr0 on CT0 for CT{ct}\n" in done
    assert masters(inside)[f"veth{ct}.1"] == "vmbr0"


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        ('EXTERNAL_SCRIPT="/etc/vz/external"\n', "#!/bin/sh\necho went wrong >&2\nexit 5\n", "status 5: went wrong"),
        ('EXTERNAL_SCRIPT="/etc/vz/nothing"\n', "", "is not an executable file"),
        ('EXTERNAL_SCRIPT="/usr/sbin/vznetcfg"\n', "", "would call itself"),
    ],
)
def test_a_script_that_fails_fails_the_start(
    vz: Vz, inside: Netns, new_ct: Callable[..., int], vznet_conf: Callable[..., None], line: str, text: str, words: str
) -> None:
    ct = new_ct("--netif_add", "eth0", start=False)
    vznet_conf(line, text)
    done = vz("start", ct)
    assert done.returncode == 130 and words in done.stderr
    assert vz("status", ct).stdout == f"CTID {ct} exist unmounted down\n"
    vznet_conf("\n")
    vz.ok("start", ct)
    assert "eth0" in vz.sh(ct, "ip link")


def test_a_script_that_fails_fails_set_and_changes_nothing(
    vz: Vz, node: Node, inside: Netns, ct: int, vznet_conf: Callable[..., None]
) -> None:
    vznet_conf('EXTERNAL_SCRIPT="/bin/false"\n')
    done = vz("set", ct, "--netif_add", "eth0", "--save")
    assert done.returncode == 130
    assert f"veth{ct}.0" not in masters(inside) and "eth0" not in vz.sh(ct, "ip link")
    assert "NETIF" not in node.path(f"/etc/vz/conf/{ct}.conf").read_text()
