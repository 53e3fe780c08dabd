"""Rules 10 and 11 of the isolation rules: what gets into a CT with exec, enter and start, and what must not."""

from __future__ import annotations

import os
import subprocess
import time

from conftest import MACHINE, Vz
from probes import build, give
from testnode import Node

LOADER = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}
# joins a new session keyring, says its number, runs the rest and waits: whoever started a CT with a login's keyring
WITH_KEYRING = """
import ctypes, os, sys
call = ctypes.CDLL(None, use_errno=True).syscall
numbers = {"x86_64": (250, 248), "aarch64": (219, 217)}[os.uname().machine]
print(format(call(numbers[0], 1, None) & 0xFFFFFFFF, "08x"), flush=True)
assert call(numbers[1], b"user", b"operators-secret", b"payload", 7, -3) > 0
os.spawnvp(os.P_WAIT, sys.argv[1], sys.argv[1:])
print("done", flush=True)
sys.stdin.read()
"""


def upper(node: Node, ctid: int) -> str:
    return str(node.path(f"/vz/private/{ctid}/up"))


def put(node: Node, ctid: int, path: str, data: str | bytes, mode: int = 0o755) -> None:
    """Write a file into the area of a stopped CT."""
    target = upper(node, ctid) + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
    os.chmod(target, mode)


