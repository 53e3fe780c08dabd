"""enter and console, by hand (on a terminal) and from scripts (without one)."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator

import pytest

from conftest import Vz, template


class Hand:
    """An operator at a terminal: types, reads, resizes."""

    def __init__(self, vz: Vz, *argv: object) -> None:
        self.master, slave = pty.openpty()
        self.resize(40, 132)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.text = ""
        words = ["setsid", "--ctty", "--wait", "vzctl", *(str(word) for word in argv)]
        self.process = vz.node.popen(*words, stdin=slave, stdout=slave, stderr=slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str, timeout_s: float = 15) -> str:
        """Read until *text* comes; what was read is forgotten up to its end."""
        end = time.monotonic() + timeout_s
        while text not in self.text:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                raise AssertionError(f"no {text!r} in {self.text!r}")
            try:
                self.text += os.read(self.master, 4096).decode("utf-8", "replace")
            except OSError:
                raise AssertionError(f"no {text!r} in {self.text!r}, and it has ended") from None
        before, _, self.text = self.text.partition(text)
        return before

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def wait_raw(self) -> None:
        for _ in range(200):
            if self.is_raw():
                return
            time.sleep(0.02)
        raise AssertionError("the terminal was not put into raw mode")

    def end(self) -> int:
        status = self.process.wait(15)
        assert termios.tcgetattr(self.slave) == self.before
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def hand(vz: Vz) -> Iterator[Callable[..., Hand]]:
    made: list[Hand] = []

    def make(*argv: object) -> Hand:
        made.append(Hand(vz, *argv))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_enter_gives_a_login_shell_on_a_terminal_of_the_ct(vz: Vz, ct: int, hand: Callable[..., Hand]) -> None:
    operator = hand("enter", ct)
    operator.expect(f"entered into CT {ct}\r\n")
    operator.wait_raw()
    operator.type("echo $0 $HOME $USER $LOGNAME $HISTFILE; tty; stty size; pwd\r")
    operator.expect("-sh /root root root /dev/null\r\n")
    operator.expect("/dev/pts/0\r\n40 132\r\n/root\r\n")
    operator.resize(50, 100)
    time.sleep(0.2)
    operator.type("stty size\r")
    operator.expect("50 100\r\n")
    operator.type("sleep 100\r")
    time.sleep(0.2)
    operator.type("\x03")  # ^C reaches the program in the CT, not us
    operator.type("echo ali''ve; exit 7\r")
    operator.expect("alive\r\n")
    operator.expect(f"exited from CT {ct}\r\n")
    assert operator.end() == 0


def test_enter_without_a_terminal(vz: Vz, ct: int) -> None:
    done = vz("enter", ct, stdin="echo a''b; tty\nexit 3\n")
    assert done.returncode == 0
    assert done.stdout.startswith(f"entered into CT {ct}\n")
    assert "ab\r\n/dev/pts/0\r\n" in done.stdout
    assert done.stdout.endswith(f"exited from CT {ct}\n")
    done = vz("enter", ct, stdin="echo no''newline", timeout=20)
    assert done.returncode == 0
    assert "\nnonewline\r\n" in done.stdout
    assert vz("enter", ct, timeout=20).returncode == 0  # no input at all


def test_the_end_of_input_reaches_the_shell_though_a_program_takes_the_first(vz: Vz, ct: int) -> None:
    assert vz("enter", ct, stdin="cat\n", timeout=20).returncode == 0


def test_enter_exec_types_and_goes_on(vz: Vz, ct: int) -> None:
    done = vz("enter", ct, "--exec", "echo", "fi''rst", "two   blanks", stdin="echo seco''nd\n")
    assert done.returncode == 0
    assert done.stdout.index("first two blanks\r\n") < done.stdout.index("second\r\n")


def test_wrong_words(vz: Vz, ct: int) -> None:
    for words in (["x"], ["--exec"], ["-c", "ls"], ["--exe", "ls"]):
        done = vz("enter", ct, *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (20, "", 1), words
    assert vz("enter", 999999).returncode == 14
    assert vz("console", 999999).returncode == 14
    assert vz("console", ct, "1", "2").returncode == 20
    for word in ("x", "-1", "1x", "", "\x1b[m"):
        done = vz("console", ct, word)
        assert (done.returncode, done.stderr.count("\n"), "\x1b" in done.stderr) == (21, 1, False), word


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_terminal_is_restored_when_we_are_killed(vz: Vz, ct: int, hand: Callable[..., Hand], number: int) -> None:
    operator = hand("enter", ct)
    operator.expect("# ")
    operator.wait_raw()
    operator.process.send_signal(number)  # nsenter and setsid have become vzctl
    operator.end()
    for _ in range(100):  # its shell has been hung up
        if vz.sh(ct, "ls /dev/pts").split() == ["ptmx"]:
            break
        time.sleep(0.05)
    assert vz.sh(ct, "ls /dev/pts").split() == ["ptmx"]


def test_a_ct_that_stops_ends_the_session(vz: Vz, ct: int, hand: Callable[..., Hand]) -> None:
    operator = hand("enter", ct)
    operator.expect("# ")
    vz.ok("stop", ct, "--fast")
    operator.expect(f"exited from CT {ct}\r\n")
    assert operator.end() == 0


def test_what_ignores_the_hangup_does_not_hold_us(vz: Vz, ct: int, hand: Callable[..., Hand]) -> None:
    operator = hand("enter", ct)
    operator.expect("# ")
    operator.type("trap '' HUP; sleep 1000 & exit\r")
    operator.expect(f"exited from CT {ct}\r\n")
    assert operator.end() == 0
    assert "sleep 1000" in vz.sh(ct, "ps")


def test_console_on_a_debian_ct(vz: Vz, new_ct: Callable[..., int], hand: Callable[..., Hand]) -> None:
    ct = new_ct("--hostname", "cons.example.com", template=template("debian-12"))
    vz.ok("set", ct, "--userpasswd", "root:s3cret")
    operator = hand("console", ct)
    operator.expect(f"Attached to CT {ct} (ESC . to detach)\r\n")
    operator.expect("login: ")
    operator.type("root\r")
    operator.expect("assword: ")
    operator.type("s3cret\r")
    operator.expect("# ")
    operator.type("tty; stty size; echo $0 $USER\r")
    operator.expect("/dev/pts/")
    operator.expect("40 132\r\n-bash root\r\n")
    operator.type("printf '%s' a\x1b.b\r")  # not at the start of a line
    operator.type("\x1b[A\x1b[B echo an''swer\r")  # arrows begin with ESC
    operator.expect("answer\r\n")
    operator.type("\x1b")
    time.sleep(0.3)
    operator.type(".")
    operator.expect(f"Detached from CT {ct}\r\n")
    assert operator.end() == 0
    operator = hand("console", ct, "--start", "2")
    operator.expect("login: ")
    operator.type("\x1b!")  # kills it, and there is a new one
    operator.expect("login: ")
    operator.type("\x1b.")
    operator.expect(f"Detached from CT {ct}\r\n")
    assert operator.end() == 0
    for _ in range(100):
        if "login" not in vz.sh(ct, "ps -eo tty,comm | grep pts"):
            break
        time.sleep(0.05)
    assert "login" not in vz.sh(ct, "ps -eo tty,comm | grep pts")  # nothing is left that a dump would have to carry


def test_console_of_a_stopped_ct_waits(vz: Vz, new_ct: Callable[..., int], hand: Callable[..., Hand]) -> None:
    ct = new_ct(start=False)
    operator = hand("console", ct)
    operator.expect(f"Attached to CT {ct} (ESC . to detach)\r\n")
    operator.wait_raw()
    operator.type("\x1b.")
    operator.expect(f"Detached from CT {ct}\r\n")
    assert operator.end() == 0
    operator = hand("console", ct)
    operator.wait_raw()
    vz.ok("start", ct)
    operator.expect("login: ")
    operator.type("\x1b.")
    assert operator.end() == 0
    vz.ok("stop", ct, "--fast")
    done = vz("console", ct)  # no input: nobody waits
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"Attached to CT {ct} (ESC . to detach)\nDetached from CT {ct}\n"


def test_enter_with_a_dev_that_the_ct_arranged(vz: Vz, ct: int) -> None:
    """/dev/ptmx is the CT's to replace: it gets a message, not a hang and nothing of the host."""
    vz.sh(ct, "rm /dev/ptmx; mkfifo /dev/ptmx")
    done = vz("enter", ct, stdin="exit\n", timeout=20)
    assert done.returncode == 47
    assert done.stderr.endswith("Unable to open a terminal in the container\n")
    vz.sh(ct, "rm /dev/ptmx; ln -s /etc/passwd /dev/ptmx")
    assert vz("enter", ct, stdin="exit\n", timeout=20).returncode == 47


