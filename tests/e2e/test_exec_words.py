"""exec, exec2, exec3, runscript: how words are joined, whose status it is, which streams, what the CT sees of the caller."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from conftest import Vz
from testnode import Node

# words after the CTID, what the CT's shell makes of them
JOINED = [
    (["echo", "a", "b"], "a b\n"),
    (["echo a  b"], "a b\n"),
    (["echo", "'a  b'"], "a  b\n"),
    (["echo", "a  b"], "a b\n"),
    (["echo", "", "x"], " x\n"),
    (["printf", "[%s]", "", "''", "x"], "[][][x]"),
    (["echo", "one", ";", "echo", "two"], "one\ntwo\n"),
    (["echo", "a", "|", "tr", "a", "b"], "b\n"),
    (["echo", "$HOME"], "/\n"),
    (["echo", "\\$HOME"], "$HOME\n"),
    (["echo", "-n", "x"], "x"),
    (["--", "true"], None),
    (["echo", "ü\n", "y"], "ü\n"),
]


@pytest.mark.parametrize(("words", "out"), JOINED, ids=lambda value: str(value))
def test_words_are_joined_by_single_blanks(vz: Vz, ct: int, words: list[str], out: str | None) -> None:
    done = vz("exec", ct, *words)
    if out is None:
        assert done.returncode == 8
    else:
        assert done.stdout == out


def test_one_ct_for_many_questions(vz: Vz, ct: int) -> None:
    for words, exec_, exec2 in (
        (["true"], 0, 0),
        (["false"], 8, 1),
        (["exit", "7"], 8, 7),
        (["exit", "31"], 8, 31),
        (["no-such-command"], 8, 127),
        (["/etc/passwd"], 8, 126),
        (["kill -15 $$"], 8, 3),
    ):
        assert vz("exec", ct, *words).returncode == exec_, words
        assert vz("exec2", ct, *words).returncode == exec2, words
    assert vz("exec2", ct, "kill -15 $$").stderr == "Got signal 15\n"
    assert vz("exec3", ct, "sh", "-c", "exit 9").returncode == 9
    assert vz("exec3", ct, "echo", "$HOME;", "a  b", "").stdout == "$HOME; a  b \n"
    assert vz("exec3", ct, "/bin/echo", "x").stdout == "x\n"
    done = vz("exec3", ct, "no-such-program")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (47, "", 1)
    done = vz("exec3", ct, "/etc/passwd")
    assert (done.returncode, done.stderr.count("\n")) == (47, 1)


def test_a_shell_that_reads_its_input(vz: Vz, ct: int) -> None:
    for verb, status in (("exec", 8), ("exec2", 4)):
        done = vz(verb, ct, "-", stdin="echo from stdin\nexit 4\n")
        assert (done.returncode, done.stdout) == (status, "from stdin\n")
        assert vz(verb, ct, "-", "whatever", stdin="echo x\n").stdout == "x\n", "the first word decides"
    assert vz("exec", ct, "cat", "-", stdin="through\n").stdout == "through\n"


def test_streams_are_apart_and_any_bytes(vz: Vz, node: Node, ct: int) -> None:
    done = vz("exec", ct, "echo out; echo err >&2; echo out2")
    assert (done.stdout, done.stderr) == ("out\nout2\n", "err\n")
    data = os.urandom(1 << 20)
    argv = node.argv("vzctl", "exec2", str(ct), "cat")
    assert subprocess.run(argv, input=data, capture_output=True, env=node.env, timeout=60).stdout == data
    assert vz("exec", ct, "test -t 0 || test -t 1 || test -t 2").returncode == 8, "no terminal"


def test_nothing_of_the_caller_gets_in(vz: Vz, node: Node, ct: int) -> None:
    script = f"cd /etc && SECRET=1 exec 9</etc/shadow && umask 077 && exec vzctl exec {ct} 'env; pwd; umask; ls /proc/self/fd'"
    lines = vz.run("bash", "-c", script).stdout.splitlines()
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert {"HOME=/", "TERM=linux", path, "/", "0022"} <= set(lines)
    assert not [line for line in lines if line.startswith(("SECRET", "LC_ALL", "LANG", "SUDO"))]
    assert "9" not in lines


def test_down(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct(start=False)
    for verb, status in (("exec", 8), ("exec2", 31), ("exec3", 31), ("enter", 31)):
        words = [] if verb == "enter" else ["true"]
        done = vz(verb, ct, *words)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "Container is not running\n")


def test_a_root_without_a_shell(vz: Vz, ct: int) -> None:
    vz.sh(ct, "cp /bin/busybox /busybox; rm -f /bin/sh /bin/bash")
    done = vz("exec2", ct, "true")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (47, "", 1)
    assert vz("exec", ct, "true").returncode == 8
    assert vz("exec3", ct, "/busybox", "echo", "x").stdout == "x\n"
    assert vz("exec3", ct, "/busybox", "ln", "-s", "/bin/busybox", "/bin/sh").returncode == 0


def test_a_signal_reaches_the_command(vz: Vz, node: Node, ct: int) -> None:
    process = node.popen(
        "vzctl",
        "exec2",
        str(ct),
        "trap 'echo caught; exit 5' TERM; echo up; while :; do sleep 0.1; done",
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    process.terminate()
    assert process.communicate(timeout=30)[0] == b"caught\n"
    assert process.returncode == 5


def test_enter_is_0_whatever_the_shell_says(vz: Vz, ct: int) -> None:
    done = vz("enter", ct, stdin="exit 3\n")
    assert done.returncode == 0
    assert done.stdout.startswith(f"entered into CT {ct}\n") and done.stdout.endswith(f"exited from CT {ct}\n")
    done = vz("enter", ct, "--exec", "echo", "typed;", "exit", "4")
    assert done.returncode == 0 and "\ntyped\r\n" in done.stdout.replace("\r\r\n", "\r\n")


def test_runscript(vz: Vz, node: Node, new_ct: Callable[..., int]) -> None:
    ct = new_ct(start=False)
    script = node.path("/vz/script")
    script.write_text("echo $(id -u) $HOME $#; cat /proc/1/comm; echo err >&2; exit 6\n")  # need not be executable
    done = vz("runscript", ct, "/vz/script")
    assert (done.returncode, done.stdout, done.stderr) == (6, "0 / 0\nsh\n", "err\n"), "no init is started"
    assert vz.ok("status", ct) == f"CTID {ct} exist unmounted down\n"
    assert not node.path(f"/run/vz/{ct}").exists()
    vz.ok("mount", ct)
    assert vz("runscript", ct, "/vz/script").returncode == 6
    assert vz.ok("status", ct) == f"CTID {ct} exist mounted down\n", "what was mounted stays so"
    vz.ok("start", ct)
    done = vz("runscript", ct, "/vz/script")
    assert (done.returncode, done.stdout) == (6, "0 / 0\ninit\n")
    assert "running" in vz.ok("status", ct)
    for missing in ("/vz/no-such-script", "/vz"):
        done = vz("runscript", ct, missing)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (11, "", 1)
    vz.ok("stop", ct, "--fast")
    script.write_text("kill -9 $$\n")
    assert vz("runscript", ct, "/vz/script").returncode == 3
    vz.run("mv", f"/vz/private/{ct}", f"/vz/private/{ct}.away")
    try:
        assert vz("runscript", ct, "/vz/script").returncode == 43
    finally:
        vz.run("mv", f"/vz/private/{ct}.away", f"/vz/private/{ct}")


def test_console_takes_a_number(vz: Vz, ct: int) -> None:
    done = vz("console", ct, "2", stdin="")
    assert done.stderr.splitlines()[0] == f"Attached to CT {ct} (ESC . to detach)"
    assert done.stderr.splitlines()[-1] == f"Detached from CT {ct}"
