"""What every vzctl verb does first: read the node's configuration, find the CT, take its lock, mend it."""

from __future__ import annotations

import os

from vz.cli.main import Globals
from vz.config.nodeconfig import NodeConfig, load_node
from vz.config.paths import CONF_DIR, STATE
from vz.container.ct import Container, find, load
from vz.errors import NoContainerConfig
from vz.ops import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def prepare(options: Globals, word: str) -> tuple[NodeConfig, int]:
    """Set up output and log and return the node's configuration and the CT's id.

    Raises:
        NoGlobalConfig: 10.  BadValue: no such id or name (21).  Both are printed in spite of --quiet: they are about
            the command line itself.
    """
    node = load_node()
    ctid = find(word)
    report.set_up(options.program, quiet=options.quiet, verbosity=options.verbosity or node.verbose)
    report.set_log(node.logfile if node.logging else "", ctid, node.log_level)
    return node, ctid


def locked(
    options: Globals,
    node: NodeConfig,
    ctid: int,
    action: Callable[[Container], int | None],
    *,
    must_exist: bool = True,
    wanted: str = "",
) -> int:
    """Take the CT's lock, load it, mend what an earlier command left, and do *action*.

    *wanted* is what the action is for, in the words of ``ops.mend``: where mending has left nothing of the CT and that
    was it, all is done.

    Raises:
        Locked: 9.  NoContainerConfig: 14.
    """
    from vz.container.lock import CTLock
    from vz.ops.undo import catch_signals

    catch_signals()
    if options.skiplock:
        return _mended(node, ctid, action, must_exist, wanted, False)
    with CTLock(node.lockdir, ctid) as lock:
        for text in lock.stale:
            report.warn(text)
        return _mended(node, ctid, action, must_exist, wanted, bool(lock.stale))


def _mended(
    node: NodeConfig,
    ctid: int,
    action: Callable[[Container], int | None],
    must_exist: bool,
    wanted: str,
    after_kill: bool,
) -> int:
    from vz.ops import journal
    from vz.ops.settle import settle

    done = ""
    if journal.read(ctid) is not None or after_kill:  # it may be what makes or unmakes the conf
        done = settle(load(ctid, node, must_exist=False), after_kill=after_kill)
        if wanted and done == wanted and not os.path.exists(f"{CONF_DIR}/{ctid}.conf"):
            return 0
    try:
        ct = load(ctid, node, must_exist=must_exist)
    except NoContainerConfig:
        from vz.ops.settle import sweep_and_tell

        sweep_and_tell(load(ctid, node, must_exist=False))
        raise
    ct.mended = settle(ct) or done
    return action(ct) or 0


def mend(options: Globals, node: NodeConfig, ctid: int) -> None:
    """Mend what a killed command left, for commands that take no lock: it may have left the CT frozen.

    One look-up in the usual case.  What is said of it goes to stderr; nobody waits where the writer is at work still.
    """
    if not os.path.exists(f"{STATE}/journal/{ctid}"):
        return
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        os.dup2(2, 1)
        locked(options, node, ctid, lambda ct: None)
    finally:
        os._exit(0)
