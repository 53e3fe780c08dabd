"""vz.kernel.bpf_sockets as the kernel runs it: what is counted, refused and counted down on a cgroup2 directory."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import needs
from vz.kernel import bpf_sockets, cgroup
from vz.kernel.bpf_sockets import OTHER, STREAM

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def group() -> Iterator[str]:
    unified = cgroup.hierarchies().unified
    if not unified:
        pytest.skip("needs cgroup2")
    needs("BPF programs for sockets", bpf_sockets.probe)
    path = f"{unified}/vz/test-sockets-{os.getpid()}"
    os.makedirs(path)
    yield path
    cgroup.remove(path)


def inside(group: str, function: Callable[[], Any]) -> Any:
    """Return what *function* returns in a process of *group*."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        cgroup.write(group, "cgroup.procs", 0)
        os.write(write, json.dumps(function()).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


def test_a_limit_refuses_with_enobufs_and_counts(group: str) -> None:
    maps = bpf_sockets.attach(group)
    maps.set_limit(STREAM, 4)

    def fill() -> list[Any]:
        made = []
        code = None
        try:
            for _ in range(9):
                made.append(socket.socket())
        except OSError as exc:
            code = exc.errno
        other = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(7)]
        unix = [socket.socket(socket.AF_UNIX) for _ in range(7)]
        return [len(made), code, len(other), len(unix), maps.read(STREAM), maps.read(OTHER)]

    assert inside(group, fill) == [4, errno.ENOBUFS, 7, 7, [4, 4, 1], [7, 7, 0]]
    assert maps.read(STREAM) == (0, 4, 1) and maps.read(OTHER) == (0, 7, 0)
    maps.set_limit(STREAM, bpf_sockets.UNLIMITED)
    assert inside(group, fill)[:2] == [9, None]
    maps.close()


def test_connections_taken_are_counted_up_and_down(group: str) -> None:
    maps = bpf_sockets.attach(group)

    def connect() -> list[int]:
        listener = socket.create_server(("127.0.0.1", 0))
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        taken = [listener.accept()[0] for _ in range(3)]
        most = maps.read(STREAM)[0]
        for one in (*taken, *clients):
            one.close()
        return [most, maps.read(STREAM)[0]]

    assert inside(group, connect) == [7, 1]
    assert maps.read(STREAM)[0] == 0
    maps.close()


def test_the_maps_are_found_again(group: str) -> None:
    assert bpf_sockets.find(group) is None
    bpf_sockets.attach(group).close()  # the programs hold them from now on
    maps = bpf_sockets.find(group)
    assert maps is not None
    maps.set_limit(STREAM, 0)
    maps.set_held(OTHER, 5)
    again = bpf_sockets.find(group)
    assert again is not None and again.read(OTHER) == (5, 5, 0)

    def one() -> int:
        try:
            socket.socket().close()
            return 0
        except OSError as exc:
            return exc.errno or 0

    assert inside(group, one) == errno.ENOBUFS
    again.close()
    maps.close()


def test_sockets_of_before_never_make_it_negative(group: str) -> None:
    early = socket.socket()
    maps = bpf_sockets.attach(group)

    def close() -> int:
        early.close()
        return maps.read(STREAM)[0]

    assert inside(group, close) == 0
    early.close()
    maps.close()
