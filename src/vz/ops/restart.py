"""restart: stop a CT if it runs, then start it with what its conf says by then."""

from __future__ import annotations

from vz.container.ct import Container, load
from vz.ops import journal
from vz.ops.report import say
from vz.ops.start import check_enabled, start
from vz.ops.stop import stop


def restart(
    ct: Container,
    *,
    fast: bool = False,
    skip_umount: bool = False,
    wait: bool = False,
    force: bool = False,
    skip_remount: bool = False,
    quiet: bool = False,
) -> None:
    """Stop and start the CT; the errors are those of both."""
    if not quiet:
        say("Restarting container")
    if ct.is_running():
        check_enabled(ct, force=force)  # rather than stop what may not be started again
        stop(ct, fast=fast, skip_umount=skip_umount, operation="restart")
    try:
        start(load(ct.ctid, ct.node), wait=wait, force=force, skip_remount=skip_remount)
    finally:
        journal.end(ct.ctid)
