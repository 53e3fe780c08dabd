"""A CT that serves: its clients notice no more of a suspend and restore, or of a move to another node, than a pause."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
from pathlib import Path

import pytest
from chkpnt_rig import Session, cycle
from services_rig import ECHO, UDP, Connected, Download, Echo, Redis, Sql, Udp, Waiter, Worker, tree_of

from conftest import SOAK, Vz, template
from netns import Netns, wait_until
from probes import give
from rig import Rig

_ids = itertools.count(8501)
ROUNDS = 20 if SOAK else 2
SYSTEMS = ["debian-12", "debian-13", "debian-12-sysvinit"] if SOAK else ["debian-12"]
KINDS = ["busybox", *SYSTEMS]
ADDRESS = "192.0.2.43"
BIG_MB = 128 if SOAK else 16
SERVERS = "nginx mariadbd redis-server cron sshd udpecho vi"
UNIT = "[Service]\\nExecStart=/root/udpecho %d\\n"
DEBIAN = f"""
set -e
head -c {BIG_MB}M /dev/urandom > /var/www/html/big
mkdir -p /root/.ssh
printf '192.0.2.1 node\\n192.0.2.100 client\\n' >> /etc/hosts
echo '* * * * * root date >> /root/minutes' > /etc/cron.d/minutes
redis-cli config set protected-mode no >/dev/null
redis-cli config set bind 0.0.0.0 >/dev/null
printf '[mysqld]\\nbind-address = 0.0.0.0\\n' > /etc/mysql/mariadb.conf.d/99-test.cnf
mariadb -e "CREATE DATABASE data; USE data; CREATE USER client@'%' IDENTIFIED BY 'pw'; GRANT ALL ON data.* TO client@'%';
  CREATE TABLE done (number INT PRIMARY KEY, value CHAR(40)); CREATE TABLE late (number INT PRIMARY KEY, value CHAR(40))"
