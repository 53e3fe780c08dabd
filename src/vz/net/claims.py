"""Which CT of this node has an address: links ``/run/vz/ip/ADDRESS`` → CTID, and ``veip`` files for old clients."""

from __future__ import annotations

import os

from vz.config.paths import RUN, STATE
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel.files import make_dirs, read_text, write_atomically

IP_DIR = f"{RUN}/ip"
VEIP_DIR = f"{STATE}/veip"


def claim(ct: Container, addresses: list[str]) -> None:
    """Mark *addresses* as this CT's; VzError (78) when another CT that runs, or is being started, has one."""
    make_dirs(IP_DIR, 0o711)
    fresh: list[str] = []
    try:
        for address in addresses:
            fresh += _claim(ct, address)
    except BaseException:
        release(ct, fresh)
        raise


def _claim(ct: Container, address: str) -> list[str]:
    """Return [address] where it was not this CT's before."""
    path = f"{IP_DIR}/{address}"
    while True:
        try:
            os.symlink(str(ct.ctid), path)
            return [address]
        except FileExistsError:
            pass
        try:
            owner = os.readlink(path)
        except FileNotFoundError:
            continue
        if owner == str(ct.ctid):
            return []
        if _is_in_use(ct.node.lockdir, owner):
            raise VzError(f"Address {address} is in use by container {owner}", ExitCode.IP_INUSE)
        # over the dead owner's link by rename: whoever sees the same must not remove a newer one
        mine = f"{IP_DIR}/.{ct.ctid}"
        try:
            os.unlink(mine)
        except FileNotFoundError:
            pass
        os.symlink(str(ct.ctid), mine)
        os.rename(mine, path)
        return [address]


def owner_of(address: str, lockdir: str) -> int:
    """Return the CT that runs, or is being started, with *address*; 0 for none."""
    try:
        owner = os.readlink(f"{IP_DIR}/{address}")
    except OSError:
        return 0
    return int(owner) if _is_in_use(lockdir, owner) else 0


def _is_in_use(lockdir: str, owner: str) -> bool:
    from vz.container.lock import is_held
    from vz.container.record import load_record

    record = load_record(int(owner)) if owner.isdecimal() else None
    if record is None:
        return False
    return record.is_alive() if record.init_pid else is_held(lockdir, int(owner))


def owned(ct: Container, addresses: list[str]) -> list[str]:
    """Return those of *addresses* that are still marked as this CT's."""
    found = []
    for address in addresses:
        try:
            if os.readlink(f"{IP_DIR}/{address}") == str(ct.ctid):
                found.append(address)
        except OSError:
            pass
    return found


def release(ct: Container, addresses: list[str]) -> None:
    """Give up *addresses* that are marked as this CT's."""
    for address in owned(ct, addresses):
        try:
            os.unlink(f"{IP_DIR}/{address}")
        except FileNotFoundError:
            pass


def save_veip(ctid: int, addresses: list[str]) -> None:
    """Write the addresses that CT *ctid* has now; none: no file."""
    path = f"{VEIP_DIR}/{ctid}"
    if addresses:
        make_dirs(VEIP_DIR, 0o755)
        write_atomically(path, "".join(f"{a}\n" for a in addresses).encode(), durable=False)
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def read_veip(ctid: int) -> list[str]:
    """Return the addresses that CT *ctid* has as far as we made them."""
    try:
        return read_text(f"{VEIP_DIR}/{ctid}").split()
    except OSError:
        return []
