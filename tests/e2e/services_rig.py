"""Clients that are at work while their CT is suspended or moved: each verifies what it gets, and none connects twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

from conftest import MACHINE
from netns import Netns
from testnode import TREE

WAIT_S = 60.0
HTTP, ECHO, UDP, SQL, REDIS = 80, 7, 7000, 3306, 6379


class Worker:
    """A client's thread: ``turn`` again and again.  The first failure ends it and is raised by the next ``check``."""

    pause_s = 0.01

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.longest_s = 0.0
        self.failure: BaseException | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._work, name=name)

    def start(self) -> None:
        self.thread.start()

    def turn(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        """Make a turn that waits come back."""

    def _work(self) -> None:
        try:
            while not self.ended.is_set():
                begun = time.monotonic()
                self.turn()
                self.count += 1
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
                self.ended.wait(self.pause_s)
        except BaseException as exc:  # of another thread: check() raises it in the test's
            self.failure = exc

    def check(self) -> None:
        """Wait until two more turns are done, of which the second began after this call."""
        target, deadline = self.count + 2, time.monotonic() + WAIT_S
        while self.count < target and self.failure is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if self.failure is not None:
            raise AssertionError(f"{self.name} failed after {self.count} turns: {self.failure!r}") from self.failure
        assert self.count >= target, f"{self.name} hangs after {self.count} turns"

    def finish(self) -> None:
        self.check()
        self.ended.set()
        self.thread.join(WAIT_S)
        assert self.failure is None and not self.thread.is_alive(), (self.name, self.failure)

    def close(self) -> None:
        self.ended.set()
        self.release()
        if self.thread.ident is not None:
            self.thread.join(WAIT_S)


class Connected(Worker):
    """A client with one TCP connection."""

    def __init__(self, name: str, netns: Netns, address: str, port: int) -> None:
        super().__init__(name)
        deadline = time.monotonic() + WAIT_S
        while True:
            with netns.entered():
                self.sock = socket.socket()
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            try:
                self.sock.connect((address, port))
                break
            except ConnectionRefusedError:  # a service of an init without readiness
                self.sock.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.stream = self.sock.makefile("rwb", buffering=1 << 16)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):
            self.stream.close()
        self.sock.close()


class Download(Connected):
    """Reads a file of a web server so slowly that the server always has more to send."""

    pause_s = 0.05

    def __init__(self, netns: Netns, address: str, digest: str) -> None:
        super().__init__("the download", netns, address, HTTP)
        self.digest, self.sum = digest, hashlib.sha256()
        self.stream.write(b"GET /big HTTP/1.0\r\nHost: ct\r\n\r\n")
        self.stream.flush()
        assert b" 200 " in self.stream.readline()
        self.left = 0
        while (line := self.stream.readline()) not in (b"\r\n", b"\n"):
            if line.lower().startswith(b"content-length:"):
                self.left = int(line.split()[1])
        assert self.left, "no length of the file"

    def turn(self) -> None:
        data = self.stream.read1(8192)  # type: ignore[attr-defined]
        assert data or self.pause_s == 0, "the server ended the download"
        self.sum.update(data)
        self.left -= len(data)
        if not self.left:
            self.ended.set()

    def finish(self) -> None:
        self.check()
        self.pause_s = 0
        self.thread.join(WAIT_S)
        assert self.failure is None and not self.left, (self.failure, self.left)
        assert self.sum.hexdigest() == self.digest, "what was downloaded is not the file"


class Echo(Connected):
    """Lines to a TCP server and back."""

    def __init__(self, netns: Netns, address: str) -> None:
        super().__init__("the TCP client", netns, address, ECHO)

    def turn(self) -> None:
        self.stream.write(b"line %d\n" % self.count)
        self.stream.flush()
        answer = self.stream.readline()
        assert answer == b"line %d\n" % self.count, answer


class Redis(Connected):
    """Sets and gets keys; ``ask`` is one command of the protocol."""

    def __init__(self, netns: Netns, address: str, name: str = "the redis client") -> None:
        super().__init__(name, netns, address, REDIS)

    def ask(self, *words: object) -> object:
        data = [str(word).encode() for word in words]
        self.stream.write(b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in data))
        self.stream.flush()
        return self._answer()

    def _answer(self) -> object:
        line = self.stream.readline()
        assert line.endswith(b"\r\n"), f"redis ended the connection after {line!r}"
        kind, value = line[:1], line[1:-2]
        if kind in b"+:":
            return value.decode()
        assert kind in b"$*", line
        if kind == b"*":
            return [self._answer() for _ in range(int(value))]
        return self.stream.read(int(value) + 2)[:-2].decode() if int(value) >= 0 else None

    def turn(self) -> None:
        assert self.ask("SET", f"key{self.count}", value_of(self.count)) == "OK"
        assert self.ask("GET", f"key{self.count}") == value_of(self.count)
        assert self.ask("INCR", "counter") == str(self.count + 1)

    def verify(self) -> None:
        """Compare every key, over the same connection, after ``finish``."""
        for number in range(self.count):
            assert self.ask("GET", f"key{number}") == value_of(number), f"key{number}"
        assert self.ask("GET", "counter") == str(self.count)


