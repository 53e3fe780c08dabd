"""Joining a CT's configuration to its own files: what to write, and waiting for a boot to end."""

from __future__ import annotations

import os
import time

from vz import guest
from vz.container.ct import Container, printable
from vz.errors import ExitCode, VzError
from vz.kernel.files import read_text
from vz.kernel.namespaces import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUTS
from vz.kernel.openat import open_in_root
from vz.ops import distscripts
from vz.ops.report import warn

KEYS_LIMIT_S = 60.0
FIRST_NOTICE_S, NEXT_NOTICE_S = 10.0, 60.0  # when --wait begins to say what it waits for, and how often
_SHUT_IN = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID


def guest_config(ct: Container) -> guest.GuestConfig:
    """Return what the CT's files must say; VzError (107): there is no distribution file."""
    dist = distscripts.load(ct)
    config = guest.GuestConfig()
    config.family = dist.family
    config.by_script = frozenset(dist.scripts)
    config.hostname = ct.conf.hostname or ""
    config.addresses = ct.addresses()
    config.nameservers, config.searchdomains = resolver(ct)
    config.netifs = ct.conf.netif or []
    return config


def resolver(ct: Container) -> tuple[list[str], list[str]]:
    """Return (name servers, search domains) for the CT's resolv.conf; see resolv.conf(5)."""
    servers = ct.conf.nameserver
    if servers is None:
        servers = ct.node.nameserver.split()  # nothing said anywhere: inherit
    domains = ct.conf.searchdomain or []
    if servers == ["inherit"]:
        servers = node_nameservers()
    if domains == ["inherit"]:
        domains = node_searchdomains()
    return servers, domains


def node_nameservers() -> list[str]:
    """Return the node's own name servers, but loopback ones, which are of no use in a CT."""
    words = [line[1] for line in _resolv_conf() if line[0] == "nameserver" and len(line) > 1]
    return [word for word in words if not word.startswith(("127.", "::1"))]


def node_searchdomains() -> list[str]:
    """Return the node's own search domains: its last ``search`` or ``domain`` line counts."""
    found: list[str] = []
    for line in _resolv_conf():
        if line[0] in ("search", "domain"):
            found = line[1:]
    return found


def _resolv_conf() -> list[list[str]]:
    try:
        text = read_text("/etc/resolv.conf")
    except OSError:
        return []
    return [words for line in text.splitlines() if (words := line.split())]


def prepare_new(ct: Container) -> None:
    """Run the post-create steps in the new CT's root; it is mounted for them and unmounted again."""
    from vz.disk import layout
    from vz.kernel import capabilities, namespaces, seccomp
    from vz.kernel.process import wait_pidfd
    from vz.ops.join import edit_in_root
    from vz.resources.policy import dropped_capabilities, seccomp_program

    program = seccomp_program(ct.conf)
    dropped = dropped_capabilities(ct.conf.capability)

    def inside() -> None:
        guest.prepare_new()
        kinds = guest.missing_host_keys()
        if not kinds:
            return
        # ssh-keygen is the template's: it gets neither the node's network nor its processes, wears what every process
        # of a CT wears, and what it leaves behind ends with its pid namespace
        namespaces.unshare(_SHUT_IN)
        pid = os.fork()
        if pid == 0:
            try:
                capabilities.drop_from_bounding_set(dropped)
                seccomp.install(program)
                guest.make_host_keys(kinds)
            finally:
                os._exit(0)
        if not wait_pidfd(os.pidfd_open(pid), KEYS_LIMIT_S):
            os.kill(pid, 9)
        os.waitpid(pid, 0)

    layout.mount_root(ct)
    try:
        edit_in_root(ct, inside)
        distscripts.run_post_create(ct)
    finally:
        layout.umount_root(ct)


def wait_booted(ct: Container, limit_s: int) -> None:
    """Wait until the CT's init says that it has booted; what systemd is still busy with is said while that takes long.

    Raises:
        VzError: it ended, or not within *limit_s* (133).
    """
    from vz.ops.exec import exec_status
    from vz.ops.undo import check_interrupt

    began = time.monotonic()
    deadline = began + limit_s
    notice = began + FIRST_NOTICE_S
    is_systemd = os.path.basename(_init_program(ct)) == "systemd"
    while time.monotonic() < deadline:
        if not ct.is_running():
            raise VzError("Container ended while it was booting", ExitCode.WAIT_FAILED)
        if is_systemd:
            state = exec_status(ct, ["/bin/systemctl", "is-system-running"])[1].strip()
            if state in (b"running", b"degraded"):
                return
            now = time.monotonic()
            if now > notice:
                notice = now + NEXT_NOTICE_S
                warn(f"Still booting after {now - began:.0f} s: {_starting(ct) or 'systemd does not answer'}")
        elif (
            _has(ct, "/.vzfifo")
            or _has(ct, "/etc/inittab") is False
            or os.path.basename(_init_program(ct)) == "busybox"
        ):
            return
        check_interrupt()
        time.sleep(0.1)
    raise VzError("Container did not finish booting in time", ExitCode.WAIT_FAILED)


def _starting(ct: Container) -> str:
    """Return the units that the CT's systemd is starting now, in its own words; "" when it cannot be asked."""
    from vz.ops.exec import exec_status

    listed = exec_status(ct, ["/bin/systemctl", "list-jobs", "--no-legend", "--plain"])[1].decode("utf-8", "replace")
    jobs = [line.split() for line in listed.splitlines()]
    names = [words[1] for words in jobs if len(words) == 4 and words[3] == "running"]
    return printable(" ".join(names[:5]) + (" …" if len(names) > 5 else ""))


def _has(ct: Container, path: str) -> bool | None:
    """Tell whether the running CT has *path*, None for one that ends just now; its own links do not lead out of it."""
    try:
        root = os.open(f"/proc/{ct.init_pid()}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        os.close(open_in_root(root, path, os.O_PATH))
        return True
    except OSError:
        return False
    finally:
        os.close(root)


def _init_program(ct: Container) -> str:
    try:
        return os.readlink(f"/proc/{ct.init_pid()}/exe")
    except OSError:
        return ""
