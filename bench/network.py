#!/usr/bin/python3
"""What a CT's network costs as the node's tables grow: start and stop with an address beside those without one.

    bench/network.py [ROUNDS] [SIZE ...] [--devices]

Before each size the filter's sets, the routes and the proxy entries of SIZE other CTs are put into the test node's
kernel, with --devices their device pairs too.  The same step is also timed alone: elements put and taken by our
own netlink requests and by nft(8).  Figures are medians in milliseconds, "least" the least of all rounds; CTs with and
without an address take turns.
"""

import os
import statistics
import subprocess
import sys
import time

TREE = os.path.normpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
sys.path[:0] = [f"{TREE}/tests", f"{TREE}/src"]
sys.dont_write_bytecode = True
from testnode import Node  # noqa: E402

TEMPLATE = f"busybox-{os.uname().machine}"
PLAIN, ADDRESSED = "7001", "7002"
ADDRESSES = ("198.18.255.2", "2001:db8::ffff")
ENV = {
    "PATH": f"{TREE}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}


def timed(*argv: str) -> float:
    began = time.perf_counter()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, env=ENV)
    return (time.perf_counter() - began) * 1000


def median(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}"


def address(number: int) -> str:
    return f"198.18.{number >> 8}.{number & 255}"


def grow(have: int, size: int, devices: bool) -> None:
    """Put what CTs number *have* to *size* would have into the kernel."""
    if devices:
        lines = [f"link add vzx{n} group 30330 type veth peer name vzy{n}" for n in range(have, size)]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True, env=ENV)
    elements = [f'add element inet vz {s} {{ "vzx{n}" }}' for n in range(have, size) for s in ("sent", "received")]
    elements += [f'add element inet vz owners4 {{ "vzx{n}" . {address(n)} }}' for n in range(have, size)]
    subprocess.run(["nft", "-f", "-"], input="\n".join(elements).encode() + b"\n", check=True, env=ENV)
    lines = [f"route replace {address(n)}/32 dev up0" for n in range(have, size)]
    lines += [f"neigh replace proxy {address(n)} dev up0" for n in range(have, size)]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True, env=ENV)


def element_times(rounds: int) -> list[tuple[str, list[float]]]:
    """Time the transaction of one CT alone: three elements put, taken; one counter read."""
    from vz.kernel import nfnetlink as nf

    name = nf.ifname("vzbench")
    ours = [nf.Element("inet", "vz", s, name) for s in ("sent", "received")]
    ours.append(nf.Element("inet", "vz", "owners4", name, bytes((198, 18, 255, 9))))
    words = [
        'element inet vz sent { "vzbench" }',
        'element inet vz received { "vzbench" }',
        'element inet vz owners4 { "vzbench" . 198.18.255.9 }',
    ]
    times: dict[str, list[float]] = {}

    def note(what: str, began: float) -> None:
        times.setdefault(what, []).append((time.perf_counter() - began) * 1000)

    for _ in range(rounds):
        with nf.Netfilter() as sock:
            began = time.perf_counter()
            nf.change(sock, ours)
            note("put, netlink", began)
            began = time.perf_counter()
            nf.counted_bytes(sock, ours[0])
            note("count read, netlink", began)
            began = time.perf_counter()
            nf.change(sock, [], ours)
            note("take, netlink", began)
        for what in ("add", "delete"):
            script = "".join(f"{what} {w}\n" for w in words).encode()
            began = time.perf_counter()
            subprocess.run(["nft", "-f", "-"], input=script, check=True, env=ENV)
            note("put, nft" if what == "add" else "take, nft", began)
            if what == "add":
                began = time.perf_counter()
                argv = ["nft", "get", "element", "inet", "vz", "sent", '{ "vzbench" }']
                subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, env=ENV)
                note("count read, nft", began)
    return list(times.items())


def inside(rounds: int, sizes: list[int], devices: bool) -> None:
    """The measuring itself; run on the node."""
    for ctid in (PLAIN, ADDRESSED):
        timed("vzctl", "create", ctid, "--ostemplate", TEMPLATE)
    timed("vzctl", "set", ADDRESSED, *(w for a in ADDRESSES for w in ("--ipadd", a)), "--save")
    timed("vzctl", "start", ADDRESSED)  # makes the table
    timed("vzctl", "stop", ADDRESSED, "--fast")
    print("| CTs in the tables | start | with addresses | more | least more | stop | with addresses | more |", end="")
    rows = []
    have = 0
    for size in sizes:
        grow(have, size, devices)
        have = size
        starts: dict[str, list[float]] = {PLAIN: [], ADDRESSED: []}
        stops: dict[str, list[float]] = {PLAIN: [], ADDRESSED: []}
        for number in range(rounds + 1):
            for ctid in (PLAIN, ADDRESSED):
                start, stop = timed("vzctl", "start", ctid), timed("vzctl", "stop", ctid, "--fast")
                time.sleep(0.05)  # what goes on in the background is not the next one's
                if number:  # the first is a warm-up
                    starts[ctid].append(start)
                    stops[ctid].append(stop)
        more = [b - a for a, b in zip(starts[PLAIN], starts[ADDRESSED], strict=True)]
        more_stop = [b - a for a, b in zip(stops[PLAIN], stops[ADDRESSED], strict=True)]
        cells = [str(size), median(starts[PLAIN]), median(starts[ADDRESSED]), median(more)]
        cells += [f"{min(starts[ADDRESSED]) - min(starts[PLAIN]):.2f}"]
        cells += [median(stops[PLAIN]), median(stops[ADDRESSED]), median(more_stop)]
        alone = element_times(rounds)
        if not rows:
            print("".join(f" {what} |" for what, _ in alone))
            print("|---" * (8 + len(alone)) + "|")
        rows.append([*cells, *(median(values) for _, values in alone)])
        print(f"| {' | '.join(rows[-1])} |", flush=True)


def main() -> int:
    words = sys.argv[1:]
    devices = "--devices" in words
    numbers = [int(word) for word in words if word.isdigit()]
    if "--inside" in words:
        inside(numbers[0], numbers[1:], devices)
        return 0
    rounds, sizes = (numbers or [15])[0], numbers[1:] or [1, 50, 200, 1000]
    with Node() as node:
        script = os.path.realpath(__file__)
        argv = ["/usr/bin/python3", "-I", "-B", script, "--inside", str(rounds), *map(str, sizes)]
        return subprocess.run(node.argv(*argv, *(["--devices"] if devices else [])), env=node.env).returncode


if __name__ == "__main__":
    sys.exit(main())
