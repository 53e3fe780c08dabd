"""Rules 8 and 9 of the isolation rules: paths inside a CT that the node touches, and archives that it unpacks."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from conftest import BUSYBOX, Vz
from probes import build
from testnode import Node


def upper(node: Node, ctid: int) -> str:
    return str(node.path(f"/vz/private/{ctid}/up"))


def victim_of(node: Node) -> dict[str, bytes]:
    """Return what lies in the node's directory that nothing may get into."""
    folder = node.path("/vz/victim.d")
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()}


@pytest.fixture
def victim(node: Node) -> dict[str, bytes]:
    folder = node.path("/vz/victim.d")
    folder.mkdir(exist_ok=True)
    for name in ("hosts", "resolv.conf", "hostname", "shadow", "passwd", "inittab", "interfaces"):
        (folder / name).write_text("untouched\n")
    return victim_of(node)


@pytest.mark.parametrize(
    "name", ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/etc/inittab", "/etc/network/interfaces"]
)
@pytest.mark.parametrize("to", ["/../../../../../../vz/victim.d/hosts", "../../../../../../../../vz/victim.d/hosts"])
def test_rule08_links_planted_in_the_root_lead_nowhere(vz: Vz, node: Node, new_ct, victim, name: str, to: str) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--hostname", "h.example.com", "--nameserver", "192.0.2.9", "--ipadd", "192.0.2.40", start=False)
    target = upper(node, ctid) + name
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.symlink(to, target)
    vz.ok("start", ctid)
    assert victim_of(node) == victim


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "run", "etc", "sbin"])
@pytest.mark.parametrize(
    "to", ["/vz/victim.d", "../../../../../../../../vz/victim.d", "/proc/self/cwd", "/proc/1/root/vz/victim.d"]
)
def test_rule08_directories_replaced_by_links_lead_nowhere(
    vz: Vz, node: Node, new_ct, victim, name: str, to: str
) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--hostname", "h.example.com", "--nameserver", "192.0.2.9", start=False)
    path = f"{upper(node, ctid)}/{name}"
    os.symlink(to, path)
    done = vz("start", ctid)
    assert victim_of(node) == victim
    assert done.returncode in (0, 7, 47) and "Traceback" not in done.stderr
    if done.returncode == 0:
        assert vz("exec", ctid, "true").returncode == 0
    vz("set", ctid, "--userpasswd", "root:secret")
    assert victim_of(node) == victim


def test_rule08_links_that_move_under_our_feet_lead_nowhere(vz: Vz, node: Node, ct: int, victim) -> None:  # type: ignore[no-untyped-def]
    """A loop inside replaces the files, and /etc itself, by links out and back while they are being edited."""
    out = "/../../../../vz/victim.d"
    swap = f"""
    mkdir /etc/network; cp -a /etc /etc.real; while :; do
      for f in hosts resolv.conf hostname shadow passwd; do ln -sfn {out}/$f /etc/$f; done
      ln -sfn /proc/1/root{out}/hosts /etc/hosts; ln -sfn /proc/self/fd/4 /etc/resolv.conf
      mv /etc /etc.1; ln -s {out} /etc; rm /etc; ln -s /proc/self/cwd /etc; rm /etc; mv /etc.1 /etc
      for f in passwd shadow hosts; do rm -f /etc/$f; cp /etc.real/$f /etc/$f 2>/dev/null; done
    done
    """
    swapping = node.popen("vzctl", "exec", str(ct), f"({swap}) >/dev/null 2>&1")
    for number in range(12):
        vz(
            "set",
            ct,
            "--hostname",
            f"h{number}.example.com",
            "--nameserver",
            "192.0.2.9",
            "--searchdomain",
            "example.com",
        )
        vz("set", ct, "--userpasswd", "root:secret", "--ipadd", f"192.0.2.{60 + number}")
        assert victim_of(node) == victim
    swapping.kill()
    swapping.wait()
    assert "192.0.2.9" not in node.path("/etc/resolv.conf").read_text()


