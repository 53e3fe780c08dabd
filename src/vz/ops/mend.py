"""What becomes of an operation whose command was killed: undone or finished, as its journal says, and named.

Each step looks for what it takes away or makes, since the killed command may have done it or not; so mending can be
killed itself and is then done again.
"""

from __future__ import annotations

import os

from vz.container import ids
from vz.container.ct import Container
from vz.disk import layout
from vz.errors import Interrupted, NotRunning, ScriptFailed, VzError
from vz.kernel.files import read_bytes, remove, write_atomically
from vz.ops import journal
from vz.ops.report import say, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Facts = dict[str, str]

DESTROYED, UNMOUNTED = "destroyed", "unmounted"


def mend(ct: Container) -> str:
    """Undo or finish what the journal of *ct* says; return DESTROYED or UNMOUNTED where that is what was done.

    Raises:
        VzError: it cannot be done now; the journal stays for the next command.
    """
    facts = journal.read(ct.ctid)
    if facts is None:
        return ""
    action = _ACTIONS.get(facts.get("operation", ""))
    done = ""
    if action is None:
        say("An earlier command on this container was interrupted, and its journal says nothing")
    else:
        done = action(ct, facts)
    journal.end(ct.ctid)
    ct.forget_record()
    return done


def _tell(operation: str, what: str) -> None:
    say(f"An earlier {operation} of this container was interrupted: {what}")


def _create(ct: Container, facts: Facts) -> str:
    _tell("create", "undoing it")
    undo_create(ct, facts)
    return ""


def undo_create(ct: Container, facts: Facts) -> None:
    """Remove what create had made: the mount, the private area under either name, a fresh conf, the name, the ids."""
    from vz.ops import names
    from vz.ops.trash import discard

    ct.root, ct.private = facts.get("root", ""), facts.get("private", "")
    if ct.root:
        layout.umount_root(ct)
    for path in (facts.get("area", ""), ct.private):
        # its place is ours to clear only where what lies there is what create moved there
        if os.path.isdir(path) and (path != ct.private or facts.get("inode") == str(os.stat(path).st_ino)):
            discard(path)
    conf = ct.conf_path
    remove(f"{conf}.tmp")
    backup = journal.backup_path(ct.ctid)
    if facts.get("fresh") == "yes":
        remove(conf)
    elif os.path.exists(backup):
        write_atomically(conf, read_bytes(backup))
        remove(backup)
    if facts.get("name"):
        names.agree(ct.ctid, "", [facts["name"]])
    _release(facts, ct.ctid)
    try:
        os.rmdir(ct.root)
    except OSError:
        pass


def _release(facts: Facts, ctid: int) -> None:
    base = facts.get("id_base", "")
    if base.isdecimal() and int(base):
        ids.release(int(base), ctid)


def _destroy(ct: Container, facts: Facts) -> str:
    from vz.ops.destroy import finish

    _tell("destroy", "finishing it")
    finish(ct, facts)
    return DESTROYED


def _ids(ct: Container, facts: Facts) -> str:
    _tell("start", "looking after the host ids that it took")
    if str(ct.conf.local_uid or 0) != facts.get("id_base"):
        _release(facts, ct.ctid)
    return ""


def _mount(ct: Container, facts: Facts) -> str:
    _tell("mount", "undoing it")
    return unmount(ct, facts.get("root", ""))


def _umount(ct: Container, facts: Facts) -> str:
    _tell("umount", "finishing it")
    return unmount(ct, facts.get("root", ""))


def unmount(ct: Container, root: str = "") -> str:
    """Detach VE_ROOT, or *root* where it was mounted elsewhere; what its scripts say of that is not in the way.

    Raises:
        VzError: something still uses it (51).
    """
    if root and root != ct.root:
        moved, ct.root = ct.root, root
        try:
            return unmount(ct)
        finally:
            ct.root = moved
    from vz.ops import scripts

    if not ct.is_mounted():
        return ""
    for action in ("umount", "", "postumount"):
        if not action:
            layout.umount_root(ct)
            continue
        try:
            scripts.run_host(ct, action)
        except ScriptFailed as exc:  # the mount script, whose work it undoes, may never have run
            warn(str(exc))
    return UNMOUNTED


def _finish_kill(ct: Container, facts: Facts) -> None:
    """Kill an init that may have been sent its SIGKILL already: it is alive for some milliseconds after that."""
    if facts.get("kill") == "yes" and ct.is_running():
        from vz.ops.join import open_init
        from vz.ops.stop import kill

        try:
            _, pidfd = open_init(ct)
        except NotRunning:
            return
        try:
            kill(ct, pidfd)
        finally:
            os.close(pidfd)


def _stop(ct: Container, facts: Facts) -> str:
    _finish_kill(ct, facts)
    if ct.is_running():
        _tell("stop", "its init may have been asked to halt")
        return ""
    _tell("stop", "finishing it")
    return _take_down(ct, facts)


def _restart(ct: Container, facts: Facts) -> str:
    _finish_kill(ct, facts)
    if ct.is_running():
        _tell("restart", "it is running")
        return ""
    done = _take_down(ct, facts)
    warn("An earlier restart of this container was interrupted: it is stopped now, start it")
    return done


def _take_down(ct: Container, facts: Facts) -> str:
    from vz.ops.settle import clear, forget_run

    clear(ct)
    forget_run(ct)
    return unmount(ct, facts.get("root", "")) if facts.get("umount") == "yes" else ""


def _set(ct: Container, facts: Facts) -> str:
    from vz.ops.agree import agree

    _tell("set", "bringing the container to its configuration")
    try:
        for text in agree(ct, facts):
            warn(text)
    except Interrupted:
        raise
    except (VzError, OSError) as exc:  # a bridge that is gone, say: it must not be in the way of stop
        warn(f"WARNING: not all of the container is as its configuration says: {exc}")
    return ""


def _chkpnt(ct: Container, facts: Facts) -> str:
    from vz.ops import chkpnt

    chkpnt.mend(ct, facts)
    return ""


def _restore(ct: Container, facts: Facts) -> str:
    from vz.ops import restore

    restore.mend(ct, facts)
    return ""


def _migrate(ct: Container, facts: Facts) -> str:
    from vz.ops.migrate import mend as migration

    journal.hold(ct.ctid)
    try:
        migration.mend(ct, facts)
    finally:
        journal.let_go(ct.ctid)
    return ""


_ACTIONS: dict[str, Callable[[Container, Facts], str]] = {
    "create": _create,
    "destroy": _destroy,
    "ids": _ids,
    "mount": _mount,
    "umount": _umount,
    "stop": _stop,
    "restart": _restart,
    "set": _set,
    "chkpnt": _chkpnt,
    "restore": _restore,
    "migrate": _migrate,
    "migrate-in": _migrate,
}
