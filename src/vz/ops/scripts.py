"""Action scripts: the admin's own programs around mount, start, stop and create.

``vps.*`` run for every CT, ``CTID.*`` for one, both on the node except ``CTID.start`` and ``CTID.stop``, which run in
the CT.  Their environment is VEID, VE_CONFFILE, HOME, TERM and PATH; any status but 0 fails the operation (79).
"""

from __future__ import annotations

import _signal
import os

from vz.config.dists import SHELL, exports
from vz.config.paths import CONF_DIR
from vz.container.ct import Container
from vz.errors import ScriptFailed
from vz.kernel.process import TOOL_PATH, exit_status
from vz.ops.report import say

_ORDER = {
    "premount": ("vps", "ct"),
    "mount": ("vps", "ct"),
    "umount": ("ct", "vps"),
    "postumount": ("ct", "vps"),
}


def environment(ct: Container) -> dict[str, str]:
    return {"VEID": str(ct.ctid), "VE_CONFFILE": ct.conf_path, "HOME": "/", "TERM": "linux", "PATH": TOOL_PATH}


def run_host(ct: Container, action: str) -> None:
    """Run the node's scripts for *action* in their order; ScriptFailed (79) at the first that fails."""
    for scope in _ORDER[action]:
        path = f"{CONF_DIR}/{'vps' if scope == 'vps' else ct.ctid}.{action}"
        if os.path.lexists(path):
            run_script(path, ct)


def run_create(ct: Container) -> None:
    """Run vps.create at the end of a create."""
    path = f"{CONF_DIR}/vps.create"
    if os.path.lexists(path):
        run_script(path, ct)


def run_script(path: str, ct: Container) -> None:
    """Run one script of the node with our streams; ScriptFailed when it cannot be run or fails."""
    if not os.access(path, os.X_OK):
        raise ScriptFailed(f"Action script {path} is not an executable file: chmod +x it, or remove it")
    say(f"Running action script {path}", 1)
    try:
        # Python ignores SIGPIPE; a script with a pipe in it counts on the default
        pid = os.posix_spawn(path, [path], environment(ct), setsigdef=(_signal.SIGPIPE,))
    except OSError as exc:
        raise ScriptFailed(f"Action script {path} cannot be run: {exc.strerror}") from exc
    status = exit_status(os.waitpid(pid, 0)[1])
    if status:
        raise ScriptFailed(f"Action script {path} failed with status {status}")


def run_in_ct(ct: Container, action: str) -> None:
    """Run CTID.start or CTID.stop in the CT: its text is given to the CT's bash, or what it has for a shell."""
    path = f"{CONF_DIR}/{ct.ctid}.{action}"
    if not os.path.lexists(path):
        return
    from vz.kernel.files import read_bytes
    from vz.ops.exec import exec_status

    try:
        text = read_bytes(path)
    except OSError as exc:
        raise ScriptFailed(f"Action script {path} cannot be read: {exc.strerror}") from exc
    say(f"Running action script {path} in the container", 1)
    ct.forget_record()
    ours = exports({"VEID": str(ct.ctid), "VE_CONFFILE": ct.conf_path})
    status, printed = exec_status(ct, SHELL, ours + text, 300.0)
    if printed:
        os.write(1, printed)
    if status:
        raise ScriptFailed(f"Action script {path} failed in the container with status {status}")
