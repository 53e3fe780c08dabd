"""What follows the end of a CT's init: what the next command would clear up, and the start again after a reboot.

Done by a forked child with the CT's lock.  ``/var/lib/vzctl/vzreboot/CTID`` says that a CT is to be started again, from
the moment the reboot is seen until it has been: a daemon that was killed in between, and a node that went down, find it
there.  Its text is the init that has ended and the boot of the node, or ``suspended`` by the node's shutdown.
"""

from __future__ import annotations

import os

from vz.config.nodeconfig import load_node
from vz.config.paths import CONF_DIR, REBOOT_MARKS
from vz.container import record as records
from vz.container.ct import load
from vz.container.lock import CTLock
from vz.container.record import Record
from vz.errors import AlreadyRunning, ExitCode, Locked, VzError
from vz.kernel.files import make_dirs, read_text, remove, write_atomically
from vz.ops import journal, report

SUSPENDED = "suspended"
# a CT that reboots more often than this is left stopped
MOST_REBOOTS, WITHIN_S = 5, 60.0


def mark(ctid: int, text: str, *, durable: bool = True) -> None:
    """Note that CT *ctid* is to be started again."""
    make_dirs(REBOOT_MARKS, 0o700)
    write_atomically(f"{REBOOT_MARKS}/{ctid}", f"{text}\n".encode(), 0o600, durable=durable)


def unmark(ctid: int) -> None:
    remove(f"{REBOOT_MARKS}/{ctid}")


def marked() -> dict[int, str]:
    """Return {CTID: text} of the CTs that are to be started again."""
    try:
        names = os.listdir(REBOOT_MARKS)
    except FileNotFoundError:
        return {}
    found = {}
    for name in names:
        if name.isascii() and name.isdigit():
            try:
                found[int(name)] = read_text(f"{REBOOT_MARKS}/{name}").strip()
            except OSError:
                found[int(name)] = ""
    return found


def text_of(pid: int, start: int) -> str:
    """Return the mark's text of the init (*pid*, *start*) in this boot of the node."""
    return f"{pid} {start} {boot_id()}"


def boot_id() -> str:
    return read_text("/proc/sys/kernel/random/boot_id").strip()


def may_restart(record: Record, ctid: int) -> bool:
    """Tell whether a reboot of the CT is one to follow: it is no runscript's, and no stop of it was killed."""
    return record.stage in ("", records.RELEASED) and (journal.read(ctid) or {}).get("operation") != "stop"


def left_alone(ctid: int) -> bool:
    """Tell whether a migration has the CT: what is to be done then is between the two nodes."""
    return (journal.read(ctid) or {}).get("operation", "").startswith("migrate")


def act(ctid: int, pid: int, start: int, *, restart: bool) -> int:
    """Clear what the init (*pid*, *start*) of CT *ctid* has left, and start the CT again for *restart*; exit status.

    Nothing when somebody else has done so, 9 when somebody has the lock.  With *pid* 0 there is nothing to clear.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 1)  # the chatter of a start is for the log
    os.close(null)
    node = load_node()
    report.set_log(node.logfile if node.logging else "", ctid, node.log_level)
    try:
        with CTLock(node.lockdir, ctid) as lock:
            for text in lock.stale:
                report.warn(text)
            record = records.load_record(ctid)
            ended = (record.init_pid, record.init_start) if record is not None else (0, 0)
            if ended == (pid, start) and (record is None or not record.is_alive()):
                _act(ctid, restart, bool(lock.stale))
            unmark(ctid)
    except Locked:
        return ExitCode.LOCKED
    except (VzError, OSError) as exc:
        what = "Unable to start it again" if restart else "Unable to clear what is left of it"
        report.warn(f"{what}: {exc}")
        unmark(ctid)
        return exc.code if isinstance(exc, VzError) else ExitCode.SYSTEM_ERROR
    return ExitCode.OK


def _act(ctid: int, restart: bool, after_kill: bool) -> None:
    from vz.ops.settle import settle

    node = load_node()
    settle(load(ctid, node, must_exist=False), after_kill=after_kill)
    if restart and os.path.exists(f"{CONF_DIR}/{ctid}.conf"):
        from vz.ops.start import start

        try:
            start(load(ctid, node))
        except AlreadyRunning:
            pass
