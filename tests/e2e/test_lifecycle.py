"""The life of a CT: what is printed and with which status, from create to destroy."""

from __future__ import annotations

from conftest import BUSYBOX, Vz, leftovers
from testnode import Node


def test_a_life_prints_what_scripts_read(vz: Vz, node: Node, ctid: int) -> None:
    done = vz("create", ctid, "--ostemplate", BUSYBOX)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"Creating container private area ({BUSYBOX})\n"
        "Performing postcreate actions\n"
        f"CT configuration saved to /etc/vz/conf/{ctid}.conf\n"
        "Container private area was created\n"
    )
    assert vz("status", ctid).stdout == f"CTID {ctid} exist unmounted down\n"
    done = vz("start", ctid)
    assert done.returncode == 0
    assert done.stdout == "Starting container...\nContainer is mounted\nContainer start in progress...\n"
    assert vz("status", ctid).stdout == f"CTID {ctid} exist mounted running\n"
    done = vz("start", ctid)
    assert (done.returncode, done.stderr) == (32, "Container is already running\n")
    done = vz("destroy", ctid)
    assert (done.returncode, done.stdout) == (32, "Container is currently running. Stop it first.\n")
    done = vz("stop", ctid, "--fast")
    assert done.stdout == "Killing container ...\nContainer was stopped\nContainer is unmounted\n"
    done = vz("stop", ctid)
    assert (done.returncode, done.stderr) == (0, "Unable to stop: container is not running\n")
    done = vz("destroy", ctid)
    assert done.returncode == 0
    assert done.stdout == (
        f"Destroying container private area: /vz/private/{ctid}\nContainer private area was destroyed\n"
    )
    assert vz("status", ctid).stdout == f"CTID {ctid} deleted unmounted down\n"
    assert node.path(f"/etc/vz/conf/{ctid}.conf.destroyed").exists()
    for _ in range(100):
        left = leftovers(node, ctid)
        if not left:
            break
        vz.run("sleep", "0.05")
    assert left == []


def test_mount_and_umount(vz: Vz, ctid: int) -> None:
    vz.ok("create", ctid, "--ostemplate", BUSYBOX)
    try:
        assert vz("umount", ctid).returncode == 40
        assert vz("mount", ctid).stdout == "Container is mounted\n"
        done = vz("mount", ctid)
        assert (done.returncode, done.stderr) == (0, "Container is already mounted\n")
        assert vz("status", ctid).stdout == f"CTID {ctid} exist mounted down\n"
        assert vz("destroy", ctid).returncode == 41
        assert vz("umount", ctid).stdout == "Container is unmounted\n"
    finally:
        vz.remove(ctid)


def test_exec_statuses(vz: Vz, ct: int) -> None:
    assert vz("exec", ct, "true").returncode == 0
    assert vz("exec", ct, "exit 7").returncode == 8
    assert vz("exec2", ct, "exit 7").returncode == 7
    done = vz("exec2", ct, "kill -9 $$")
    assert (done.returncode, done.stderr) == (3, "Got signal 9\n")
    assert vz("exec", ct, "echo out; echo err >&2").stdout == "out\n"
    assert vz("exec", ct, "echo out; echo err >&2").stderr == "err\n"
    assert vz("exec3", ct, "echo", "a  b").stdout == "a  b\n"
    assert vz("exec", ct, "echo", "", "x").stdout == " x\n"
    assert vz("exec", ct, "-", stdin="echo from stdin").stdout == "from stdin\n"
    assert vz("exec", ct).returncode == 20
    assert vz("exec3", ct, "no-such-program").returncode == 47


