"""Names of CTs: ``/etc/vz/names/NAME``, a link to the conf that says the same NAME.

A link counts only where the two agree; one that a killed command left is anybody's to replace.  Who takes a name
holds the lock of the directory until link and conf say the same.
"""

from __future__ import annotations

import fcntl
import os

from vz.config.conffile import ConfFile
from vz.config.paths import CONF_DIR, NAMES_DIR
from vz.container.ct import printable
from vz.errors import ExitCode, VzError
from vz.kernel.files import make_dirs, remove

ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -+_.")
TEMPORARY = "#new"  # no name: the sign is not allowed in one


def link_path(name: str) -> str:
    return f"{NAMES_DIR}/{name}"


def lock() -> int:
    """Return a descriptor that keeps others from taking names until it is closed; VzError (131)."""
    try:
        make_dirs(NAMES_DIR, 0o755)
        fd = os.open(NAMES_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as exc:
        raise VzError(f"Unable to lock {NAMES_DIR}: {exc.strerror}", ExitCode.SET_NAME_ERROR) from exc
    return fd


def check_free(ctid: int, name: str) -> None:
    """Raise VzError (131) when *name* cannot be used for CT *ctid*."""
    bad = not name or not set(name) <= ALLOWED or name in (".", "..") or name.isdigit() or len(name) > 255
    if bad:
        raise VzError(
            f"Invalid name {printable(name)}: letters, digits, space and - + _ . only", ExitCode.SET_NAME_ERROR
        )
    owner = owner_of(name)
    if owner is not None and owner != ctid:
        raise VzError(f"Conflict: name {name} already used by container {owner}", ExitCode.SET_NAME_ERROR)


def owner_of(name: str) -> int | None:
    """Return the CT that the link of *name* leads to, if its conf is there and says so too."""
    ctid = target_of(name)
    if ctid is None:
        return None
    try:
        return ctid if ConfFile.read(f"{CONF_DIR}/{ctid}.conf").get("NAME") == name else None
    except FileNotFoundError:
        return None
    except (OSError, VzError):
        return ctid  # it cannot be read: not for us to give its name away


def target_of(name: str) -> int | None:
    """Return the CTID that the link of *name* says; None when there is no such link."""
    try:
        target = os.readlink(link_path(name))
    except OSError:
        return None
    stem = os.path.basename(target).removesuffix(".conf")
    return int(stem) if stem.isascii() and stem.isdecimal() else None


def assign(ctid: int, name: str) -> None:
    """Make the link of *name* lead to CT *ctid*; the caller has the lock.  VzError (131): another CT has it."""
    check_free(ctid, name)
    path, temporary = link_path(name), link_path(TEMPORARY)
    try:
        if target_of(name) != ctid:
            remove(temporary)
            os.symlink(f"{CONF_DIR}/{ctid}.conf", temporary)
            os.rename(temporary, path)
    except OSError as exc:
        raise VzError(f"Unable to assign name {name}: {exc.strerror}", ExitCode.SET_NAME_ERROR) from exc


def remove_link(ctid: int, name: str) -> None:
    """Remove the link of *name* where it is this CT's."""
    try:
        if target_of(name) == ctid:
            os.unlink(link_path(name))
    except OSError:
        pass


def agree(ctid: int, name: str, others: list[str]) -> None:
    """Make the links of CT *ctid* say that it is called *name* ("" for nothing) and none of *others* (mending)."""
    fd = lock()
    try:
        remove(link_path(TEMPORARY))
        for other in others:
            if other and other != name:
                remove_link(ctid, other)
        if name:
            try:
                assign(ctid, name)
            except VzError:
                pass  # taken meanwhile: the conf's word alone makes it nobody's
    finally:
        os.close(fd)
