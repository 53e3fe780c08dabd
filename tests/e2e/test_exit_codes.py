"""Every exit status that these commands can give, each brought about for real: the number, one line, nothing changed.

33 and 15 take a hung process and five minutes; they are in tests/unit/ops.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from conftest import BUSYBOX, Vz, template
from testnode import Node

Done = subprocess.CompletedProcess[str]
# what 4.11's table has for the commands of this tree; 71, 89 and 100 are given as 21, 78 and 34
CODES = frozenset(
    (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 14, 20, 21, 22, 23, 24, 29, 31, 32, 34, 40, 41, 43, 44, 46, 47, 48, 49)
    + (50, 51, 52, 53, 70, 72, 73, 74, 77, 78, 79, 82, 85, 86, 91, 99, 104, 105, 107, 108, 109, 130, 131, 133, 139)
)


class Case:
    """A CT of its own for one test, and the means to put its node in a bad way; all is put back at the end."""

    def __init__(self, vz: Vz, ctid: int) -> None:
        self.vz = vz
        self.ctid = ctid
        self.undo: list[Callable[[], object]] = []

    def make(self, *options: object, name: str = "", start: bool = False) -> int:
        self.undo.append(lambda: self.vz.remove(self.ctid))
        self.vz.ok("create", self.ctid, "--ostemplate", name or BUSYBOX)
        if options:
            self.vz.ok("set", self.ctid, *options, "--save")
        if start:
            self.vz.ok("start", self.ctid)
        return self.ctid

    def write(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Write a file of the node; it is gone, or as before, at the end."""
        file = self.vz.node.path(path)
        old = file.read_bytes() if file.exists() else None
        self.undo.append(lambda: file.write_bytes(old) if old is not None else file.unlink(missing_ok=True))
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        file.chmod(mode)

    def conf(self, text: str) -> None:
        """Write the CT's conf by hand."""
        self.write(f"/etc/vz/conf/{self.ctid}.conf", text)

    def node_conf(self, line: str) -> None:
        """Put *line* in front of vz.conf: the first one of a key counts."""
        self.write("/etc/vz/vz.conf", line + "\n" + self.vz.node.path("/etc/vz/vz.conf").read_text())

    def mount(self, *words: str) -> None:
        """Mount on the node until the end of the test; the last word is where."""
        assert self.vz.run("mkdir", "-p", words[-1]).returncode == 0
        assert self.vz.run("mount", *words).returncode == 0
        self.undo.append(lambda: self.vz.run("umount", words[-1]))

    def inside(self, script: str) -> None:
        """Run *script* in the stopped CT."""
        self.write("/vz/script", script + "\n")
        self.vz.ok("runscript", self.ctid, "/vz/script")


@pytest.fixture
def case(vz: Vz, ctid: int) -> Iterator[Case]:
    made = Case(vz, ctid)
    try:
        yield made
    finally:
        for function in reversed(made.undo):
            function()
        vz.run("rm", "-f", f"/etc/vz/conf/{ctid}.conf.destroyed")


def success(case: Case) -> Done:
    return case.vz("status", case.make())


def refused_limit(case: Case) -> Done:
    ct = case.make(start=True)
    assert case.vz("exec", ct, "head -c 24000000 /dev/zero > /dev/shm/x").returncode == 0
    return case.vz("set", ct, "--ram", "4M", "--swap", "0")


def refused_cpus(case: Case) -> Done:
    return case.vz("set", case.make(start=True), "--cpumask", "8000")


def killed_by_a_signal(case: Case) -> Done:
    return case.vz("exec2", case.make(start=True), "kill -9 $$")


def no_idmap(case: Case) -> Done:
    case.mount("-t", "ramfs", "ramfs", f"/vz/private/{case.ctid}")
    case.conf("VE_LAYOUT=simfs\n")
    return case.vz("mount", case.ctid)


def no_ids_left(case: Case) -> Done:
    case.node_conf("LOCAL_UID_POOL=0")
    return case.vz("create", case.ctid, "--ostemplate", BUSYBOX)


def no_environment(case: Case) -> Done:
    # no /proc, and no way to make one; not on tmpfs, which Linux 6.1 cannot idmap
    empty, private = f"/vz/private/{case.ctid}.empty", f"/vz/private/{case.ctid}"
    case.undo.append(lambda: case.vz.run("rmdir", empty))
    case.mount("--bind", empty, empty)
    case.mount("--bind", empty, private)
    assert case.vz.run("mount", "-o", "remount,bind,ro", private).returncode == 0
    case.conf("VE_LAYOUT=simfs\nOSTEMPLATE=busybox\n")
    return case.vz("start", case.ctid)


