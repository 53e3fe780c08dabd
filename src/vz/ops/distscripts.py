"""The admin's distribution scripts, run in place of what is built in; see config/dists.py and vzctl(8).

In the CT they are run by its own shell as any exec is, with its namespaces, limits and filter.  POST_CREATE runs on
the node, but as root of the CT's user namespace: a script that is led astray by a template's links harms nobody else.
"""

from __future__ import annotations

import os
import time

from vz.config import dists
from vz.container.ct import Container, printable
from vz.errors import ExitCode, VzError
from vz.ops.report import say, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

# init needs no preparation, consoles are seen to by the built-in family, quota inside a CT is an issue of its own
_NEVER_RUN = ("PRE_START", "SET_CONSOLE", "SET_UGID_QUOTA")


def load(ct: Container) -> dists.Dist:
    """Return the CT's distribution file; VzError (107)."""
    dist = dists.lookup(ct.conf.ostemplate)
    if dist.warning:
        warn(dist.warning)
    for action in _NEVER_RUN:
        if action in dist.scripts:
            warn(f"WARNING: {dist.path}: {action} is not run: there is nothing left for it to do")
    return dist


def at_start(ct: Container) -> None:
    """Run what the distribution file names for a CT that has just been started; what is built in ran before init."""
    dist = dists.lookup(ct.conf.ostemplate)
    if not dist.scripts:
        return
    from vz.ops.guestfiles import resolver  # which builds on this module

    conf = ct.conf
    for action, wanted in (
        ("ADD_IP", True),  # without an address it enables networking, or takes old addresses away
        ("SET_HOSTNAME", conf.hostname),
        ("SET_DNS", any(resolver(ct))),
    ):
        if wanted:
            run(ct, dist, action, "starting")


def at_set(ct: Container, attrs: Collection[str], before: list[str]) -> None:
    """Run what the distribution file names for *attrs* that changed on a running CT; *before*: its addresses."""
    dist = dists.lookup(ct.conf.ostemplate)
    if not dist.scripts:
        return
    old, new = ([address.partition("/")[0] for address in addresses] for addresses in (before, ct.conf.ip_addr or []))
    gone = [address for address in old if address not in new]
    fresh = [address for address in new if address not in old]
    if "ip_addr" in attrs and gone:
        everything = {} if new else {"IPDELALL": "yes"}
        run(ct, dist, "DEL_IP", "running", {"IP_ADDR": " ".join(gone), **everything})
    if "ip_addr" in attrs and fresh:
        run(ct, dist, "ADD_IP", "running", {"IP_ADDR": " ".join(fresh)})
    if "hostname" in attrs:
        run(ct, dist, "SET_HOSTNAME", "running")
    if "nameserver" in attrs or "searchdomain" in attrs:
        run(ct, dist, "SET_DNS", "running")


def set_password(ct: Container, user: str, password: str) -> bool:
    """Let SET_USERPASS set a password in a running CT; False when the distribution file names no such script."""
    dist = dists.lookup(ct.conf.ostemplate)
    return run(ct, dist, "SET_USERPASS", "running", {"USERPW": f"{user}:{password}"})


def environment(ct: Container, action: str, state: str, changes: dict[str, str] | None = None) -> dict[str, str]:
    """Return what the script of *action* finds in its environment.

    *state* is what the CT is doing; *changes* replace what the configuration says (addresses to delete, a password).
    """
    conf = ct.conf
    addresses = " ".join(address.partition("/")[0] for address in conf.ip_addr or [])
    found = {"VEID": str(ct.ctid), "VE_STATE": state}
    if action in ("ADD_IP", "DEL_IP"):
        found["IP_ADDR"] = addresses
        if ct.node.ipv6:
            found["IPV6"] = "yes"
    elif action == "SET_HOSTNAME":
        found["HOSTNM"] = conf.hostname or ""
        found["IP_ADDR"] = addresses.partition(" ")[0]
    elif action == "SET_DNS":
        from vz.ops.guestfiles import resolver

        found["NAMESERVER"], found["SEARCHDOMAIN"] = map(" ".join, resolver(ct))
    found.update(changes or {})
    return found


def run(ct: Container, dist: dists.Dist, action: str, state: str, changes: dict[str, str] | None = None) -> bool:
    """Run the script of *action* in the running CT; False when the distribution file names none.

    Raises:
        VzError: 108: it is missing; 15: it took more than 300 s; the action's own status: it failed.
    """
    if action not in dist.scripts:
        return False
    from vz.ops.exec import exec_status

    say(f"Running distribution script {_path(dist, action)} in the container", 1)
    text = dists.exports(environment(ct, action, state, changes)) + dist.script_text(action)
    began = time.monotonic()
    status, printed = exec_status(ct, dists.SHELL, text, float(dists.LIMIT_S))
    _finish(dist, action, status, printed, time.monotonic() - began >= dists.LIMIT_S)
    return True


def run_post_create(ct: Container) -> None:
    """Run POST_CREATE, where the distribution file names one, for the new CT, whose root is mounted: VE_ROOT.

    Raises:
        VzError: as run(), and 107.
    """
    dist = load(ct)
    if "POST_CREATE" not in dist.scripts:
        return
    from vz.kernel import mounts, namespaces
    from vz.kernel.process import TOOL_PATH, spawn

    script = dist.script_text("POST_CREATE")
    userns_fd = namespaces.userns(*ct.idmap)

    def child() -> bytes:
        # /vz/root is for the node's root alone; here the CT's root is at /mnt
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        mounts.mount(ct.root, "/mnt", None, mounts.MS_BIND)
        namespaces.setns(userns_fd, namespaces.CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.chdir("/mnt")
        env = {"VEID": str(ct.ctid), "VE_ROOT": "/mnt", "HOME": "/", "TERM": "linux", "PATH": TOOL_PATH}
        result = spawn(["/bin/bash", "-s"], stdin=script, env=env, timeout_s=float(dists.LIMIT_S))
        return f"{result.status} ".encode() + result.stdout + result.stderr

    try:
        head, _, printed = namespaces.run_in_child(child).partition(b" ")
    except OSError as exc:
        raise VzError(f"Unable to run {_path(dist, 'POST_CREATE')}: {exc.strerror}", ExitCode.FS_NEW_VE_PRVT) from exc
    status = int(head)
    _finish(dist, "POST_CREATE", status, printed, status == -9)


def _finish(dist: dists.Dist, action: str, status: int, printed: bytes, timed_out: bool) -> None:
    for line in printed[:65536].decode("utf-8", "surrogateescape").splitlines():
        say(printable(line))
    path = _path(dist, action)
    if timed_out:
        raise VzError(f"Distribution script {path} took more than {dists.LIMIT_S} s", ExitCode.EXEC_TIMEOUT)
    if status:
        raise VzError(f"Distribution script {path} failed with status {status}", dists.ACTIONS[action])


def _path(dist: dists.Dist, action: str) -> str:
    return f"{dists.SCRIPTS_DIR}/{dist.scripts[action]}"