def test_exec_of_a_stopped_ct(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(start=False)
    assert vz("exec", ctid, "true").returncode == 8
    done = vz("exec2", ctid, "true")
    assert (done.returncode, done.stderr) == (31, "Container is not running\n")
    assert vz("enter", ctid).returncode == 31


def test_exec_passes_a_megabyte_both_ways(vz: Vz, ct: int) -> None:
    data = bytes(range(256)) * 4096
    done = vz.run("sh", "-c", f"head -c 1000000 /dev/zero | vzctl exec {ct} wc -c")
    assert done.stdout.strip() == "1000000"
    done = vz("exec", ct, "head -c 1000000 /dev/zero")
    assert len(done.stdout) == 1000000
    assert data


def test_the_environment_of_exec_is_clean(vz: Vz, ct: int) -> None:
    lines = sorted(vz("exec3", ct, "env").stdout.splitlines())
    assert lines == ["HOME=/", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux"]


def test_halt_from_inside_is_seen_by_the_next_command(vz: Vz, node: Node, ct: int) -> None:
    vz("exec", ct, "halt -f")
    for _ in range(100):
        if "down" in vz("status", ct).stdout:
            break
    done = vz("start", ct)
    assert done.returncode == 0, done.stderr
    assert "Container ended by itself: clearing what is left of it" in done.stdout
    assert vz("exec", ct, "true").returncode == 0


def test_restart(vz: Vz, ct: int) -> None:
    done = vz("restart", ct, "--fast")
    assert done.returncode == 0
    assert done.stdout.startswith("Restarting container\nKilling container ...\n")
    assert "running" in vz("status", ct).stdout


def test_runscript(vz: Vz, node: Node, ct: int) -> None:
    node.path("/vz/s.sh").write_text("echo in $(hostname); exit 5\n")
    done = vz("runscript", ct, "/vz/s.sh")
    assert (done.returncode, done.stdout) == (5, f"in ct{ct}\n")
    vz.ok("stop", ct, "--fast")
    done = vz("runscript", ct, "/vz/s.sh")
    assert (done.returncode, done.stdout) == (5, f"in ct{ct}\n")
    assert vz("status", ct).stdout == f"CTID {ct} exist unmounted down\n"
    assert vz("runscript", ct, "/vz/none.sh").returncode == 11


def test_enter_reads_from_a_pipe_too(vz: Vz, ct: int) -> None:
    done = vz("enter", ct, stdin="echo o''k; exit 3\n")
    assert done.returncode == 0
    assert done.stdout.startswith(f"entered into CT {ct}\n")
    assert (
        "\nok\r" in done.stdout.replace("\r\n", "\n\r").replace("\n\r", "\r\n").replace("\r\n", "\n") + "\r"
        or "ok" in done.stdout
    )
    assert done.stdout.endswith(f"exited from CT {ct}\n")


def test_the_lock_of_a_living_process_is_respected(vz: Vz, node: Node, ct: int) -> None:
    lock = node.path(f"/vz/lock/{ct}.lck")
    assert node.holder is not None
    lock.write_text(f"{node.holder.pid}\n\n")
    done = vz("stop", ct, "--fast")
    assert done.returncode == 9
    assert done.stderr.startswith("Container already locked\n")
    assert vz("exec", ct, "true").returncode == 0
    assert "running" in vz("--skiplock", "stop", ct, "--fast").stdout or "down" in vz("status", ct).stdout
    lock.write_text("999999\n\n")
    done = vz("start", ct)
    assert done.returncode == 0
    assert f"Removing stale lock file /vz/lock/{ct}.lck" in done.stderr


def test_a_lost_run_directory_is_a_stopped_ct(vz: Vz, node: Node, ct: int) -> None:
    vz.run("rm", "-rf", f"/run/vz/{ct}")
    assert "down" in vz("status", ct).stdout
    assert vz("start", ct).returncode == 0
    assert vz("exec", ct, "true").returncode == 0


def test_action_scripts(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(start=False)
    log = node.path("/vz/scripts.log")
    conf = node.path("/etc/vz/conf")
    for name in ("premount", "mount", "umount", "postumount"):
        for scope in ("vps", str(ctid)):
            script = conf / f"{scope}.{name}"
            script.write_text(f"#!/bin/sh\necho {name} {scope} $VEID $VE_CONFFILE >> /vz/scripts.log\n")
            script.chmod(0o755)
    (conf / f"{ctid}.start").write_text("#!/bin/sh\necho start > /tmp/started\n")
    try:
        vz.ok("start", ctid)
        assert vz("exec", ctid, "cat /tmp/started").stdout == "start\n"
        vz.ok("stop", ctid, "--fast")
        words = [" ".join(line.split()[:2]) for line in log.read_text().splitlines()]
        assert words == [
            "premount vps", f"premount {ctid}", "mount vps", f"mount {ctid}",
            f"umount {ctid}", "umount vps", f"postumount {ctid}", "postumount vps",
        ]  # fmt: skip
        assert f"{ctid} /etc/vz/conf/{ctid}.conf" in log.read_text()
        (conf / f"{ctid}.mount").write_text("#!/bin/sh\nexit 3\n")
        assert vz("start", ctid).returncode == 79
        assert vz("status", ctid).stdout == f"CTID {ctid} exist unmounted down\n"
    finally:
        for path in [*conf.glob("vps.*"), *conf.glob(f"{ctid}.*mount"), conf / f"{ctid}.start"]:
            path.unlink()
