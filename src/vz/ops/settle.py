"""Mending: what a killed command or a CT that ended by itself left behind, found and cleared by the next command.

Nothing here trusts that a step was done or not: each thing is looked for where it would be.  Called with the CT's
lock held, before an operation looks at the CT.
"""

from __future__ import annotations

import os

from vz.config.paths import RUN, STATE
from vz.container.ct import Container
from vz.ops import journal
from vz.ops.report import say, warn
from vz.resources import cgroups


def settle(ct: Container, *, quiet: bool = False) -> None:
    """Bring *ct* to a sound state: running, mounted or stopped, with nothing of a dead init left."""
    journal.mend(ct)
    if ct.is_running():
        return
    record = ct.record()
    if record is None and not os.path.isdir(f"{RUN}/{ct.ctid}") and not cgroups.exists(ct):
        return  # the usual case: two look-ups
    if record is not None and not quiet:
        what = "ended by itself" if record.init_pid else "was left half-started"
        say(f"Container {what}: clearing what is left of it")
    clear(ct)
    if record is not None and ct.is_mounted():  # without a record it is somebody's plain mount
        from vz.disk import layout

        layout.umount_root(ct)


def clear(ct: Container) -> None:
    """Take away everything of a CT whose init is dead, but its root mount; each step can be repeated."""
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
    cgroups.remove(ct)
    devices.remove_nodes(ct)
    for path in (f"{STATE}/vepid/{ct.ctid}", f"/run/netns/{ct.ctid}", f"{RUN}/{ct.ctid}/record"):
        try:
            os.unlink(path)
        except OSError:
            pass
    _remove_run_dir(ct)
    ct.forget_record()


def _remove_run_dir(ct: Container) -> None:
    folder = f"{RUN}/{ct.ctid}"
    try:
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        os.rmdir(folder)
    except OSError:
        pass