class Waiter(Redis):
    """Blocks in BLPOP; ``check`` pushes what wakes it, over another connection."""

    def __init__(self, netns: Netns, address: str) -> None:
        super().__init__(netns, address, "the blocked redis client")
        self.other = Redis(netns, address)

    def turn(self) -> None:
        assert self.ask("BLPOP", "queue", 0) == ["queue", f"item {self.count}"]

    def check(self) -> None:
        assert self.failure is None, self.failure
        before, deadline = self.count, time.monotonic() + WAIT_S
        self.other.ask("RPUSH", "queue", f"item {before}")
        while self.count == before and self.failure is None:
            assert time.monotonic() < deadline, "what was pushed did not wake BLPOP"
            time.sleep(0.005)
        assert self.failure is None, self.failure

    def finish(self) -> None:
        self.check()
        self.ended.set()
        self.other.ask("RPUSH", "queue", f"item {self.count}")
        self.thread.join(WAIT_S)
        assert self.failure is None and not self.thread.is_alive(), self.failure

    def close(self) -> None:
        self.other.close()
        super().close()


class Sql(Worker):
    """The mariadb client of the template: inserts rows and reads them back, while a second one has a transaction open."""

    def __init__(self, netns: Netns, address: str, tree: Path) -> None:
        super().__init__("the SQL client")
        self.processes = [start_sql(netns, address, tree) for _ in range(2)]
        self.connection = self._ask(0, "SELECT CONNECTION_ID();")
        self.transaction = self._ask(1, "BEGIN; INSERT INTO late VALUES (1, 'kept'); SELECT CONNECTION_ID();")

    def _ask(self, which: int, statement: str) -> str:
        stdin, stdout = self.processes[which].stdin, self.processes[which].stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(f"{statement}\n".encode())
            stdin.flush()
        except BrokenPipeError:
            raise AssertionError(stdout.read().decode("utf-8", "replace")) from None
        return stdout.readline().decode().strip()

    def turn(self) -> None:
        number, value = self.count, value_of(self.count)
        shown = self._ask(
            0,
            f"INSERT INTO done VALUES ({number}, '{value}'); "
            f"SELECT CONCAT_WS(' ', CONNECTION_ID(), COUNT(*), MAX(value)) FROM done WHERE number = {number};",
        )
        assert shown == f"{self.connection} 1 {value}", shown

    def verify(self) -> None:
        """Count and compare all rows and end the transaction, over the same connections, after ``finish``."""
        assert self._ask(0, "SELECT COUNT(*) FROM late;") == "0"
        shown = self._ask(1, "COMMIT; SELECT CONNECTION_ID();")
        assert shown == self.transaction, f"the open transaction: {shown!r}"
        assert self._ask(0, "SELECT MAX(value) FROM late;") == "kept"
        lines = "".join(f"{number} {value_of(number)}\n" for number in range(self.count))
        shown = self._ask(
            0,
            "SET group_concat_max_len = 1 << 30; SELECT MD5(GROUP_CONCAT(CONCAT(number, ' ', value, '\\n') "
            "ORDER BY number SEPARATOR '')) FROM done;",
        )
        assert shown == hashlib.md5(lines.encode()).hexdigest(), f"{self.count} rows: {shown}"

    def release(self) -> None:
        for process in self.processes:
            process.kill()

    def close(self) -> None:
        super().close()
        for process in self.processes:
            process.communicate()


class Udp:
    """Asks a server that counts, before and after each round."""

    def __init__(self, netns: Netns, address: str) -> None:
        with netns.entered():
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect((address, UDP))
        self.sock.settimeout(WAIT_S)
        self.count = 0

    def check(self) -> None:
        self.count += 1
        self.sock.send(b"question")
        try:
            answer = self.sock.recv(1500)
        except TimeoutError:
            raise AssertionError(f"no answer to datagram {self.count}") from None
        assert answer == b"%d question" % self.count, (answer, self.count)

    def close(self) -> None:
        self.sock.close()


def value_of(number: int) -> str:
    """Return what row and key *number* hold."""
    return hashlib.sha1(b"%d" % number).hexdigest()


def tree_of(template: str) -> Path:
    """Return the unpacked copy of a template."""
    top = Path(os.environ.get("VZ_TEST_TEMPLATES", TREE / ".cache/templates"))
    facts = dict(line.split("=", 1) for line in (top / f"cache/{template}.info").read_text().splitlines())
    return top / "unpacked" / facts["digest"] / "fs"


def start_sql(netns: Netns, address: str, tree: Path) -> subprocess.Popen[bytes]:
    """Start the mariadb client of *tree* with that tree's own loader and libraries: nothing is installed on the host."""
    libraries = tree / f"usr/lib/{MACHINE}-linux-gnu"
    words: list[str | Path] = [next(libraries.glob("ld-linux-*.so.*")), "--library-path", libraries]
    words += [tree / "usr/bin/mariadb", "--no-defaults", "--batch", "--skip-column-names", "--unbuffered"]
    words += [
        "--skip-reconnect",
        "--skip-ssl",
        f"--host={address}",
        f"--port={SQL}",
        "--user=client",
        "--password=pw",
        "data",
    ]
    with netns.entered():
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
