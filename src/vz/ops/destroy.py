"""destroy: the private area goes in the background, the conf and scripts stay as ``*.destroyed``."""

from __future__ import annotations

import os

from vz.config.paths import CONF_DIR, STATE
from vz.container import events, ids
from vz.container.ct import Container, need_paths, printable
from vz.errors import ExitCode, VzError
from vz.kernel.files import remove
from vz.ops import journal, names
from vz.ops.report import say

ACTION_SUFFIXES = ("mount", "umount", "premount", "postumount", "start", "stop")


def destroy(ct: Container) -> None:
    """Remove a stopped CT; one without a private area is success.

    Raises:
        VzError: running (32), mounted (41), the private area or the conf cannot be taken away (52).
    """
    if ct.is_running():
        say("Container is currently running. Stop it first.")
        raise VzError("", ExitCode.VE_RUNNING)
    if ct.is_mounted():
        raise VzError("Container is currently mounted (umount first)", ExitCode.FS_MOUNTED)
    need_paths(ct)
    if not os.access(CONF_DIR, os.W_OK):  # root is refused on a read-only file system only
        raise VzError(f"Unable to remove {ct.conf_path}: Read-only file system", ExitCode.FS_DEL_PRVT)
    facts = {
        "private": ct.private,
        "root": ct.root,
        "dump": ct.dump_path,
        "id_base": str(ct.idmap[0]),
        "name": ct.conf.name or "",
    }
    journal.note(ct.ctid, "destroy", **facts)
    say(f"Destroying container private area: {printable(ct.private)}")
    try:
        finish(ct, facts)
    except VzError:
        if os.path.lexists(ct.private):  # nothing has changed: it is no half-destroyed CT for the next one to finish
            journal.end(ct.ctid)
        raise
    journal.end(ct.ctid)
    say("Container private area was destroyed")


def retire(base: int, ctid: int) -> None:
    """Mark the CT's ids as used by files that are being deleted; on a full disk, give them back at once."""
    try:
        ids.retire(base, ctid)
    except OSError:
        ids.release(base, ctid)


def finish(ct: Container, facts: dict[str, str]) -> None:
    """Do the steps of destroy; each can be done again, so a killed one is finished by calling this."""
    from vz.ops.settle import sweep
    from vz.ops.trash import discard

    ctid, private = ct.ctid, facts["private"]
    renamed: list[str] = []
    what = ""
    try:
        for suffix in ("conf", *ACTION_SUFFIXES):
            what = f"{CONF_DIR}/{ctid}.{suffix}"
            if os.path.lexists(what):
                os.replace(what, f"{what}.destroyed")
                renamed.append(what)
        what = private
        discard_private(ctid, private, int(facts.get("id_base") or 0))
    except OSError as exc:
        for path in renamed:  # nothing has been lost: it is a CT still
            os.replace(f"{path}.destroyed", path)
        raise VzError(f"Unable to remove {what}: {exc.strerror}", ExitCode.FS_DEL_PRVT) from exc
    if facts.get("name"):
        names.remove_link(ctid, facts["name"])
    for suffix in ("", ".new", ".old", ".gone", ".fail"):  # of vz.checkpoint.store
        dump = facts.get("dump", "") and facts["dump"] + suffix
        if dump and os.path.isdir(dump):
            discard(dump)
        elif dump:
            remove(dump)
    for name in ("veip", "vepid", "traffic", "vzreboot"):
        remove(f"{STATE}/{name}/{ctid}")
    events.forget(ctid)
    sweep(ct)
    try:
        os.rmdir(facts["root"])
    except OSError:
        pass


def discard_private(ctid: int, private: str, base: int) -> None:
    """Have the private area deleted, with the ids from *base* on (0: none) to be free after that; OSError: it stays."""
    from vz.ops.trash import discard

    if os.path.isdir(f"{private.rstrip('/')}.tmp"):
        discard(f"{private.rstrip('/')}.tmp")
    if os.path.isdir(private) and not os.path.islink(private):
        if base:
            retire(base, ctid)
        try:
            discard(private, (base, ctid))
        except OSError:
            if base and os.path.lexists(private):
                ids.retire(base, ctid, back=True)
            raise
    else:  # none, or a link: nothing of ours is left that has the ids
        remove(private)
        if base:
            ids.release(base, ctid)
