"""The network lock of one CT: nothing passes its devices on the node while its sockets are being saved.

A frozen CT's kernel still acknowledges what comes in and resets what finds no socket; both would break the
connections that the dump has just saved.  The lock is an nftables table of its own on the device hooks (``netdev
vzlockCTID``): it costs nothing to anybody else, works for routed and bridged devices, and a mark in the run directory
says that it is there, so whoever clears up after a killed command finds it.
"""

from __future__ import annotations

import os

from vz.config.paths import RUN
from vz.container.ct import Container
from vz.container.record import Record
from vz.errors import ExitCode, VzError
from vz.kernel import rtnetlink as rt
from vz.kernel.files import write_atomically
from vz.kernel.network import device_exists, nft
from vz.net import uplinks

BY_FILTER, BY_LINK = "filter", "link"


def lock(ct: Container, record: Record) -> None:
    """Stop all traffic of the running CT; VzError (16) when that cannot be done."""
    devices = [outside for outside, _ in record.netifs if device_exists(outside)]
    if not devices:
        return
    _mark(ct.ctid, BY_FILTER)
    try:
        for hooks in (("ingress", "egress"), ("ingress",)):  # egress: Linux 5.16 with NETFILTER_EGRESS
            try:
                nft(_table(ct.ctid, devices, hooks))
                return
            except OSError as exc:
                failure = exc
        # no nftables for devices: without a link nothing passes either, but the CT sees its carrier go
        _mark(ct.ctid, BY_LINK)
        with rt.Route() as sock:
            sock.run([rt.link_set(uplinks.index_of(device), change=rt.IFF_UP) for device in devices])
    except OSError as exc:
        raise VzError(f"Unable to lock the network: {failure.strerror}; {exc.strerror}", ExitCode.CHKPNT_ERROR) from exc


def sever(record: Record) -> None:
    """Take away the devices of a frozen CT that is to be killed: its sockets must not say good-bye to anybody."""
    from vz.net import venet

    with rt.Route() as sock:
        for outside, _ in record.netifs:
            venet.delete_link(sock, outside)


def unlock(ct: Container, record: Record | None = None) -> None:
    """Let traffic pass again, if it was stopped; *record* is that of the CT where it still runs."""
    try:
        with open(_mark_path(ct.ctid), encoding="ascii") as file:
            how = file.read().strip()
    except FileNotFoundError:
        return
    if how == BY_LINK and record is not None:
        from vz.net.claims import read_veip
        from vz.net.connect import restore_host_side

        restore_host_side(ct, record, read_veip(ct.ctid))  # the node's routes went with the link
    elif how == BY_FILTER:
        table = f"table netdev {_name(ct.ctid)}"
        try:
            nft(f"add {table}\ndelete {table}\n")  # one that is not there is no error
        except OSError as exc:
            raise VzError(f"Unable to unlock the network: {exc.strerror}", ExitCode.CHKPNT_ERROR) from exc
    try:
        os.unlink(_mark_path(ct.ctid))
    except FileNotFoundError:
        pass


def _name(ctid: int) -> str:
    return f"vzlock{ctid}"


def _table(ctid: int, devices: list[str], hooks: tuple[str, ...]) -> str:
    name = _name(ctid)
    lines = [f"add table netdev {name}", f"delete table netdev {name}", f"add table netdev {name}"]
    for number, device in enumerate(devices):
        for hook in hooks:
            lines.append(
                f"add chain netdev {name} {hook}{number} "
                f'{{ type filter hook {hook} device "{device}" priority -500; policy drop; }}'
            )
    return "\n".join(lines) + "\n"


def _mark_path(ctid: int) -> str:
    return f"{RUN}/{ctid}/netlock"


def _mark(ctid: int, how: str) -> None:
    write_atomically(_mark_path(ctid), f"{how}\n".encode(), 0o600, durable=False)
