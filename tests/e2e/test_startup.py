"""The start-up budget: what a command has imported by its end, since imports are the speed of a command line.

Modules are steady where times are not; ``bench/lifecycle.py`` reports the times.
"""

from __future__ import annotations

import pytest

from conftest import Vz
from testnode import TREE, Node

FILES = frozenset("_stat abc _abc errno fcntl genericpath os posixpath select stat time _collections_abc".split())
LIBC = frozenset("_ctypes _struct struct".split())
TERMINAL = frozenset("termios tty _socket".split())
# command: (standard modules that it may have beyond the bare interpreter, at most so many modules of ours)
BUDGET = {
    "vzctl status @": (FILES, 16),
    "vzctl exec @ true": (FILES | LIBC, 34),
    "vzctl exec2 @ true": (FILES | LIBC, 34),
    "vzctl exec3 @ true": (FILES | LIBC, 34),
    "vzctl enter @ --exec exit": (FILES | LIBC | TERMINAL, 36),
    "vzlist -a": (FILES, 22),
    "vzctl stop @ --fast": (FILES | LIBC | TERMINAL, 60),
    "vzctl start @": (FILES | LIBC | TERMINAL, 73),
}
SPY = f"""
import os, sys
bare = set(sys.modules)
sys.path.insert(0, {str(TREE / "src")!r})
sys.argv = sys.argv[2:]
ours, leave = os.getpid(), os._exit

def spy(status):
    if os.getpid() == ours:
        out = os.open("/vz/modules", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(out, " ".join([str(status), *(set(sys.modules) - bare)]).encode())
        os.close(out)
    leave(status)

os._exit = spy
from vz.cli.main import main
main(sys.argv[0])
"""


def test_what_commands_import(vz: Vz, node: Node, ct: int) -> None:
    too_many = {}
    for line, (allowed, most) in BUDGET.items():
        words = line.replace("@", str(ct)).split()
        vz.run("/usr/bin/python3", "-I", "-S", "-B", "-c", SPY, "-", *words)
        status, *seen = node.path("/vz/modules").read_text().split()
        assert status == "0", line
        foreign = {name for name in seen if not name.startswith("vz") and name != "__future__"} - allowed
        ours = sorted(name for name in seen if name.startswith("vz."))
        if foreign or len(ours) > most:
            too_many[line] = (sorted(foreign), len(ours), ours)
    assert not too_many, "\n".join(f"{line}: {what}" for line, what in too_many.items())


@pytest.mark.parametrize("name", ["vzctl", "vzlist", "vzpid", "vz-launcher"])
def test_the_interpreter_starts_bare(name: str) -> None:
    assert (TREE / "bin" / name).read_text().startswith("#!/usr/bin/python3 -IS\n")