@pytest.mark.parametrize("name", ["cmdline", "environ", "maps", "mountinfo", "status", "stat", "fd/0", "fd/3", "exe"])
def test_rule08_the_launchers_own_proc_is_not_copied_into_a_file(vz: Vz, node: Node, new_ct, name: str) -> None:  # type: ignore[no-untyped-def]
    """start edits /etc/hosts from inside: a link to /proc/self leads to our own process there."""
    ctid = new_ct("--hostname", "h.example.com", "--ipadd", "192.0.2.41", start=False)
    os.makedirs(f"{upper(node, ctid)}/etc/network", exist_ok=True)
    os.symlink(f"/proc/self/{name}", f"{upper(node, ctid)}/etc/hosts")
    os.symlink(f"/proc/1/{name}", f"{upper(node, ctid)}/etc/network/interfaces")
    os.symlink(f"/proc/thread-self/{name}", f"{upper(node, ctid)}/etc/inittab")
    done = vz.run("env", "SECRET=secret", "vzctl", "start", str(ctid))
    assert "Traceback" not in done.stderr
    for path in ("hosts", "network/interfaces", "inittab"):
        file = f"{upper(node, ctid)}/etc/{path}"
        if not os.path.islink(file):
            with open(file, "rb") as opened:
                data = opened.read()
            for trace in (b"python", b"vzctl", b"SECRET", b" / / ", b"heap", b"Pid:"):
                assert trace not in data, (path, data[:300])


def test_rule08_fifos_devices_and_odd_files_do_not_hold_up_a_start(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--hostname", "h.example.com", "--nameserver", "192.0.2.9", start=False)
    etc = f"{upper(node, ctid)}/etc"
    os.makedirs(f"{etc}/network", exist_ok=True)
    os.mkfifo(f"{etc}/hosts")
    os.mkdir(f"{etc}/resolv.conf")
    with open(f"{etc}/inittab", "wb") as file:
        file.write(b"\xff\xfe::sysinit:/bin/true\n" * 3)
    with open(f"{etc}/network/interfaces", "wb") as file:
        file.truncate(1 << 40)
    os.symlink("hostname", f"{etc}/hostname")
    assert vz("start", ctid, timeout=20).returncode == 0
    os.unlink(f"{etc}/hosts")
    vz.sh(ctid, "rm -f /etc/passwd /etc/shadow; mkfifo /etc/passwd /etc/shadow")
    done = vz("set", ctid, "--userpasswd", "root:secret", timeout=20)
    assert done.returncode == 74 and len(done.stderr.splitlines()) == 1
    vz.sh(ctid, "rm -f /etc/passwd; truncate -s 10G /etc/passwd")
    assert vz("set", ctid, "--userpasswd", "root:secret", timeout=20).returncode == 74


def test_rule08_waiting_for_a_boot_looks_at_no_file_of_the_node(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    """What --wait decides by is the CT's own /etc/inittab, however its /etc leads out."""
    ctid = new_ct(start=False)
    folder = node.path("/vz/oracle")
    folder.mkdir(exist_ok=True)
    (folder / "inittab").write_text("")
    with open(f"{upper(node, ctid)}/deaf", "wb") as file:
        file.write(build("deaf").read_bytes())
    os.chmod(f"{upper(node, ctid)}/deaf", 0o755)
    os.makedirs(f"{upper(node, ctid)}/sbin", exist_ok=True)
    os.symlink("/deaf", f"{upper(node, ctid)}/sbin/init")
    os.symlink("/vz/oracle", f"{upper(node, ctid)}/etc")
    assert vz("start", ctid, "--wait", timeout=30).returncode == 0


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "fifo", "text", "shell"])
def test_rule08_an_init_that_is_none_fails_in_one_line(vz: Vz, node: Node, new_ct, kind: str) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(start=False)
    init = f"{upper(node, ctid)}/sbin/init"
    os.makedirs(os.path.dirname(init), exist_ok=True)
    if kind == "link":
        os.symlink("/../../../../bin/bash", init)  # the node has one, this template has not
    elif kind == "dangling":
        os.symlink("/nowhere", init)
    elif kind == "directory":
        os.mkdir(init)
    elif kind == "fifo":
        os.mkfifo(init, 0o755)
    else:
        with open(init, "w") as file:
            file.write("no program\n" if kind == "text" else "#!/no/such/shell\n")
        os.chmod(init, 0o755)
    done = vz("start", ctid, timeout=30)
    lines = [line for line in done.stderr.splitlines() if "dmesg" not in line and "WARNING" not in line]
    assert (done.returncode, len(lines)) == (47, 1), done.stderr
    assert lines[0].startswith("Unable to run /sbin/init: "), lines
    assert vz("status", ctid).stdout == f"CTID {ctid} exist unmounted down\n"


