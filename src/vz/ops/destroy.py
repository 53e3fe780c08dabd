"""destroy: the private area goes in the background, the conf and scripts stay as ``*.destroyed``."""

from __future__ import annotations

import os

from vz.config.paths import STATE
from vz.container import ids
from vz.container.ct import Container, printable
from vz.errors import ExitCode, VzError
from vz.ops import journal, names
from vz.ops.report import say

ACTION_SUFFIXES = ("mount", "umount", "premount", "postumount", "start", "stop")


def destroy(ct: Container) -> None:
    """Remove a stopped CT; one without a private area is success.

    Raises:
        VzError: running (32), mounted (41), the private area cannot be moved away (52).
    """
    if ct.is_running():
        say("Container is currently running. Stop it first.")
        raise VzError("", ExitCode.VE_RUNNING)
    if ct.is_mounted():
        raise VzError("Container is currently mounted (umount first)", ExitCode.FS_MOUNTED)
    facts = {
        "private": ct.private,
        "root": ct.root,
        "dump": ct.dump_path,
        "id_base": ct.idmap[0],
        "id_count": ct.idmap[1],
        "name": ct.conf.name or "",
    }
    journal.begin(ct.ctid, "destroy", **facts)
    say(f"Destroying container private area: {printable(ct.private)}")
    try:
        finish(ct.ctid, {key: str(value) for key, value in facts.items()})
    except VzError:
        if os.path.lexists(
            ct.private
        ):  # nothing has changed: it is no half-destroyed CT for the next command to finish
            journal.end(ct.ctid)
        raise
    journal.end(ct.ctid)
    say("Container private area was destroyed")


def finish(ctid: int, facts: dict[str, str]) -> None:
    """Do the steps of destroy; each can be done again, so a killed one is finished by calling this."""
    from vz.config.paths import CONF_DIR
    from vz.ops.trash import discard

    base, count = int(facts.get("id_base", "0")), int(facts.get("id_count", ids.RANGE))
    ticket = (base, count, ctid) if base and ids.owner_of(base) == ctid else None
    private = facts["private"]
    try:
        for path in (f"{private.rstrip('/')}.tmp", private):
            if os.path.lexists(path):
                discard(path, ticket if path == private else None)
                ticket = None if path == private else ticket
    except OSError as exc:
        raise VzError(f"Unable to remove {private}: {exc.strerror}", ExitCode.FS_DEL_PRVT) from exc
    if ticket:
        ids.release(*ticket)
    if facts.get("name"):
        names.remove_link(ctid, facts["name"])
    for suffix in ("conf", *ACTION_SUFFIXES):
        path = f"{CONF_DIR}/{ctid}.{suffix}"
        if os.path.lexists(path):
            os.replace(path, f"{path}.destroyed")
    for suffix in ("", ".new", ".old", ".gone", ".fail"):  # of vz.checkpoint.store
        dump = facts.get("dump", "") and facts["dump"] + suffix
        if dump and os.path.lexists(dump):
            if os.path.isdir(dump):
                discard(dump)
            else:
                os.unlink(dump)
    for path in (
        f"{STATE}/veip/{ctid}",
        f"{STATE}/vepid/{ctid}",
        f"{STATE}/traffic/{ctid}",
        f"{STATE}/vzreboot/{ctid}",
    ):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
    try:
        os.rmdir(facts["root"])
    except OSError:
        pass
