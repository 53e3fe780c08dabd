"""vz.kernel.pty against stty, tty and /proc."""

from __future__ import annotations

import _socket
import fcntl
import os
import struct
import subprocess
import termios

import pytest

from vz.kernel import pty


def test_a_pair_is_a_terminal_and_its_other_end() -> None:
    master, slave = pty.open_pair()
    try:
        name = os.ttyname(slave)
        assert name.startswith("/dev/pts/")
        assert subprocess.run(["tty"], stdin=slave, capture_output=True, text=True).stdout == f"{name}\n"
        os.write(master, b"typed\n")
        assert os.read(slave, 100) == b"typed\n"
        assert not os.get_inheritable(master)
        assert not os.get_inheritable(slave)
    finally:
        os.close(master)
        os.close(slave)


def test_the_size_is_what_stty_says() -> None:
    pairs = pty.open_pair() + pty.open_pair()
    try:
        fcntl.ioctl(pairs[0], termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        pty.copy_size(pairs[0], pairs[2])
        assert subprocess.run(["stty", "size"], stdin=pairs[3], capture_output=True, text=True).stdout == "33 77\n"
        with open(os.devnull) as null:
            pty.copy_size(null.fileno(), pairs[2])  # no terminal: nothing
        assert subprocess.run(["stty", "size"], stdin=pairs[3], capture_output=True, text=True).stdout == "33 77\n"
    finally:
        for fd in pairs:
            os.close(fd)


def test_control_makes_it_the_controlling_terminal() -> None:
    master, slave = pty.open_pair()
    name = os.ttyname(slave)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        pty.control(slave)
        os.execv("/bin/sh", ["sh", "-c", "ps -o tty= -p $$; tty </dev/tty; echo END"])
    os.close(slave)
    text = b""
    try:
        while b"END" not in text:
            text += os.read(master, 100)
    finally:
        os.waitpid(pid, 0)
        os.close(master)
    assert text.split()[0].decode() == name.removeprefix("/dev/")
    assert text.split()[1] == b"/dev/tty"


def test_a_descriptor_is_passed() -> None:
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    reading, writing = os.pipe()
    try:
        pty.send_fd(theirs, writing)
        passed = pty.receive_fd(ours)
        assert os.path.samestat(os.fstat(passed), os.fstat(writing))
        assert not os.get_inheritable(passed)
        os.close(passed)
        theirs.close()
        assert pty.receive_fd(ours) == -1
    finally:
        ours.close()
        os.close(reading)
        os.close(writing)


def test_what_is_no_ptmx_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: real("/dev/null" if path == "/dev/ptmx" else path, *rest))
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        pty.open_pair()