def test_the_operators_terminal_is_not_in_the_ct(vz: Vz, ct: int, hand: Callable[..., Hand]) -> None:
    operator = hand("enter", ct)
    operator.expect("# ")
    operator.type("tty; ls -l /proc/$$/fd; echo en''d\r")
    shown = operator.expect("\r\nend\r\n").splitlines()
    own = next(line for line in shown if line.startswith("/dev/"))
    assert {line.rpartition(" -> ")[2] for line in shown if " -> " in line} <= {own, "/dev/tty"}, shown
    operator.type("echo '<'$(env | cut -d= -f1 | sort)'>'\r")
    operator.expect("\r\n<")
    names = operator.expect(">\r\n").split()
    assert set(names) <= {"HISTFILE", "HOME", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHLVL", "TERM", "USER", "_"}
    operator.type("exit\r")
    assert operator.end() == 0


def test_enter_leaves_no_process_of_ours(vz: Vz, ct: int, hand: Callable[..., Hand]) -> None:
    operator = hand("enter", ct)
    operator.expect("# ")
    before = set(subprocess.run(["pgrep", "-f", f"vzctl enter {ct}$"], capture_output=True, text=True).stdout.split())
    operator.type("exit\r")
    operator.end()
    assert before
    assert not subprocess.run(["pgrep", "-f", f"vzctl enter {ct}$"], capture_output=True, text=True).stdout.split()


def test_a_reader_that_leaves_ends_the_session(vz: Vz, ct: int) -> None:
    script = f"{{ vzctl enter {ct}; echo status $? >&2; }} | head -c 5"
    done = vz.run("sh", "-c", script, stdin="while :; do echo output; done\n", timeout=20)
    assert (done.stdout, done.stderr) == ("enter", "status 0\n")
