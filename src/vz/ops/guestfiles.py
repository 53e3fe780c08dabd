"""Joining a CT's configuration to its own files: what to write, and waiting for a boot to end."""

from __future__ import annotations

import os
import time

from vz import guest
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel.files import read_text
from vz.kernel.namespaces import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUTS
from vz.ops import distscripts

KEYS_LIMIT_S = 60.0
_SHUT_IN = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID


def guest_config(ct: Container) -> guest.GuestConfig:
    """Return what the CT's files must say; VzError (107): there is no distribution file."""
    dist = distscripts.load(ct)
    config = guest.GuestConfig()
    config.family = dist.family
    config.by_script = frozenset(dist.scripts)
    config.hostname = ct.conf.hostname or ""
    config.addresses = ct.addresses()
    servers = ct.conf.nameserver
    config.nameservers = node_nameservers() if servers == ["inherit"] else servers or []
    domains = ct.conf.searchdomain
    config.searchdomains = domains or []
    config.netifs = ct.conf.netif or []
    if servers is None and ct.node.nameserver:
        words = ct.node.nameserver.split()
        config.nameservers = node_nameservers() if words == ["inherit"] else words
    return config


def node_nameservers() -> list[str]:
    """Return the node's own name servers, but loopback ones, which are of no use in a CT."""
    try:
        text = read_text("/etc/resolv.conf")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and not words[1].startswith(("127.", "::1")):
            found.append(words[1])
    return found


def prepare_new(ct: Container) -> None:
    """Run the post-create steps in the new CT's root; it is mounted for them and unmounted again."""
    from vz.disk import layout
    from vz.kernel import capabilities, namespaces, seccomp
    from vz.kernel.process import wait_pidfd
    from vz.ops.join import edit_in_root
    from vz.resources.policy import dropped_capabilities, seccomp_program

    program = seccomp_program(ct.conf.features, ct.conf.netfilter)
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
    """Wait until the CT's init says that it has booted.

    Raises:
        VzError: it ended, or not within *limit_s* (133).
    """
    from vz.ops.exec import exec_status
    from vz.ops.undo import check_interrupt

    deadline = time.monotonic() + limit_s
    fifo = f"/proc/{ct.init_pid()}/root/.vzfifo"
    is_systemd = os.path.basename(_init_program(ct)) == "systemd"
    while time.monotonic() < deadline:
        if not ct.is_running():
            raise VzError("Container ended while it was booting", ExitCode.WAIT_FAILED)
        if is_systemd:
            state = exec_status(ct, ["/bin/systemctl", "is-system-running"])[1].strip()
            if state in (b"running", b"degraded"):
                return
        elif (
            os.path.lexists(fifo)
            or not os.path.exists(f"/proc/{ct.init_pid()}/root/etc/inittab")
            or os.path.basename(_init_program(ct)) == "busybox"
        ):
            return
        check_interrupt()
        time.sleep(0.1)
    raise VzError("Container did not finish booting in time", ExitCode.WAIT_FAILED)


def _init_program(ct: Container) -> str:
    try:
        return os.readlink(f"/proc/{ct.init_pid()}/exe")
    except OSError:
        return ""