def failed_command(case: Case) -> Done:
    return case.vz("exec", case.make(start=True), "exit 3")


def locked(case: Case) -> Done:
    ct = case.make()
    assert case.vz.node.holder is not None
    case.write(f"/vz/lock/{ct}.lck", f"{case.vz.node.holder.pid}\n\n")
    return case.vz("start", ct)


def no_node_conf(case: Case) -> Done:
    path = case.vz.node.path("/etc/vz/vz.conf")
    case.write("/etc/vz/vz.conf", path.read_bytes())
    path.unlink()
    return case.vz("status", 101)


def no_script(case: Case) -> Done:
    return case.vz("runscript", case.make(), "/vz/no-such-script")


def nobody(case: Case) -> Done:
    return case.vz.run("setpriv", "--reuid", "65534", "--clear-groups", "vzctl", "start", case.make())


def no_ct_conf(case: Case) -> Done:
    return case.vz("start", case.ctid)


def wrong_words(case: Case) -> Done:
    return case.vz("start", case.make(), "--nonsense")


def bad_value(case: Case) -> Done:
    return case.vz("set", case.make(), "--cpuunits", "many", "--save")


def no_root_path(case: Case) -> Done:
    case.node_conf('VE_ROOT=""')
    return case.vz("create", case.ctid, "--ostemplate", BUSYBOX)


def no_private_path(case: Case) -> Done:
    case.node_conf('VE_PRIVATE=""')
    return case.vz("create", case.ctid, "--ostemplate", BUSYBOX)


def no_template_path(case: Case) -> Done:
    case.node_conf('TEMPLATE=""')
    return case.vz("create", case.ctid, "--ostemplate", BUSYBOX)


def no_template_named(case: Case) -> Done:
    return case.vz("create", case.ctid)


def not_running(case: Case) -> Done:
    return case.vz("exec2", case.make(), "true")


def running(case: Case) -> Done:
    return case.vz("umount", case.make(start=True))


def no_address(case: Case) -> Done:
    ct = case.make("--ipadd", "192.0.2.201")
    assert case.vz.run("ip", "link", "add", f"vz{ct}", "type", "bridge").returncode == 0
    case.undo.append(lambda: case.vz.run("ip", "link", "del", f"vz{ct}"))
    return case.vz("start", ct)


def not_mounted(case: Case) -> Done:
    return case.vz("umount", case.make())


def mounted(case: Case) -> Done:
    case.vz.ok("mount", case.make())
    return case.vz("destroy", case.ctid)


def no_private_area(case: Case) -> Done:
    case.conf("VE_LAYOUT=simfs\n")
    return case.vz("start", case.ctid)


def private_area_exists(case: Case) -> Done:
    case.vz.run("mkdir", "-p", f"/vz/private/{case.ctid}/x")
    case.undo.append(lambda: case.vz.run("rm", "-r", f"/vz/private/{case.ctid}"))
    return case.vz("create", case.ctid, "--ostemplate", BUSYBOX)


def no_space(case: Case) -> Done:
    case.mount("-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", "/vz/small")
    private = f"/vz/small/{case.ctid}"
    return case.vz("create", case.ctid, "--ostemplate", BUSYBOX, "--layout", "simfs", "--private", private)


def no_init(case: Case) -> Done:
    case.make()
    case.inside("rm -f /sbin/init")
    return case.vz("start", case.ctid)


def private_is_a_mount(case: Case) -> Done:
    case.mount("-t", "tmpfs", "tmpfs", f"/vz/private/{case.ctid}")
    return case.vz("create", case.ctid, "--ostemplate", BUSYBOX)


def no_mount_point(case: Case) -> Done:
    case.write("/vz/file", "")
    return case.vz("mount", case.make("--root", "/vz/file/root"))


def no_mount(case: Case) -> Done:
    ct = case.make()
    case.vz.run("rm", "-r", f"/vz/private/{ct}/up")
    return case.vz("mount", ct)


