"""start, stop, restart, mount and umount: their texts, their options, and what a failure leaves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import BUSYBOX, Vz, template
from testnode import Node

START_FAILED = 'Container start failed (try to check kernel messages, e.g. "dmesg | tail")\n'


@pytest.fixture
def stopped(new_ct: Callable[..., int]) -> int:
    return new_ct(start=False)


@pytest.fixture
def script(node: Node) -> Iterator[Callable[[str, str], Path]]:
    made = []

    def write(name: str, text: str) -> Path:
        path = node.path(f"/etc/vz/conf/{name}")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        made.append(path)
        return path

    yield write
    for path in made:
        path.unlink(missing_ok=True)


def test_start_names_what_it_sets(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct(
        *("--cpuunits", "700", "--cpulimit", "50", "--cpus", "1", "--numproc", "300", "--ram", "256M", "--swap", "0"),
        *("--ipadd", "192.0.2.61/24", "--ipadd", "2001:db8::61", "--devices", "c:10:200:rw", "--netif_add", "eth0"),
        start=False,
    )
    done = vz("start", ct)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Starting container...\n"
        "Container is mounted\n"
        "Adding IP address(es): 192.0.2.61 2001:db8::61\n"
        "Setting CPU units: 700\n"
        "Setting CPU limit: 50\n"
        "Setting CPUs: 1\n"
        "UB limits were set successfully\n"
        "Setting devices\n"
        "Configure veth devices: eth0\n"
        "Container start in progress...\n"
    )


def test_wait(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct(template=template("debian-12"), start=False)
    done = vz("start", ct, "--wait")
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (
        0,
        ["Container start in progress, waiting ...", "Container started successfully"],
    )
    assert vz("exec2", ct, "systemctl is-active multi-user.target").stdout == "active\n"


def test_wait_for_a_runlevel(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct(template=template("debian-12-sysvinit"), start=False)
    done = vz("start", ct, "--wait")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Container started successfully"), done.stderr
    assert vz("exec2", ct, "grep -c '^vz:2345:once:touch /.vzfifo$' /etc/inittab").stdout == "1\n"
    assert vz("exec2", ct, "runlevel").stdout == "N 2\n"


def test_a_mounted_root_is_mounted_anew_or_taken_as_it_is(
    vz: Vz, stopped: int, script: Callable[[str, str], Path]
) -> None:
    script(f"{stopped}.mount", "echo again")
    vz.ok("mount", stopped)
    done = vz("start", stopped)
    assert done.stdout == (
        "Starting container...\nContainer is unmounted\nagain\nContainer is mounted\nContainer start in progress...\n"
    )
    assert vz.ok("stop", stopped, "--fast", "--skip-umount").splitlines()[-1] == "Container was stopped"
    assert vz.ok("status", stopped) == f"CTID {stopped} exist mounted down\n"
    done = vz("start", stopped, "--skip-remount", "--skip-fsck")
    assert done.stdout == "Starting container...\nContainer start in progress...\n"
    vz.ok("stop", stopped, "--fast")


def test_a_failed_start_is_down_and_unmounted(vz: Vz, stopped: int, script: Callable[[str, str], Path]) -> None:
    path = script(f"{stopped}.start", "echo half; exit 3")
    done = vz("start", stopped)
    assert done.returncode == 79
    assert done.stdout == "Starting container...\nContainer is mounted\nhalf\nContainer is unmounted\n"
    assert done.stderr == (
        START_FAILED + f"Action script /etc/vz/conf/{stopped}.start failed in the container with status 3\n"
    )
    assert vz.ok("status", stopped) == f"CTID {stopped} exist unmounted down\n"
    path.unlink()
    vz.ok("start", stopped)


def test_disabled(vz: Vz, stopped: int) -> None:
    vz.ok("set", stopped, "--disabled", "yes", "--save")
    done = vz("start", stopped)
    assert (done.returncode, done.stdout, done.stderr) == (105, "", "Container start disabled\n")
    vz.ok("start", stopped, "--force")
    done = vz("restart", stopped, "--fast")
    assert (done.returncode, done.stdout, done.stderr) == (105, "Restarting container\n", "Container start disabled\n")
    assert vz("exec", stopped, "true").returncode == 0, "what may not be started again is not stopped"
    vz.ok("restart", stopped, "--fast", "--force")


def test_already_running(vz: Vz, ct: int) -> None:
    done = vz("start", ct, "--force", "--wait")
    assert (done.returncode, done.stdout, done.stderr) == (32, "", "Container is already running\n")


def test_stop_kills_after_the_timeout(vz: Vz, stopped: int) -> None:
    """An init that hears nothing: the CT's own STOP_TIMEOUT counts."""
    vz.run(
        "sh",
        "-c",
        "printf 'rm /sbin/init; printf \"#!/bin/sh\\nwhile :; do sleep 1; done\\n\" > /sbin/init; chmod 755 /sbin/init' > /vz/s",
    )
    vz.ok("runscript", stopped, "/vz/s")
    vz.ok("set", stopped, "--stop-timeout", "1", "--save")
    vz.ok("start", stopped)
    done = vz("stop", stopped)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Stopping container ...\nKilling container ...\nContainer was stopped\nContainer is unmounted\n"
    )