def test_rule08_stop_is_not_held_up_by_what_is_mounted_inside(vz: Vz, node: Node, ct: int) -> None:
    script = """mkdir -p /m/1 /m/2; mount -t tmpfs x /m; mkdir -p /m/a /m/b; mount --bind / /m/a; mount --bind /m/a /m/b
    mount -t tmpfs over /; mount -t proc proc /proc; (cd /m/b; exec sleep 1000) & (sleep 1000 </m/b/etc/passwd) &
    (ip netns add x || true) 2>/dev/null"""
    vz.sh(ct, script)
    assert vz("stop", ct, "--fast", timeout=30).returncode == 0
    assert f"/vz/root/{ct} " not in vz.run("cat", "/proc/self/mountinfo").stdout
    vz.ok("start", ct)
    assert vz("exec", ct, "true").returncode == 0


def test_rule08_an_init_and_a_halt_that_hear_nothing_are_killed(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--stop-timeout", "2", start=False)
    for name in ("init", "halt"):
        path = f"{upper(node, ctid)}/sbin/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(build("deaf").read_bytes())
        os.chmod(path, 0o755)
    vz.ok("start", ctid)
    done = vz("stop", ctid, timeout=30)
    assert done.returncode == 0 and "Killing container ..." in done.stdout
    assert vz("status", ctid).stdout == f"CTID {ctid} exist unmounted down\n"


def test_rule08_a_ct_that_froze_itself_can_be_stopped(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--stop-timeout", "2")
    script = "cd /sys/fs/cgroup; mkdir ice; for p in $(cat cgroup.procs); do echo $p > ice/cgroup.procs; done; echo 1 > ice/cgroup.freeze"
    vz.sh(ctid, script)
    assert vz("status", ctid).stdout == f"CTID {ctid} exist mounted running\n"
    assert vz("stop", ctid, timeout=40).returncode == 0


# rule 9; each trick of an archive has its own test in tests/kernel/test_archive_hostile.py and test_hostile_template.py


def archive(node: Node, name: str, members: list[tuple[tarfile.TarInfo, bytes]]) -> str:
    path = node.path(f"/vz/{name}.tar")
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return f"/vz/{name}.tar"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


BAD = {
    "absolute": [(member("/vz/victim.d/hosts"), b"x")],
    "dots": [(member("a/../../../../victim.d/hosts"), b"x")],
    "below a link": [(member("l", tarfile.SYMTYPE, "/vz/victim.d"), b""), (member("l/hosts"), b"x")],
    "through a hard link": [(member("h", tarfile.LNKTYPE, "../../../victim.d/hosts"), b"")],
}


@pytest.mark.parametrize("kind", BAD)
def test_rule09_a_bad_archive_reaches_nothing_and_leaves_nothing(vz: Vz, node: Node, victim, kind: str) -> None:  # type: ignore[no-untyped-def]
    before = vz.run("sh", "-c", "ls -a /vz/template/unpacked /vz/template/cache").stdout
    path = archive(node, "bad", [(member("etc", tarfile.DIRTYPE, mode=0o755), b""), *BAD[kind]])
    done = vz.run("vztmpl", "import", path, "bad-template")
    assert done.returncode == 48 and done.stderr.startswith("Bad archive: ") and len(done.stderr.splitlines()) == 1
    assert victim_of(node) == victim
    assert vz.run("sh", "-c", "ls -a /vz/template/unpacked /vz/template/cache").stdout == before
    assert BUSYBOX in before


def test_rule09_no_device_comes_out_of_an_archive(vz: Vz, node: Node, ctid: int) -> None:
    disk = member("dev/disk", tarfile.BLKTYPE, mode=0o666)
    disk.devmajor, disk.devminor = 254, 0
    memory = member("root/mem", tarfile.CHRTYPE, mode=0o666)
    memory.devmajor, memory.devminor = 1, 1
    folders = [
        (member(name, tarfile.DIRTYPE, mode=0o755), b"") for name in ("dev", "root", "sbin", "proc", "sys", "etc")
    ]
    program = member("sbin/init", mode=0o755)
    path = archive(node, "nodes", [*folders, (disk, b""), (memory, b""), (program, build("deaf").read_bytes())])
    done = vz.run("vztmpl", "import", path, "nodes-template")
    try:
        assert done.returncode == 0, done.stderr
        vz.ok("create", ctid, "--ostemplate", "nodes-template", "--layout", "simfs")
        found = vz.run("find", f"/vz/private/{ctid}", "-type", "b", "-o", "-type", "c").stdout
        assert found == ""
    finally:
        vz.remove(ctid)
        vz.run("vztmpl", "remove", "nodes-template")
