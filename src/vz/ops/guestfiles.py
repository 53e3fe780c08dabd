"""Joining a CT's configuration to its own files: what to write, and waiting for a boot to end."""

from __future__ import annotations

import os
import time

from vz import guest, net
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel.files import read_text
from vz.ops import distscripts


def guest_config(ct: Container) -> guest.GuestConfig:
    """Return what the CT's files must say; VzError (107): there is no distribution file."""
    dist = distscripts.load(ct)
    config = guest.GuestConfig()
    config.family = dist.family
    config.by_script = frozenset(dist.scripts)
    config.hostname = ct.conf.hostname or ""
    config.addresses = net.usable_addresses(ct)
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
    from vz.ops.join import edit_in_root

    layout.mount_root(ct)
    try:
        edit_in_root(ct, guest.prepare_new)
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
        elif os.path.lexists(fifo) or not os.path.exists(f"/proc/{ct.init_pid()}/root/etc/inittab"):
            return
        elif os.path.basename(_init_program(ct)) == "busybox":
            return
        check_interrupt()
        time.sleep(0.1)
    raise VzError("Container did not finish booting in time", ExitCode.WAIT_FAILED)


def _init_program(ct: Container) -> str:
    try:
        return os.readlink(f"/proc/{ct.init_pid()}/exe")
    except OSError:
        return ""