"""
SYSTEMD = f"""
printf '{UNIT % UDP}' > /etc/systemd/system/udp-echo.service
systemctl daemon-reload
systemctl start udp-echo
systemd-run -q --unit=seconds --on-active=1 --on-unit-active=1 --timer-property=AccuracySec=100ms -p StartLimitIntervalSec=0 sh -c 'date >> /root/seconds'
ss -Hlnt sport = 3306 | grep -qF -e '*:3306' -e 0.0.0.0:3306 || systemctl restart mariadb
sha256sum /var/www/html/big
"""
SYSVINIT = f"""
setsid /root/udpecho {UDP} </dev/null >/dev/null 2>&1 &
setsid sh -c 'while sleep 1; do date >> /root/seconds; done' </dev/null >/dev/null 2>&1 &
service mariadb restart >/dev/null
sha256sum /var/www/html/big
"""
BUSY = f"""
set -e
mkdir -p /www /var/spool/cron/crontabs
head -c {BIG_MB << 20} /dev/urandom > /www/big
echo '* * * * * date >> /root/minutes' > /var/spool/cron/crontabs/root
# no shell: an ash opens /dev/tty, which criu cannot dump where another process has the terminal open too
printf '#!/bin/sh\\nexport TERM=xterm\\nexec vi /root/file\\n' > /root/edit
chmod 755 /root/edit
cat >> /etc/inittab << END
::respawn:/bin/httpd -f -h /www
::respawn:/bin/nc -ll -p {ECHO} -e /bin/cat
::respawn:/root/udpecho {UDP}
::respawn:/bin/crond -f
::respawn:/bin/telnetd -F -l /root/edit
::respawn:/bin/sh -c 'while sleep 1; do date >> /root/seconds; done'
END
kill -HUP 1
sha256sum /www/big
"""


class Telnet(Connected):
    """An interactive program in a session of telnetd: vi, to which a line is typed in each round."""

    def __init__(self, netns: Netns, address: str) -> None:
        super().__init__("the telnet session", netns, address, 23)
        self.sock.settimeout(20)
        self.seen = b""

    def type(self, text: str) -> None:
        self.sock.sendall(text.encode())

    def wait_for(self, text: bytes) -> None:
        while text not in self.seen:
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                data = b""
            assert data, f"telnetd said nothing more after {self.seen[-400:]!r}, {text!r} was awaited"
            self.seen += data
        self.seen = self.seen.partition(text)[2]


class Clients:
    """All clients of one CT, in the network namespace *netns*, and what the CT is looked at by."""

    def __init__(self, vz: Vz, ctid: int, kind: str, netns: Netns, folder: Path) -> None:
        self.ctid, self.kind, self.netns = ctid, kind, netns
        self.systemd = kind in ("debian-12", "debian-13")
        self.checks = 0
        self.workers: list[Worker] = []
        self.opened = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            self._open(vz, folder, opened)
            self.opened = opened.pop_all()

    def _open(self, vz: Vz, folder: Path, opened: contextlib.ExitStack) -> None:
        give(vz, self.ctid, "udpecho")
        script = BUSY if self.kind == "busybox" else DEBIAN + (SYSTEMD if self.systemd else SYSVINIT)
        key = folder / "key"
        if self.kind != "busybox":
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
            script += f"echo '{Path(f'{key}.pub').read_text().strip()}' > /root/.ssh/authorized_keys\n"
        self.digest = self.inside(vz, script).split()[0]
        self.udp = opened.enter_context(contextlib.closing(Udp(self.netns, ADDRESS)))
        self.workers.append(opened.enter_context(contextlib.closing(Download(self.netns, ADDRESS, self.digest))))
        self.terminal: Session | Telnet
        if self.kind == "busybox":
            self.workers.append(opened.enter_context(contextlib.closing(Echo(self.netns, ADDRESS))))
            self.terminal = opened.enter_context(contextlib.closing(Telnet(self.netns, ADDRESS)))
        else:
            self.sql = opened.enter_context(contextlib.closing(Sql(self.netns, ADDRESS, tree_of(services(self.kind)))))
            self.redis = opened.enter_context(contextlib.closing(Redis(self.netns, ADDRESS)))
            waiter = opened.enter_context(contextlib.closing(Waiter(self.netns, ADDRESS)))
            self.workers += [self.sql, self.redis, waiter]
            self.terminal = opened.enter_context(contextlib.closing(Session(vz, ADDRESS, str(key), self._start)))
        for worker in self.workers:
            worker.start()
        if self.kind != "busybox":
            self.terminal.type("vi /root/file\n")
        self.terminal.wait_for(b"- /root/file" if self.kind == "busybox" else b"[New")
        self.pids = self.inside(vz, f"pidof {self._servers()}")

    def _servers(self) -> str:
        return "httpd nc udpecho crond telnetd vi" if self.kind == "busybox" else SERVERS

    def _start(self, *words: str, **options: object) -> subprocess.Popen[bytes]:
        with self.netns.entered():
            return subprocess.Popen(words, **options)  # type: ignore[call-overload, no-any-return]

    def inside(self, vz: Vz, script: str) -> str:
        return vz.ok("exec2", self.ctid, "-", stdin=script)

    def check(self, vz: Vz) -> None:
        """Ask every server something, over the connections that there are."""
        self.udp.check()
        self.checks += 1
        self.terminal.type(f"oline {self.checks}\x1b")
        lines = f"- /root/file [Modified] {self.checks + 1}/{self.checks + 1} 100%"  # of busybox's, which draws what differs
        self.terminal.wait_for((lines if self.kind == "busybox" else f"line {self.checks}").encode())
        for worker in self.workers:
            worker.check()
        if self.systemd:
            shown = self.inside(vz, "systemctl is-system-running || true; systemctl --failed --no-legend")
            assert shown == "running\n", shown + self.inside(vz, "journalctl -b -n 40 --no-pager")

    def finish(self, vz: Vz) -> None:
        """End all clients, look whether anything was lost, and whether the CT goes on being a system."""
        self.udp.check()
        assert self.inside(vz, f"pidof {self._servers()}") == self.pids, "a process is another one"
        for worker in self.workers:
            worker.finish()
        if self.kind != "busybox":
            self.sql.verify()
            self.redis.verify()
        self.terminal.type(":wq\n")
        lines = "".join(f"line {number + 1}\n" for number in range(self.checks))
        assert wait_until(lambda: self.inside(vz, "grep . /root/file || true") == lines)
        before = int(self.inside(vz, "wc -l < /root/seconds"))
        assert wait_until(lambda: int(self.inside(vz, "wc -l < /root/seconds")) > before), "no second passes"
        if SOAK:
            before = self.inside(vz, "cat /root/minutes 2>/dev/null || true")
            assert wait_until(lambda: self.inside(vz, "cat /root/minutes 2>/dev/null || true") != before, 70), "no cron"
        if self.kind == "busybox":
            return
        if self.systemd:
            units = "nginx mariadb redis-server cron ssh udp-echo"
            active = "active\n" * len(units.split())
            assert self.inside(vz, f"systemctl is-active {units}") == active
            assert self.inside(vz, "systemctl --failed --no-legend") == ""
            assert self.inside(vz, f"systemctl restart {units} && systemctl is-active {units}") == active
        else:
            assert self.inside(vz, "runlevel") == "N 2\n"
            for unit in ("nginx", "mariadb", "redis-server", "cron"):
                self.inside(vz, f"service {unit} restart >/dev/null 2>&1 && service {unit} status >/dev/null")
        shown = self.inside(vz, "mariadb -BNe 'SELECT COUNT(*) FROM data.done'; redis-cli get counter")
        assert shown.split() == [str(self.sql.count), str(self.redis.count)]
        with contextlib.closing(Download(self.netns, ADDRESS, self.digest)) as again:
            again.start()
            again.finish()

    def close(self) -> None:
        self.opened.close()

    def report(self, text: str) -> None:
        counts = ", ".join(f"{one.name} {one.count} turns, longest {one.longest_s:.2f} s" for one in self.workers)
        print(f"{self.kind}: {text}: {self.checks} checks; {counts}")


def services(kind: str) -> str:
    """Return the full name of the template for a kind of system."""
    return template(kind if kind == "busybox" else f"{kind[:9]}-services{kind[9:]}")


@pytest.mark.timeout(1800 if SOAK else 300)
@pytest.mark.parametrize("kind", KINDS)
def test_suspended_and_restored(vz: Vz, new_ct, inside: Netns, tmp_path: Path, kind: str) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--ipadd", ADDRESS, template=services(kind), start=False)
    vz.ok("start", ctid, "--wait")
    with contextlib.closing(Clients(vz, ctid, kind, inside, tmp_path)) as clients:
        begun = time.monotonic()
        for _ in range(ROUNDS):
            clients.check(vz)
            cycle(vz, ctid)
            clients.check(vz)
        clients.report(f"{ROUNDS} times chkpnt and restore in {time.monotonic() - begun:.1f} s")
        clients.finish(vz)


@pytest.mark.timeout(1800 if SOAK else 300)
@pytest.mark.parametrize("kind", KINDS)
def test_moved_there_and_back(rig: Rig, tmp_path: Path, kind: str) -> None:
    here, there = Vz(rig.a), Vz(rig.b)
    ctid = next(_ids)
    netns = Netns(f"/proc/{rig.client_pid}/ns/net")
    frozen: list[str] = []
    try:
        here.ok("create", ctid, "--ostemplate", services(kind))
        here.ok("set", ctid, "--ipadd", ADDRESS, "--save")
        here.ok("start", ctid, "--wait")
        with contextlib.closing(Clients(here, ctid, kind, netns, tmp_path)) as clients:
            begun = time.monotonic()
            for _ in range(20 if SOAK else 1):
                for source, target in ((here, there), (there, here)):
                    clients.check(source)
                    done = rig.migrate(source.node, "--online", ctid)
                    assert done.returncode == 0, done.stdout + done.stderr
                    frozen.append(done.stdout.splitlines()[-1].partition("it was frozen ")[2])
                    assert source("status", ctid).stdout == f"CTID {ctid} deleted unmounted down\n"
                    clients.check(target)
            clients.report(f"{len(frozen)} moves in {time.monotonic() - begun:.1f} s, frozen {' '.join(frozen)}")
            clients.finish(here)
    finally:
        netns.close()
        for vz in (here, there):
            vz.remove(ctid)
