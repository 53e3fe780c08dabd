"""Names of CTs: ``/etc/vz/names/NAME``, a link to the conf that says the same NAME."""

from __future__ import annotations

import os

from vz.config.paths import CONF_DIR, NAMES_DIR
from vz.container.ct import printable
from vz.errors import ExitCode, VzError
from vz.kernel.files import make_dirs

ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -+_.")


def link_path(name: str) -> str:
    return f"{NAMES_DIR}/{name}"


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
    """Return the CT that the link of *name* leads to, if its conf is still there."""
    try:
        target = os.readlink(link_path(name))
    except OSError:
        return None
    stem = os.path.basename(target).removesuffix(".conf")
    return int(stem) if stem.isdecimal() and os.path.exists(f"{CONF_DIR}/{stem}.conf") else None


def assign(ctid: int, name: str) -> None:
    """Make the link of *name*; OSError becomes status 131."""
    path = link_path(name)
    try:
        make_dirs(NAMES_DIR, 0o755)
        temporary = f"{path}.{os.getpid()}.tmp"
        os.symlink(f"{CONF_DIR}/{ctid}.conf", temporary)
        os.replace(temporary, path)
    except OSError as exc:
        raise VzError(f"Unable to assign name {name}: {exc.strerror}", ExitCode.SET_NAME_ERROR) from exc


def remove_link(ctid: int, name: str) -> None:
    """Remove the link of *name* where it is this CT's."""
    try:
        if os.path.basename(os.readlink(link_path(name))) == f"{ctid}.conf":
            os.unlink(link_path(name))
    except OSError:
        pass
