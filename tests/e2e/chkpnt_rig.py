"""What the tests of checkpoint and restore have in common: an ssh session with a program at work, and a cycle."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable

from conftest import Vz

KEY = "/vz/chkpnt-key"
SSH = (
    *("ssh", "-tt", "-F", "none", "-i", KEY, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"),
    *("-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=10"),
)


def public_key(vz: Vz) -> str:
    """Return the public half of a key of the node's."""
    if vz.run("test", "-e", KEY).returncode:
        assert vz.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY).returncode == 0
    return vz.run("cat", f"{KEY}.pub").stdout.strip()


def let_in(vz: Vz, ctid: int) -> None:
    """Let the node's key in as the CT's root."""
    vz.sh(ctid, f"mkdir -p /root/.ssh && echo '{public_key(vz)}' > /root/.ssh/authorized_keys")


class Session:
    """An interactive ssh login: ``ask`` types a line and returns what came back before the marker it echoes.

    From the node with its key, or from where *start* starts the words of an ssh command line with the key file *key*.
    """

    def __init__(
        self, vz: Vz, address: str, key: str = KEY, start: Callable[..., subprocess.Popen[bytes]] | None = None
    ) -> None:
        words = [key if word == KEY else word for word in SSH]
        self.process = (start or vz.node.popen)(
            *words, f"root@{address}", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.seen = b""
        self.count = 0
        self.ask("PS1= PS2= HISTFILE=; stty -echo")

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait_for(self, text: bytes, timeout_s: float = 20.0) -> bytes:
        """Read until *text* has come; return all before it."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, left))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise AssertionError(f"ssh said nothing more after {self.seen[-400:]!r}, {text!r} was awaited")
            self.seen += data
        before, _, self.seen = self.seen.partition(text)
        return before

    def ask(self, line: str) -> str:
        """Type the shell command *line*; return its output."""
        self.count += 1
        self.type(f"{line}\necho done-$((1000 + {self.count}))\n")
        return self.wait_for(f"done-{1000 + self.count}".encode()).decode("utf-8", "replace").replace("\r", "").strip()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.kill()
        self.process.wait()


def cycle(vz: Vz, ctid: int) -> None:
    """Suspend and restore the CT, with its state looked at in between."""
    done = vz("chkpnt", ctid)
    assert done.returncode == 0, done.stdout + done.stderr
    assert vz("status", ctid).stdout == f"CTID {ctid} exist unmounted down suspended\n"
    done = vz("restore", ctid)
    assert done.returncode == 0, done.stdout + done.stderr
    assert vz("status", ctid).stdout == f"CTID {ctid} exist mounted running\n"
    assert vz.run("test", "-e", f"/vz/dump/Dump.{ctid}").returncode, "the dump is still there"
