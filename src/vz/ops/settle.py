"""Settling: what a killed command or a CT that ended by itself left behind, found and cleared by the next command.

Nothing here trusts that a step was done or not: each thing is looked for where it would be.  Called with the CT's
lock held, before an operation looks at the CT.
"""

from __future__ import annotations

import os

from vz.config.paths import RUN, STATE
from vz.container import record as records
from vz.container.ct import Container
from vz.kernel.files import remove
from vz.ops import journal
from vz.ops.report import say, warn
from vz.resources import cgroups


def settle(ct: Container, *, after_kill: bool = False) -> str:
    """Bring *ct* to a sound state: running, mounted or stopped, with nothing of a dead init left.

    *after_kill*: its lock was found stale.  Returns what ``ops.mend`` says was done ("" for nothing).
    """
    done = ""
    if after_kill:
        sweep_and_tell(ct)
    if journal.read(ct.ctid) is not None:
        from vz.ops.mend import mend

        done = mend(ct)
    record = ct.record()
    if ct.is_running():
        if record is not None and record.stage:
            _complete(ct, record)
        return done
    if record is None and not os.path.isdir(ct.run_dir) and not cgroups.exists(ct):
        return done  # the usual case: three look-ups
    if record is None:
        say("An earlier command on this container was interrupted: clearing what is left of it")
    elif record.stage == records.SCRIPT:
        say("An earlier runscript of this container was interrupted: clearing what is left of it")
    elif record.stage:
        say("Container was left half-started: clearing what is left of it")
    else:
        say("Container ended by itself: clearing what is left of it")
    return take_down(ct) or done


def take_down(ct: Container) -> str:
    """Take away all that a dead CT has, its root mount included; return whether there was one, as ``ops.mend``."""
    from vz.ops.mend import unmount

    record = ct.record()
    clear(ct)
    # without a record it is somebody's plain mount
    done = unmount(ct, record.root) if record is not None and record.root else ""
    forget_run(ct)
    return done


def _complete(ct: Container, record: records.Record) -> None:
    """Finish a start whose command was killed after init had been let go; take down what will never be a CT."""
    from vz.ops import start

    if record.stage == records.RELEASED and start.wait_for_init(record):
        say("An earlier start of this container was interrupted: finishing it")
        start.finish(ct, record)
        return
    what = "runscript" if record.stage == records.SCRIPT else "start"
    say(f"An earlier {what} of this container was interrupted: undoing it")
    take_down(ct)


def clear(ct: Container) -> None:
    """Take away everything of a CT whose init is dead, but its root mount and its record; each step can be repeated."""
    from vz.resources import devices

    record = ct.record()
    cgroups.kill_all(ct)
    if record is not None and (record.netifs or record.netdevs):
        from vz import net

        for text in net.detach(ct, record):
            warn(text)
    if os.path.exists(f"{RUN}/{ct.ctid}/netlock"):
        from vz.net import lock

        lock.unlock(ct)
    _look_last(ct)
    cgroups.remove(ct)
    devices.remove_nodes(ct)
    if os.path.isdir(f"{RUN}/{ct.ctid}/lower"):  # killed in the midst of a mount, on a kernel before Linux 6.15
        from vz.disk import overlay

        overlay.detach_layers(ct)
    for path in (f"{STATE}/vepid/{ct.ctid}", f"/run/netns/{ct.ctid}"):
        try:
            remove(path)
        except OSError:
            pass


def _look_last(ct: Container) -> None:
    """Keep for ``vzctl why`` what the kernel's counters say, which go with the cgroups: it may be what ended the CT."""
    from vz.resources import refusals

    now = refusals.counters(ct)
    if any(now.values()):
        from vz.resources import noticing

        noticing.look(ct, now, wait=False)


def forget_run(ct: Container) -> None:
    """Remove the run record and all that lies beside it."""
    folder = f"{RUN}/{ct.ctid}"
    try:
        names = sorted(os.listdir(folder), key=lambda name: name == "record")  # what tells of the others goes last
        for name in names:
            path = f"{folder}/{name}"
            os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        os.rmdir(folder)
    except OSError:
        pass
    ct.forget_record()


def sweep_and_tell(ct: Container) -> None:
    """sweep(), and say so where what has been a CT of this id was not yet deleted whole."""
    if sweep(ct):
        say("An earlier destroy of this container was interrupted: clearing what is left of it")


def sweep(ct: Container) -> bool:
    """Remove the temporary names that a command killed in the middle of a write leaves beside its files.

    Returns whether something of a destroyed CT of this id was left, with nobody at work on it.
    """
    from vz.ops.trash import sweep_leftovers

    for path in (
        ct.conf_path,
        journal.backup_path(ct.ctid).removesuffix(".conf"),
        f"{STATE}/veip/{ct.ctid}",
        f"{STATE}/vepid/{ct.ctid}",
        f"{STATE}/traffic/{ct.ctid}",
        f"{ct.run_dir}/record",
    ):
        try:
            remove(f"{path}.tmp")
        except OSError:
            pass
    return bool(ct.private) and sweep_leftovers(ct.private, ct.ctid)