def test_rule10_exec_joins_every_namespace_and_cgroup(vz: Vz, node: Node, ct: int) -> None:
    pid = node.path(f"/var/lib/vzctl/vepid/{ct}").read_text().strip()
    inside = vz(
        "exec", ct, "for n in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done"
    ).stdout.split()
    assert inside == [os.readlink(f"/proc/{pid}/ns/{n}") for n in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")]
    lines = vz("exec", ct, "cat /proc/self/cgroup").stdout.splitlines()
    assert all(line.split(":", 2)[2] in ("/", "/vz-exec") for line in lines), lines


def test_rule10_a_joining_process_shows_nothing_of_the_node(vz: Vz, node: Node, ct: int) -> None:
    """A watcher inside reads what /proc has for every new process, from its first moment on."""
    vz.run("ip", "route", "add", "198.51.100.128/25", "dev", "up0")  # a table that is the node's alone
    watcher = give(vz, ct, "joiners")
    watching = node.popen("vzctl", "exec", str(ct), f"{watcher} 12", stdout=subprocess.PIPE)
    assert watching.stdout is not None and watching.stdout.readline() == b"ready\n"
    for _ in range(12):
        vz("exec", ct, "true")
        vz("exec3", ct, "/bin/true")
    for _ in range(4):
        vz("enter", ct, stdin="exit\n")
        vz("set", ct, "--hostname", "h.example.com", "--userpasswd", "root:secret")
    vz("runscript", ct, "/dev/null")
    seen = watching.communicate()[0].decode("utf-8", "replace")
    vz.run("ip", "route", "del", "198.51.100.128/25", "dev", "up0")
    assert seen == ""


def test_rule10_proc_exe_never_leads_to_the_nodes_interpreter(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """CVE-2019-5736: a program that is ``#!/proc/self/exe``, with a loader of the CT's own."""
    ctid = new_ct(start=False)
    put(node, ctid, "/bin/bash", "#!/proc/self/exe\n")
    put(node, ctid, LOADER[MACHINE], build("interpreter").read_bytes())
    put(node, ctid, "/interpreter.log", "", 0o666)
    vz.ok("start", ctid)
    said = vz("exec", ctid, "true", timeout=20)
    said.stdout += vz("exec3", ctid, "/bin/bash", timeout=20).stdout + vz("enter", ctid, timeout=20).stdout
    assert "python" not in said.stdout + said.stderr
    vz.ok("stop", ctid, "--fast")
    vz("umount", ctid)
    put(node, ctid, "/sbin/init", "#!/proc/self/exe\n")
    vz("start", ctid, timeout=20)
    time.sleep(0.2)
    with open(f"{upper(node, ctid)}/interpreter.log") as file:
        assert "python" not in file.read()


def test_rule10_no_module_is_imported_from_the_ct(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """After the change of root the interpreter's search path leads into the CT: nothing may be looked for there."""
    ctid = new_ct("--hostname", "h.example.com", "--nameserver", "192.0.2.9", start=False)
    listed = vz.run("/usr/bin/python3", "-IS", "-c", "import sys; print(*sys.path, *sys.stdlib_module_names)").stdout
    words = listed.split()
    names = [word for word in words if "/" not in word]
    trap = "open('/tmp/imported', 'a').write(__name__ + ' ')\nraise ImportError(__name__)\n"
    for folder in {word for word in words if "/" in word and not word.endswith(".zip")}:
        for name in names:
            put(node, ctid, f"{folder}/{name}.py", trap, 0o644)
        put(node, ctid, f"{folder}/encodings/__init__.py", trap, 0o644)
    vz.ok("start", ctid, "--wait")
    vz("exec", ctid, "nothing-like-this")
    vz("exec3", ctid, "nothing-like-this")
    vz("enter", ctid, stdin="exit\n")
    vz("set", ctid, "--hostname", "i.example.com", "--userpasswd", "root:secret")
    vz("set", ctid, "--userpasswd", "nobody-like-this:secret")
    vz("exec", ctid, "rm -f /etc/hosts; mkdir /etc/hosts")
    vz("set", ctid, "--hostname", "j.example.com")
    assert vz.sh(ctid, "cat /tmp/imported 2>/dev/null") == ""


def test_rule10_nothing_of_the_operator_gets_in(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """Descriptors, directory, environment, limits, priority, signals and mask of the caller; for init and for exec."""
    ctid = new_ct(start=False)
    show = "cat /proc/%s/status /proc/%s/limits /proc/%s/oom_score_adj; cut -d' ' -f19 /proc/%s/stat; umask"
    plain = vz.run("sh", "-c", f"vzctl --quiet start {ctid} && vzctl exec {ctid} '{show.replace('%s', 'self')}'").stdout
    init = vz("exec", ctid, show.replace("%s", "1")).stdout
    vz.ok("stop", ctid, "--fast")
    odd = (
        "cd /etc; exec 7</etc/vz/vz.conf 200>>/vz/log; export SECRET=secret LD_PRELOAD= PYTHONPATH=/; umask 077; "
        "ulimit -S -n 5000 -s 4000 -u 5000 -l 7 -f 90000; "
        "echo 500 > /proc/self/oom_score_adj; trap '' USR1 USR2 TSTP ALRM WINCH; "
    )
    run = f"nice -n 7 vzctl --quiet start {ctid} && nice -n 7 vzctl exec {ctid} '{show.replace('%s', 'self')}'"
    assert comparable(vz.run("bash", "-c", odd + run).stdout) == comparable(plain)
    assert comparable(vz("exec", ctid, show.replace("%s", "1")).stdout) == comparable(init)
    opened = vz.run(
        "bash", "-c", f"{odd} vzctl exec {ctid} 'ls -l /proc/self/fd /proc/1/fd; env; pwd; readlink /proc/self/cwd'"
    ).stdout
    for word in ("/vz/", "/etc", "secret", "PYTHON", "/dev/pts", " 7 -> ", " 200 -> "):
        assert word not in opened, opened
    environment = vz("exec", ctid, "env").stdout.split("\n")
    assert {line.partition("=")[0] for line in environment if line} <= {"HOME", "TERM", "PATH", "PWD", "SHLVL", "LANG"}


def comparable(shown: str) -> list[str]:
    """Return what must be the same whoever calls: numbers of processes and switches left out."""
    changing = ("Pid", "Tgid", "NS", "PPid", "Vm", "Rss", "FDSize", "voluntary", "nonvoluntary")
    return [line for line in shown.splitlines() if not line.startswith(changing)]


def test_rule10_the_operators_keyring_stays_outside(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """Init and every exec have a session keyring of their own: nobody inside holds on to the operator's."""
    ctid = new_ct(start=False, layout="simfs")  # an overlay keeps the credentials of who mounted it, keyring included
    script = f"vzctl --quiet start {ctid}; vzctl exec {ctid} 'sleep 100 >/dev/null 2>&1 </dev/null &'"
    started = node.popen(
        "/usr/bin/python3", "-c", WITH_KEYRING, "sh", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert started.stdout is not None and started.stdin is not None
    number = started.stdout.readline().decode().strip()
    assert started.stdout.readline() == b"done\n"
    assert "sleep 100" in vz.sh(ctid, "ps")
    for _ in range(100):  # the kernel lets go of the ids of dead processes at its leisure
        with open("/proc/keys") as file:
            users = next(int(line.split()[2]) for line in file if line.startswith(number))
        if users <= 1:
            break
        time.sleep(0.05)
    started.communicate()
    assert users == 1  # the process that waits