def test_a_clean_stop_kills_nobody(vz: Vz, ct: int) -> None:
    done = vz("stop", ct)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "Stopping container ...\nContainer was stopped\nContainer is unmounted\n",
        "",
    )
    done = vz("stop", ct, "--fast", "--skip-umount")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Unable to stop: container is not running\n")


def test_the_stop_script_runs_before_a_fast_stop_too(vz: Vz, ct: int, script: Callable[[str, str], Path]) -> None:
    path = script(f"{ct}.stop", "echo bye; exit 1")
    done = vz("stop", ct, "--fast")
    assert (done.returncode, done.stdout) == (79, "bye\n")
    assert "running" in vz.ok("status", ct)
    path.unlink()


def test_an_umount_that_fails_at_stop_is_51_and_can_be_done_again(vz: Vz, node: Node, ct: int) -> None:
    holder = node.popen("sh", "-c", f"exec 9</vz/root/{ct}/etc/passwd; exec sleep 60")
    try:
        for _ in range(100):
            if os.path.exists(f"/proc/{holder.pid}/fd/9"):
                break
            time.sleep(0.02)
        done = vz("stop", ct, "--fast")
        assert done.returncode == 51
        assert done.stdout == "Killing container ...\nContainer was stopped\n"
        assert done.stderr.startswith(f"Unable to unmount /vz/root/{ct}: ") and done.stderr.count("\n") == 1
    finally:
        holder.kill()
        holder.wait()
    assert vz.ok("status", ct) == f"CTID {ct} exist mounted down\n"
    assert vz.ok("umount", ct) == "Container is unmounted\n"


def test_restart(vz: Vz, stopped: int) -> None:
    up = "Starting container...\nContainer is mounted\nContainer start in progress...\n"
    assert vz.ok("restart", stopped) == f"Restarting container\n{up}", "one that is down is started"
    down = "Stopping container ...\nContainer was stopped\nContainer is unmounted\n"
    assert vz.ok("restart", stopped) == f"Restarting container\n{down}{up}"
    done = vz("restart", stopped, "--fast", "--skip-umount", "--skip-remount", "--skip-fsck", "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Restarting container\nKilling container ...\nContainer was stopped\n"
        "Starting container...\nContainer start in progress, waiting ...\nContainer started successfully\n"
    )


def test_mount_and_umount_say_what_is(vz: Vz, node: Node, stopped: int, script: Callable[[str, str], Path]) -> None:
    script(f"{stopped}.postumount", "echo after; exit 2")
    vz.ok("mount", stopped)
    done = vz("umount", stopped)
    assert (done.returncode, done.stdout) == (79, "Container is unmounted\nafter\n")
    vz.ok("mount", stopped)
    holder = node.popen("sh", "-c", f"cd /vz/root/{stopped}; exec sleep 60")
    try:
        for _ in range(100):
            if os.readlink(f"/proc/{holder.pid}/cwd").endswith(str(stopped)):
                break
            time.sleep(0.02)
        done = vz("umount", stopped)
        assert (done.returncode, done.stdout) == (51, "after\n"), "of two failures the umount's counts"
        assert [line.split()[0] for line in done.stderr.splitlines()] == ["Action", "Unable"]
    finally:
        holder.kill()
        holder.wait()


def test_private_area_and_root_are_the_node_roots_alone(vz: Vz, node: Node, stopped: int) -> None:
    """As vzctl makes the directories above them."""
    vz.ok("set", stopped, "--root", "/vz/closed/a/$VEID", "--save")
    vz.ok("start", stopped)
    assert node.path("/vz/closed/a").stat().st_mode & 0o777 == 0o700
    node.path("/vz/closed").chmod(0o700)
    vz.ok("restart", stopped, "--fast")
    assert vz("exec", stopped, "true").returncode == 0
    vz.ok("stop", stopped, "--fast")
    assert not list(node.path("/vz/closed/a").glob("*/*"))


def test_the_layout_is_written_into_an_old_conf(vz: Vz, node: Node, stopped: int) -> None:
    path = node.path(f"/etc/vz/conf/{stopped}.conf")
    text = path.read_text().replace('VE_LAYOUT="overlay"\n', "")
    path.write_text(text)
    vz.ok("start", stopped)
    assert path.read_text() == text + 'VE_LAYOUT="overlay"\n'


