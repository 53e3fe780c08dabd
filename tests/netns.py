"""Network namespaces for tests: this process visits them, what it opens or starts there stays there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from vz.kernel import namespaces


class Netns:
    """A network namespace with its loopback up; ``with ns.entered():`` the test's one thread is in it."""

    def __init__(self, path: str = "") -> None:
        if path:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return
        with _home() as home:
            namespaces.unshare(namespaces.CLONE_NEWNET)
            try:
                self.fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                namespaces.setns(home, namespaces.CLONE_NEWNET)
        self.run("ip", "link", "set", "lo", "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        with _home() as home:
            namespaces.setns(self.fd, namespaces.CLONE_NEWNET)
            try:
                yield
            finally:
                namespaces.setns(home, namespaces.CLONE_NEWNET)

    def run(self, *argv: str) -> str:
        """Run a command there and return what it printed; it must succeed."""
        with self.entered():
            done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def json(self, *argv: str) -> Any:
        return json.loads(self.run(*argv) or "[]")

    def process(self) -> subprocess.Popen[bytes]:
        """Start a process there that does nothing."""
        with self.entered():
            return subprocess.Popen(["sleep", "300"])

    def write(self, name: str, value: str) -> None:
        """Set a sysctl there; *name* with slashes."""
        with self.entered(), open(f"/proc/sys/{name}", "w") as file:
            file.write(value)

    def close(self) -> None:
        os.close(self.fd)


class Sniffer:
    """Everything that arrives on *device* of a namespace from now on."""

    def __init__(self, netns: Netns, device: str) -> None:
        with netns.entered():
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.sock.bind((device, 3))

    def wait(self, wanted: Callable[[bytes], bool], timeout_s: float = 5.0) -> bytes | None:
        """Return the first frame that *wanted* says yes to; None when none came in time."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            self.sock.settimeout(left_s)
            try:
                frame, sender = self.sock.recvfrom(2000)
            except TimeoutError:
                break
            if sender[2] != 4 and wanted(frame):  # PACKET_OUTGOING
                return frame
        return None

    def close(self) -> None:
        self.sock.close()


@contextlib.contextmanager
def _home() -> Iterator[int]:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def wire(one: Netns, device: str, two: Netns, peer: str) -> None:
    """Join two namespaces by a veth pair, both ends up."""
    holder = two.process()
    try:
        one.run("ip", "link", "add", device, "type", "veth", "peer", "name", peer, "netns", str(holder.pid))
    finally:
        holder.kill()
        holder.wait()
    for netns, name in ((one, device), (two, peer)):
        netns.write(f"net/ipv6/conf/{name}/accept_dad", "0")
        netns.run("ip", "link", "set", name, "up")


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> bool:
    """Wait until *condition* holds; False when it did not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Neighbour(Netns):
    """A host on the network behind *node*'s bridge up0, with addresses 192.0.2.200 and 2001:db8::200 on eth0."""

    ADDRESS4, ADDRESS6 = "192.0.2.200", "2001:db8::200"
    _number = 0

    def __init__(self, node: Netns, bridge: str = "up0") -> None:
        super().__init__()
        Neighbour._number += 1
        self.node, self.port = node, f"nb{Neighbour._number}"
        wire(node, self.port, self, "eth0")
        node.run("ip", "link", "set", self.port, "master", bridge)
        node.run("ip", "neigh", "flush", "dev", bridge)  # an earlier one had these addresses and another MAC
        self.run("ip", "addr", "add", f"{self.ADDRESS4}/24", "dev", "eth0")
        self.run("ip", "addr", "add", f"{self.ADDRESS6}/64", "dev", "eth0", "nodad")
        self.mac: str = self.json("ip", "-j", "link", "show", "eth0")[0]["address"]
        assert wait_until(lambda: "fe80" in self.run("ip", "-6", "addr", "show", "eth0"))

    def close(self) -> None:
        self.node.run("ip", "link", "del", self.port)
        super().close()
