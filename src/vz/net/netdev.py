"""Host devices lent to a CT (NETDEV): moved into its network namespace, and moved back when it ends, however it ends.

A device of the kernel's own making (VLAN, macvlan, …) would die with the namespace, so a mount below the CT's run
directory holds the namespace from before the first device goes in until the last has come back.
"""

from __future__ import annotations

import errno
import os

from vz.config.paths import RUN
from vz.container.record import Record
from vz.errors import ExitCode, VzError
from vz.kernel import mounts, namespaces
from vz.kernel import rtnetlink as rt
from vz.net.uplinks import index_of


def pin_path(ctid: int) -> str:
    return f"{RUN}/{ctid}/netns"


def is_pinned(ctid: int) -> bool:
    """Tell whether the namespace is held: nsfs is another device than the directory's."""
    try:
        return os.stat(pin_path(ctid)).st_dev != os.stat(f"{RUN}/{ctid}").st_dev
    except OSError:
        return False


def move_in(sock: rt.Route, record: Record, name: str) -> None:
    """Move device *name* into the CT; VzError (104)."""
    index = index_of(name)
    if not index:
        raise VzError(f"Network device {name} is not on this node", ExitCode.NETDEV_ERROR)
    pin(record)
    record.netdevs.append(name)
    record.save()
    netns = os.open(pin_path(record.ctid), os.O_RDONLY | os.O_CLOEXEC)
    try:
        sock.run([rt.link_set(index, netns_fd=netns)])
        record.netdev_indexes[name] = _index_inside(netns, name)
    except OSError as exc:
        if index_of(name):  # still here
            record.netdevs.remove(name)
            record.save()
        raise VzError(f"Unable to move {name} into the container: {exc.strerror}", ExitCode.NETDEV_ERROR) from exc
    finally:
        os.close(netns)
    record.save()


def move_back(record: Record, name: str) -> str:
    """Move device *name* back to the node under its old name; return a warning where that is taken, else "".

    Raises:
        VzError: it is not in the CT any more, or cannot leave it (104).
    """
    ours = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    netns = os.open(pin_path(record.ctid), os.O_RDONLY | os.O_CLOEXEC)

    def leave() -> bytes:
        """In the CT's namespace; the CT's root may have given the device another name."""
        namespaces.setns(netns, namespaces.CLONE_NEWNET)
        index = record.netdev_indexes.get(name) or index_of(name)
        if not index:
            raise OSError(errno.ENODEV, "the container has no such device", name)
        with rt.Route() as sock:
            error = sock.attempt([rt.link_set(index, netns_fd=ours, name=name)])[0]
            if error is None:
                return b""
            if error.errno != errno.EEXIST:
                raise error
            # as the kernel itself does it; ENODEV: it is out already, under the name that it had inside
            error = sock.attempt([rt.link_set(index, netns_fd=ours, name="dev%d")])[0]
            if error is not None and error.errno != errno.ENODEV:
                raise error
            return b"renamed"

    try:
        renamed = namespaces.run_in_child(leave)
    except OSError as exc:
        raise VzError(f"Unable to take {name} back: {exc.strerror}", ExitCode.NETDEV_ERROR) from exc
    finally:
        os.close(ours)
        os.close(netns)
    return f"WARNING: the node has another device {name} now: this one came back by another name" if renamed else ""


def give_back(record: Record) -> list[str]:
    """Move all devices back and let the namespace go; return warnings.  Every step may have been done before."""
    warnings: list[str] = []
    if not is_pinned(record.ctid):
        return warnings
    for name in record.netdevs:
        try:
            warnings += [text for text in (move_back(record, name),) if text]
        except VzError as exc:
            if not index_of(name):
                warnings.append(f"WARNING: {exc}")
    unpin(record.ctid)
    return warnings


def pin(record: Record) -> None:
    """Hold the CT's network namespace by a mount; done before is no error."""
    path = pin_path(record.ctid)
    if is_pinned(record.ctid):
        return
    record.save()  # makes the directory
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    mounts.mount(f"/proc/{record.init_pid}/ns/net", path, None, mounts.MS_BIND)


def unpin(ctid: int) -> None:
    path = pin_path(ctid)
    while is_pinned(ctid):
        mounts.umount(path, mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _index_inside(netns: int, name: str) -> int:
    def ask() -> bytes:
        namespaces.setns(netns, namespaces.CLONE_NEWNET)
        return str(index_of(name)).encode()

    return int(namespaces.run_in_child(ask))
