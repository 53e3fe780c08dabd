"""chkpnt and restore with programs that have their terminal open as /dev/tty: pagers, shells with job control, sudo."""

from __future__ import annotations

import fcntl
import os
import termios
import time

from chkpnt_rig import Session, cycle, let_in
from test_chkpnt_check import named, planted  # noqa: F401

from conftest import Vz, template
from netns import wait_until


def test_programs_that_have_dev_tty_open(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    """In two sessions of sshd, which keeps their masters; each program has its own terminal afterwards."""
    ctid = new_ct("--ipadd", "192.0.2.79", template=template("debian-12"), start=False)
    vz.ok("start", ctid, "--wait")
    let_in(vz, ctid)
    vz.sh(ctid, "seq 5000 > /root/numbers")
    pager, shell = Session(vz, "192.0.2.79"), Session(vz, "192.0.2.79")
    try:
        pager.ask("stty rows 12 cols 70")
        pager.ask("exec dash -i")
        pager.ask("PS1=")
        pager.type("TERM=vt100 less /root/numbers\n")
        pager.wait_for(b"11\r\n")
        shell.ask("stty rows 33 cols 111")
        shell.ask("exec dash -i")
        shell.ask("PS1=")
        links = vz.sh(ctid, "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c /dev/tty$").strip()
        assert int(links) >= 2
        for number in range(2):
            cycle(vz, ctid)
            pager.type(f"{number + 3}000g")
            pager.wait_for(f"{number + 3}003\r\n".encode())
            assert shell.ask("stty size; tty").split() == ["33", "111", "/dev/pts/1"]
            assert shell.ask("stty size </dev/tty") == "33 111"
        pager.type("q")
        pager.ask("true")
        assert pager.ask("stty size; tty").split()[-3:] == ["12", "70", "/dev/pts/0"]
        # job control is the terminal's: ^Z stops what is in the foreground, and nothing else
        shell.type("sleep 500\n")
        assert wait_until(lambda: vz("exec", ctid, "pidof sleep").returncode == 0)
        time.sleep(0.3)  # until it is in the foreground
        shell.type("\x1a")
        assert "Stopped" in shell.ask("jobs")
    finally:
        pager.close()
        shell.close()


def test_a_terminal_that_nobody_else_has(vz: Vz, planted) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    """Its descriptor is named before anything is frozen: criu could not make it again."""

    def orphan() -> int:
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        tty = os.open("/dev/tty", os.O_RDWR)
        os.close(slave)
        return master + tty

    named(vz, planted(lambda: None, orphan), "process planted", "/dev/tty open", "nobody has that terminal otherwise")
