"""chkpnt and restore of whole systems: nothing is lost, no connection breaks, the system goes on being one."""

from __future__ import annotations

import time

import pytest
from chkpnt_rig import Session, cycle, let_in

from conftest import SOAK, Vz, template

ROUNDS = 20 if SOAK else 2
SYSTEMS = ["debian-12", "debian-13", "debian-12-sysvinit"]


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        (name, layout)
        for name in SYSTEMS
        for layout in ("overlay", "simfs")
        if SOAK or layout == "overlay" or name == "debian-13"
    ],
)
def test_a_whole_system(vz: Vz, new_ct, name: str, layout: str) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(
        "--ipadd", "192.0.2.77", "--ipadd", "2001:db8::77", template=template(name), layout=layout, start=False
    )
    vz.ok("start", ctid, "--wait")
    let_in(vz, ctid)
    vz.sh(ctid, "echo kept > /run/kept; (sleep 1000 & echo $! > /run/sleeper) </dev/null >/dev/null 2>&1")
    session = Session(vz, "192.0.2.77")
    try:
        session.ask("export KEPT=variable; cd /run")
        session.type("vi /root/file\n")
        session.wait_for(b"[New")
        for number in range(ROUNDS):
            cycle(vz, ctid)
            session.type(f"oline {number}\x1b")
            session.wait_for(f"line {number}".encode())
        session.type(":wq\n")
        session.wait_for(b"written")
        time.sleep(0.5)  # vi throws away what is typed ahead when it leaves
        shown = session.ask("echo $KEPT $PWD $(tty); grep . /root/file").splitlines()
        assert shown[-ROUNDS - 1 :] == ["variable /run /dev/pts/0", *(f"line {number}" for number in range(ROUNDS))]
    finally:
        session.close()
    assert vz("exec", ctid, "cat /run/kept").stdout == "kept\n"
    assert vz("exec", ctid, "cat /proc/$(cat /run/sleeper)/comm").stdout == "sleep\n"
    for family, address in (("-4", "192.0.2.77"), ("-6", "2001:db8::77")):
        assert vz.run("ping", family, "-c1", "-W2", address).returncode == 0
    if "sysvinit" in name:
        assert vz("exec", ctid, "runlevel").stdout == "N 2\n"
        assert vz("exec", ctid, "service cron restart >/dev/null && service cron status").returncode == 0
    else:
        assert vz("exec", ctid, "systemctl is-system-running").stdout == "running\n"
        assert vz("exec", ctid, "systemctl --failed --no-legend").stdout == ""
        assert vz("exec", ctid, "systemctl restart cron && systemctl is-active cron ssh").stdout == "active\nactive\n"
    again = Session(vz, "192.0.2.77")
    again.close()
    vz.ok("stop", ctid, timeout=90)
    assert vz("status", ctid).stdout == f"CTID {ctid} exist unmounted down\n"


@pytest.mark.parametrize("name", ["debian-12", "debian-13"])
def test_what_is_watched_and_forgotten_by_the_kernel(vz: Vz, new_ct, name: str) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(template=template(name), start=False)
    vz.ok("start", ctid, "--wait")
    vz.ok("exec", ctid, "systemctl start dbus.service")
    with open("/proc/sys/vm/drop_caches", "w") as file:  # the names of files; overlayfs makes no handles without
        file.write("2")
    cycle(vz, ctid)
    assert vz("exec", ctid, "systemctl is-system-running").stdout == "running\n"


def test_a_system_that_logs_all_the_time(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    """Its shells are in vfork(2), and its journald has messages with credentials to read, whenever it is frozen."""
    ctid = new_ct(template=template("debian-12"), start=False)
    vz.ok("start", ctid, "--wait")
    loggers = "for i in 1 2 3; do setsid dash -c 'while :; do logger hello; done' </dev/null >/dev/null 2>&1 & done"
    vz.sh(ctid, loggers)
    for _ in range(20 if SOAK else 3):
        cycle(vz, ctid)
    assert vz("exec", ctid, "pkill dash; logger last; journalctl --sync; journalctl -n 9 --no-pager").stdout.count(
        "last"
    )


@pytest.mark.timeout(900 if SOAK else 300)
def test_many_at_once(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctids = [new_ct("--ipadd", f"198.51.100.{number + 1}") for number in range(100 if SOAK else 6)]
    for verb, state in (("chkpnt", "unmounted down suspended"), ("restore", "mounted running")):
        processes = [vz.node.popen("vzctl", verb, str(ctid), stdout=-3, stderr=-1, text=True) for ctid in ctids]
        said = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(ctids), "".join(said)[:4000]
        assert [vz("status", ctid).stdout for ctid in ctids] == [f"CTID {ctid} exist {state}\n" for ctid in ctids]
    for number, _ in enumerate(ctids):
        assert vz.run("ping", "-c1", "-W2", f"198.51.100.{number + 1}").returncode == 0


WATCHED = """
cat > /root/watched <<'END'
use IO::Socket::UNIX; use Socket;
sub notify { my $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $ENV{NOTIFY_SOCKET}) or die; $s->send($_[0]); }
notify("READY=1");
while (1) { select(undef, undef, undef, 0.2); notify("WATCHDOG=1"); }
END
systemd-run -q --unit=watched -p Type=notify -p TimeoutStartSec=20 -p WatchdogSec=3 perl /root/watched
"""


@pytest.mark.parametrize("name", ["debian-12", "debian-13"])
def test_a_service_with_a_watchdog(vz: Vz, new_ct, name: str) -> None:  # type: ignore[no-untyped-def]
    """systemd goes on hearing its services: journald and logind have a watchdog of three minutes."""
    ctid = new_ct(template=template(name), start=False)
    vz.ok("start", ctid, "--wait")
    vz.sh(ctid, WATCHED)
    shown = "systemctl show watched -p MainPID -p Result -p ActiveState"
    before = vz.ok("exec", ctid, shown)
    assert "ActiveState=active" in before
    cycle(vz, ctid)
    time.sleep(4)
    assert vz.ok("exec", ctid, shown) == before