def busy(case: Case) -> Done:
    ct = case.make()
    case.vz.ok("mount", ct)
    words = ("sh", "-c", f"cd /vz/root/{ct} && echo in && exec sleep 60")
    process = case.vz.node.popen(*words, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"in\n"

    def leave() -> None:
        process.kill()
        process.wait()
        process.stdout.close()

    case.undo.append(leave)
    return case.vz("umount", ct)


def not_deletable(case: Case) -> Done:
    ct = case.make()
    case.mount("-t", "tmpfs", "tmpfs", f"/vz/private/{ct}")
    return case.vz("destroy", ct)


def unknown_layout(case: Case) -> Done:
    case.vz.run("mkdir", f"/vz/private/{case.ctid}")
    case.undo.append(lambda: case.vz.run("rmdir", f"/vz/private/{case.ctid}"))
    case.conf("VE_LAYOUT=zfs\n")
    return case.vz("start", case.ctid)


def directory_in_place_of(case: Case, path: str) -> int:
    ct = case.make(start=True)
    case.vz.sh(ct, f"rm -f {path}; mkdir -p {path}/x")
    return ct


def no_host_name(case: Case) -> Done:
    return case.vz("set", directory_in_place_of(case, "/etc/hostname"), "--hostname", "a.example")


def no_name_server(case: Case) -> Done:
    return case.vz("set", directory_in_place_of(case, "/etc/resolv.conf"), "--nameserver", "192.0.2.7")


def no_search_domain(case: Case) -> Done:
    return case.vz("set", directory_in_place_of(case, "/etc/resolv.conf"), "--searchdomain", "example.com")


def no_user(case: Case) -> Done:
    return case.vz("set", case.make(), "--userpasswd", "nosuch:secret")


def no_lock_directory(case: Case) -> Done:
    case.make()
    case.node_conf('LOCKDIR=""')
    return case.vz("start", case.ctid)


def address_in_use(case: Case) -> Done:
    case.make("--ipadd", "192.0.2.202", start=True)
    other = case.ctid + 40000
    case.undo.append(lambda: case.vz.remove(other))
    case.vz.ok("create", other, "--ostemplate", BUSYBOX)
    case.vz.ok("set", other, "--ipadd", "192.0.2.202", "--save")
    return case.vz("start", other)


def failed_script(case: Case) -> Done:
    case.write(f"/etc/vz/conf/{case.ctid}.premount", "#!/bin/sh\nexit 1\n", 0o755)
    return case.vz("mount", case.make())


def no_sample(case: Case) -> Done:
    return case.vz("create", case.ctid, "--ostemplate", BUSYBOX, "--config", "no-such-sample")


def unusable_conf(case: Case) -> Done:
    case.conf("A=\0\n")
    return case.vz("start", case.ctid)


def no_device(case: Case) -> Done:
    return case.vz("set", case.make(start=True), "--devnodes", "no-such-device:rw")


def no_template(case: Case) -> Done:
    return case.vz("create", case.ctid, "--ostemplate", "no-such-template")


def ploop(case: Case) -> Done:
    return case.vz("create", case.ctid, "--ostemplate", BUSYBOX, "--layout", "ploop:expanded")


def no_network_device(case: Case) -> Done:
    return case.vz("set", case.make(start=True), "--netdev_add", "nosuch0")


def disabled(case: Case) -> Done:
    return case.vz("start", case.make("--disabled", "yes"))


def no_distribution_file(case: Case) -> Done:
    case.make()
    assert case.vz.run("mv", "/etc/vz/dists", "/etc/vz/dists.away").returncode == 0
    case.undo.append(lambda: case.vz.run("mv", "/etc/vz/dists.away", "/etc/vz/dists"))
    return case.vz("start", case.ctid)


def no_distribution_script(case: Case) -> Done:
    case.make("--hostname", "a.example")
    case.write("/etc/vz/dists/busybox.conf", "SET_HOSTNAME=no-such-script.sh\n")
    return case.vz("start", case.ctid)


def no_sample_to_apply(case: Case) -> Done:
    return case.vz("set", case.make(), "--applyconfig", "no-such-sample", "--save")


def no_bridge(case: Case) -> Done:
    return case.vz("start", case.make("--netif_add", "eth0,,,,nosuchbr"))


def bad_name(case: Case) -> Done:
    return case.vz("set", case.make(), "--name", "a/b", "--save")


def never_booted(case: Case) -> Done:
    case.make(name=template("debian-12-sysvinit"))
    case.inside(r"rm /sbin/init; printf '#!/bin/bash\nsleep 0.3\n' > /sbin/init; chmod 755 /sbin/init")
    return case.vz("start", case.ctid, "--wait")


def not_saved(case: Case) -> Done:
    ct = case.make()
    read_only = "mount --bind /etc/vz/conf /etc/vz/conf && mount -o remount,bind,ro /etc/vz/conf && exec vzctl "
    return case.vz.run("unshare", "-m", "sh", "-c", f"{read_only} set {ct} --onboot yes --save")


# status -> (how it comes about, what its line says); lines that are part of the documented output are left out
TABLE: dict[int, tuple[Callable[[Case], Done], str]] = {
    0: (success, ""),
    1: (refused_limit, "Unable to set the memory limit"),
    2: (refused_cpus, "Unable to set cpumask"),
    3: (killed_by_a_signal, "Got signal 9"),
    5: (no_idmap, "cannot be idmapped"),
    6: (no_ids_left, "LOCAL_UID_POOL"),
    7: (no_environment, "/proc"),
    8: (failed_command, ""),
    9: (locked, "Container already locked"),
    10: (no_node_conf, "/etc/vz/vz.conf"),
    11: (no_script, "/vz/no-such-script"),
    12: (nobody, "root"),
    14: (no_ct_conf, "Container config file does not exist"),
    20: (wrong_words, "--nonsense"),
    21: (bad_value, "Bad parameter for --cpuunits: many"),
    22: (no_root_path, "VE_ROOT is not set"),
    23: (no_private_path, "VE_PRIVATE is not set"),
    24: (no_template_path, "TEMPLATE is not set"),
    29: (no_template_named, "--ostemplate"),
    31: (not_running, "Container is not running"),
    32: (running, "Container is running -- stop it first"),
    34: (no_address, "network"),
    40: (not_mounted, "CT is not mounted"),
    41: (mounted, "mounted"),
    43: (no_private_area, "private area"),
    44: (private_area_exists, "Private area already exists in /vz/private/"),
    46: (no_space, "No space left"),
    47: (no_init, "/sbin/init"),
    48: (private_is_a_mount, "is a mount point"),
    49: (no_mount_point, "/vz/file/root"),
    50: (no_mount, "Unable to mount /vz/root/"),
    51: (busy, "Unable to unmount /vz/root/"),
    52: (not_deletable, "Unable to remove /vz/private/"),
    53: (unknown_layout, "zfs"),
    70: (no_host_name, "host name"),
    72: (no_name_server, "name servers"),
    73: (no_search_domain, "search domains"),
    74: (no_user, "nosuch"),
    77: (no_lock_directory, "LOCKDIR is not set"),
    78: (address_in_use, "192.0.2.202"),
    79: (failed_script, ".premount"),
    82: (no_sample, "no-such-sample"),
    85: (unusable_conf, "not a text file"),
    86: (no_device, "/dev/no-such-device"),
    91: (no_template, "no-such-template"),
    99: (ploop, "ploop"),
    104: (no_network_device, "nosuch0"),
    105: (disabled, "Container start disabled"),
    107: (no_distribution_file, "/etc/vz/dists"),
    108: (no_distribution_script, "no-such-script.sh"),
    109: (no_sample_to_apply, "no-such-sample"),
    130: (no_bridge, "nosuchbr"),
    131: (bad_name, "Invalid name"),
    133: (never_booted, "Container ended while it was booting"),
    139: (not_saved, "Unable to save /etc/vz/conf/"),
}
DOCUMENTED = (
    'Container start failed (try to check kernel messages, e.g. "dmesg | tail")',
    "Error: failed to apply some parameters, not saving configuration file!",
    "Locked by: pid ",
)


@pytest.mark.parametrize("code", sorted(TABLE))
def test_status(case: Case, node: Node, code: int) -> None:
    cause, words = TABLE[code]
    done = cause(case)
    assert done.returncode == code, (done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if not line.startswith(DOCUMENTED)]
    lines = [line for line in lines if not line.startswith("WARNING: too low on this node")]
    assert len(lines) == bool(words), lines
    assert words in "".join(lines)
    assert "secret" not in done.stdout + done.stderr
    if node.holder is not None:  # nothing is left half done: no lock, no journal, no record of a CT that is down
        for folder in ("lock", "../var/lib/vzctl/journal"):
            left = [path.name for path in node.path(f"/vz/{folder}").glob(f"{case.ctid}*")]
            assert left == ([f"{case.ctid}.lck"] if code == 9 and folder == "lock" else [])


def test_the_table_is_whole_and_the_manual_has_it(vz: Vz) -> None:
    assert set(TABLE) == CODES
    from testnode import TREE

    manual = (TREE / "docs/man/vzctl.8.in").read_text()
    documented = {int(line.split("\t")[0]) for line in manual.splitlines() if line[:1].isdigit() and "\t" in line}
    assert documented >= CODES | {15, 33}


def test_a_destroy_that_cannot_remove_the_files_leaves_a_whole_ct(case: Case, vz: Vz) -> None:
    assert not_deletable(case).returncode == 52
    assert vz.run("umount", f"/vz/private/{case.ctid}").returncode == 0
    case.undo.pop()
    assert vz.ok("status", case.ctid) == f"CTID {case.ctid} exist unmounted down\n"
    assert "Container is mounted" in vz.ok("start", case.ctid)
