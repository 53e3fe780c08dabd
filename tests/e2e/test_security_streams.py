"""Rule 11: the streams of exec, enter and init, which a CT may write to for ever, never read, or hand on."""

from __future__ import annotations

import hashlib
import os
import pty
import signal
import subprocess
import time
import tty

import pytest

from conftest import Vz
from probes import give
from testnode import Node


def timed(vz: Vz, script: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run *script* on the node; it must end by itself within *seconds*."""
    return vz.run("timeout", "-s", "KILL", str(seconds), "bash", "-c", script, timeout=seconds + 30)


def test_rule11_the_operators_terminal_is_never_handed_in(vz: Vz, node: Node, ct: int) -> None:
    master, slave = pty.openpty()
    try:
        for words in (
            ("exec", str(ct), "ls -l /proc/self/fd; tty"),
            ("enter", str(ct), "--exec", "ls -l /proc/self/fd; exit"),
        ):
            running = node.popen(
                "vzctl", *words, stdin=slave, stdout=subprocess.PIPE, stderr=slave, start_new_session=True
            )
            shown = running.communicate(timeout=30)[0].decode()
            if words[0] == "exec":
                assert shown.count("pipe:") >= 3 and "/dev/pts" not in shown and "not a tty" in shown
            else:  # a terminal of the CT's own, the first one that it has
                assert "/dev/pts/0" in shown and os.ttyname(slave) not in shown.replace("/dev/pts/0", "")
    finally:
        os.close(master)
        os.close(slave)


def test_rule11_nothing_can_be_typed_into_the_operators_terminal(vz: Vz, node: Node, ct: int) -> None:
    """TIOCSTI from a session, and from one on a terminal that was made inside."""
    calls = give(vz, ct, "calls")
    number = {"x86_64": 16, "aarch64": 29}[os.uname().machine]
    assert vz("exec", ct, f"{calls} native {number} 0 0x5412 0").stdout == "-1 1\n"
    shown = vz(
        "enter", ct, "--exec", f"{calls} native {number} 0 0x5412 @65; {calls} native {number} 0 0x541c @11; exit"
    ).stdout
    assert shown.count("-1 1\r\n") == 2, shown


def test_rule11_init_has_the_null_device_of_the_ct(vz: Vz, node: Node, ct: int) -> None:
    pid = node.path(f"/var/lib/vzctl/vepid/{ct}").read_text().strip()
    for fd in range(3):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
    assert os.stat(f"/proc/{pid}/fd/0").st_ino != os.stat("/dev/null").st_ino  # not the node's own


def test_rule11_what_writes_before_it_reads_gets_its_input(vz: Vz, ct: int) -> None:
    done = timed(vz, f"head -c 20000000 /dev/zero | vzctl exec {ct} 'head -c 3000000 /dev/zero; wc -c' | tail -c 9", 30)
    assert done.stdout == "20000000\n"


@pytest.mark.parametrize("source", ["pipe", "file"])
def test_rule11_input_arrives_whole(vz: Vz, node: Node, ct: int, source: str) -> None:
    """A slow reader, from what splice(2) takes and from what it does not."""
    script = "head -c 700000 /dev/urandom > /vz/input; "
    slow = "for i in 1 2 3; do dd bs=50000 count=1 iflag=fullblock 2>/dev/null; sleep 0.2; done; cat"
    feed = "cat /vz/input |" if source == "pipe" else "</vz/input"
    shown = timed(vz, f"{script} {feed} vzctl exec {ct} '({slow}) | md5sum'; md5sum < /vz/input", 60).stdout.split("\n")
    assert shown[0].split() == shown[1].split() and len(shown[0]) > 32


def test_rule11_input_from_a_terminal_arrives_whole(vz: Vz, node: Node, ct: int) -> None:
    """A terminal cannot be spliced: what the CT has no room for yet is kept."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    data = os.urandom(300000)
    running = node.popen(
        "vzctl", "exec", str(ct), "sleep 0.5; head -c 300000 | md5sum", stdin=slave, stdout=subprocess.PIPE
    )
    os.close(slave)
    view = memoryview(data)
    while view:
        view = view[os.write(master, view[:2000]) :]
    shown = running.communicate(timeout=60)[0].split()[0].decode()
    os.close(master)
    assert shown == hashlib.md5(data).hexdigest()


def test_rule11_a_child_that_keeps_the_streams_holds_up_nobody(vz: Vz, ct: int) -> None:
    """The exec ends with its program, whoever still has its input, fills its output or does neither."""
    for script, status in (
        ("exec 5<&0; (sleep 1000 <&5) & exit 3", 3),
        ("for i in 1 2 3 4; do dd if=/dev/zero bs=1M & done; exit 4", 4),
        ("(while :; do echo x; done) & exit 5", 5),
        ("exec >&- 2>&- <&-; exit 6", 6),
    ):
        done = timed(
            vz, f"head -c 30000000 /dev/zero | vzctl exec2 {ct} '{script}' >/dev/null; echo ${{PIPESTATUS[1]}}", 20
        )
        assert done.stdout == f"{status}\n", script
    vz.sh(ct, "killall dd sh sleep")


def test_rule11_output_nobody_reads_stops_the_writer_not_the_node(vz: Vz, node: Node, ct: int) -> None:
    running = node.popen("vzctl", "exec", str(ct), "cat /dev/zero", stdout=subprocess.PIPE)
    time.sleep(1)
    with open(f"/proc/{running.pid}/status") as file:
        resident_kb = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    running.terminate()
    assert running.stdout is not None
    running.stdout.close()
    running.wait(timeout=20)
    assert resident_kb < 60000


def test_rule11_streams_can_be_opened_again(vz: Vz, ct: int) -> None:
    """/dev/stdout and its kin belong to the CT's root: logging to them works."""
    done = vz("exec", ct, "echo one > /dev/stdout; echo two > /dev/stderr; cat /dev/stdin", stdin="three")
    assert (done.stdout, done.stderr) == ("one\nthree", "two\n")


def test_rule11_missing_streams_of_the_caller_are_no_streams_of_the_ct(vz: Vz, node: Node, ct: int) -> None:
    """Called without descriptors 0 to 2, a command must not take what it opens first for them."""
    done = vz.run("bash", "-c", f"vzctl exec {ct} 'cat; ls -l /proc/self/fd >&2; echo said' 2>/vz/err <&-; cat /vz/err")
    assert done.stdout.startswith("said\n") and done.stdout.count("pipe:") >= 3
    vz.run("bash", "-c", f"vzctl exec {ct} 'echo into > /tmp/closed; echo said' >&- 2>&- <&-")
    assert vz("exec", ct, "cat /tmp/closed").stdout == "into\n"
    for path in ("/etc/vz/vz.conf", f"/etc/vz/conf/{ct}.conf"):
        assert "said" not in node.path(path).read_text()


@pytest.mark.parametrize("how", ["blocked", "stopped"])
@pytest.mark.parametrize("verb", ["exec", "enter"])
def test_rule11_a_session_that_hangs_does_not_keep_the_ct(vz: Vz, node: Node, ct: int, how: str, verb: str) -> None:
    """Its process is the child of a command that nobody reads, or that was stopped (^Z): the CT must end all the same."""
    words = ("exec", str(ct), "cat /dev/zero") if verb == "exec" else ("enter", str(ct), "--exec", "cat /dev/zero")
    session = node.popen("vzctl", *words, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    time.sleep(1)
    if how == "stopped":
        session.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    done = vz("stop", ct, "--fast", timeout=60)
    assert done.returncode == 0, done.stderr
    assert "stopped" in vz.run("vzlist", "-a", "-H", "-o", "status", ct).stdout
    session.kill()
    session.communicate()
    assert time.monotonic() - began < 25