def test_what_init_is_given(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct(template=template("debian-12"))
    assert vz("exec", ct, "tr '\\0' '|' < /proc/1/cmdline").stdout.startswith("init|-z|")
    environ = vz("exec", ct, "tr '\\0' '\\n' < /proc/1/environ").stdout.splitlines()
    assert {"HOME=/", "TERM=linux"} <= set(environ)
    assert vz("exec2", ct, "test -f /fastboot").returncode == 0


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_odd_things_in_place_of_fastboot(vz: Vz, node: Node, stopped: int, kind: str) -> None:
    made = "mkdir /fastboot" if kind == "directory" else "ln -s /etc/passwd /fastboot"
    node.path("/vz/s").write_text(f"cp /etc/passwd /p; rm -rf /fastboot; {made}\n")
    vz.ok("runscript", stopped, "/vz/s")
    vz.ok("start", stopped)
    assert vz("exec2", stopped, "cmp /etc/passwd /p").returncode == 0


def test_old_clients_find_the_pid_and_the_namespace(vz: Vz, node: Node, ct: int) -> None:
    pid = node.path(f"/var/lib/vzctl/vepid/{ct}").read_text()
    assert pid.endswith("\n") and pid.strip().isdigit()
    assert os.readlink(node.path(f"/run/netns/{ct}")) == f"/proc/{pid.strip()}/ns/net"
    assert vz.run("nsenter", f"--net=/run/netns/{ct}", "ip", "-o", "link").stdout.startswith("1: lo:")
    vz.ok("stop", ct, "--fast")
    assert not node.path(f"/var/lib/vzctl/vepid/{ct}").exists() and not os.path.lexists(node.path(f"/run/netns/{ct}"))


STATUS = [
    ("deleted unmounted down", []),
    ("exist unmounted down", ["create"]),
    ("exist mounted down", ["create", "mount"]),
    ("exist mounted running", ["create", "start"]),
    ("exist unmounted down suspended", ["create", "dump"]),
    ("exist mounted down suspended", ["create", "dump", "mount"]),
    ("exist mounted running", ["create", "start", "dump"]),
    ("deleted unmounted down", ["create", "no-private"]),
    ("deleted unmounted down", ["create", "no-conf"]),
]


@pytest.mark.parametrize(
    ("words", "steps"), STATUS, ids=lambda value: "-".join(value) if isinstance(value, list) else ""
)
def test_status_is_one_line_and_always_0(vz: Vz, node: Node, ctid: int, words: str, steps: list[str]) -> None:
    try:
        for step in steps:
            if step == "create":
                vz.ok("create", ctid, "--ostemplate", BUSYBOX)
            elif step == "dump":
                node.path(f"/vz/dump/Dump.{ctid}").write_text("")
            elif step == "no-private":
                vz.run("mv", f"/vz/private/{ctid}", f"/vz/private/{ctid}.away")
            elif step == "no-conf":
                vz.run("mv", f"/etc/vz/conf/{ctid}.conf", "/etc/vz/conf/away")
            else:
                vz.ok(step, ctid)
        done = vz("status", ctid)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"CTID {ctid} {words}\n", "")
    finally:
        node.path(f"/vz/dump/Dump.{ctid}").unlink(missing_ok=True)
        vz.run("mv", f"/vz/private/{ctid}.away", f"/vz/private/{ctid}")
        vz.run("mv", "/etc/vz/conf/away", f"/etc/vz/conf/{ctid}.conf")
        if steps:
            vz.remove(ctid)


def test_status_of_a_root_that_is_the_private_area(vz: Vz, node: Node, ctid: int) -> None:
    """An old node's bind mount: root and private are one directory."""
    conf = node.path(f"/etc/vz/conf/{ctid}.conf")
    conf.write_text(f'VE_ROOT="/vz/private/{ctid}"\nVE_PRIVATE="/vz/private/$VEID"\n')
    node.path(f"/vz/private/{ctid}").mkdir()
    try:
        assert vz.ok("status", ctid) == f"CTID {ctid} exist mounted down\n"
    finally:
        conf.unlink()
        node.path(f"/vz/private/{ctid}").rmdir()


def test_a_conf_that_names_no_layout_starts_as_what_its_area_is(vz: Vz, new_ct: Callable[..., int]) -> None:
    """OpenVZ 3 and old 4 wrote no VE_LAYOUT; the node's default is for new CTs only."""
    ct = new_ct(layout="simfs", start=False)
    conf = vz.node.path(f"/etc/vz/conf/{ct}.conf")
    lines = [line for line in conf.read_text().splitlines(keepends=True) if not line.startswith("VE_LAYOUT=")]
    conf.write_text("".join(lines))
    vz.ok("start", ct)
    assert 'VE_LAYOUT="simfs"\n' in conf.read_text()
