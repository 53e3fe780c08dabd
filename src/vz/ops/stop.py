"""stop: ask init the way it wants to be asked, wait on its pidfd, kill after the limit, take everything down."""

from __future__ import annotations

import _signal
import os

from vz.config.paths import REBOOT_MARKS
from vz.container.ct import Container
from vz.errors import ExitCode, NotRunning, VzError
from vz.kernel import handover
from vz.kernel.files import read_text, remove
from vz.kernel.process import close_from, pidfd_send_signal, wait_pidfd
from vz.ops import journal, mount, scripts
from vz.ops.join import HELPER_PATH, open_init, spawn_in_ct
from vz.ops.relay import Child
from vz.ops.report import say, warn
from vz.ops.settle import clear, forget_run
from vz.ops.undo import check_interrupt
from vz.resources import cgroups

DEFAULT_TIMEOUT_S = 120
KILL_TIMEOUT_S = 30
SESSION_TIMEOUT_S = 2.0
NO_PROGRAM = 127
SIGRTMIN = 34
SYSTEMD_POWEROFF = SIGRTMIN + 4


def stop(ct: Container, *, fast: bool = False, skip_umount: bool = False, operation: str = "stop") -> None:
    """Stop the CT; one that does not run is a message on stderr and success.

    The first part of a restart (*operation*) leaves its note in the journal.

    Raises:
        ScriptFailed: the .stop script (79), the CT is left running.
        VzError: it cannot be killed (33), its root cannot be unmounted (51).
    """
    remove(f"{REBOOT_MARKS}/{ct.ctid}")  # what is stopped now is not to be started again
    try:
        record, pidfd = open_init(ct)
    except NotRunning:
        warn("Unable to stop: container is not running")
        return
    try:
        scripts.run_in_ct(ct, "stop")
        cgroups.thaw(ct)
        facts = {"umount": "no" if skip_umount else "yes", "root": record.root}
        if not fast:
            journal.note(ct.ctid, operation, **facts)
            say("Stopping container ...")
        if fast or not shut_down(ct, record.init_pid, pidfd):
            journal.note(ct.ctid, operation, kill="yes", **facts)
            say("Killing container ...")
            kill(ct, pidfd)
        clear(ct)
        forget_run(ct)
        say("Container was stopped")
        if not skip_umount:
            mount.umount_with_scripts(ct)
    except BaseException:
        journal.end(ct.ctid)
        raise
    finally:
        os.close(pidfd)
    if operation == "stop":
        journal.end(ct.ctid)


def finish(ct: Container) -> None:
    """Bring the stop of a CT to its end whose init may have been asked to halt, which nobody can take back.

    Raises:
        VzError: it cannot be killed (33).
    """
    try:
        record, pidfd = open_init(ct)
    except NotRunning:
        return
    try:
        if not shut_down(ct, record.init_pid, pidfd):
            kill(ct, pidfd)
        clear(ct)
        forget_run(ct)
    finally:
        os.close(pidfd)


def shut_down(ct: Container, init_pid: int, pidfd: int) -> bool:
    """Ask init to halt; True when it ended within STOP_TIMEOUT."""
    timeout_s = float(ct.conf.stop_timeout_s or ct.node.stop_timeout_s or DEFAULT_TIMEOUT_S)
    try:
        halting = ask_init(ct, init_pid, pidfd)
    except (OSError, VzError) as exc:
        warn(f"Unable to ask the container's init to halt: {exc}")
        return False
    waited = 0.0
    slice_s = 0.25
    while waited < timeout_s:
        if wait_pidfd(pidfd, min(slice_s, timeout_s - waited)):
            return True
        check_interrupt()
        waited += slice_s
        slice_s = 1.0
        if halting is not None and halting.ended and halting.status == NO_PROGRAM:  # it may also never end
            warn("Unable to ask the container's init to halt: it has no halt program")
            return False
    return False


def ask_init(ct: Container, init_pid: int, pidfd: int) -> Child | None:
    """Send what this kind of init takes for *halt*: a signal to systemd and busybox, ``halt`` for any other.

    Returns that ``halt``, our child.
    """
    try:
        program = os.path.basename(os.readlink(f"/proc/{init_pid}/exe"))
    except OSError:
        program = ""
    if program == "systemd":
        pidfd_send_signal(pidfd, SYSTEMD_POWEROFF)
    elif program == "busybox":
        pidfd_send_signal(pidfd, _signal.SIGUSR2)
    else:
        return Child(spawn_in_ct(ct, pidfd, _exec_halt))
    return None


def kill(ct: Container, pidfd: int) -> None:
    """Kill init and with it every process of the CT.

    Raises:
        VzError: it does not go (33): a process hangs in the kernel.
    """
    try:
        pidfd_send_signal(pidfd, _signal.SIGKILL)
    except ProcessLookupError:
        return
    if wait_pidfd(pidfd, SESSION_TIMEOUT_S):
        return
    # The pid namespace lasts until its last dead process is reaped; an exec or enter that has been stopped (^Z) or
    # hangs does not do it.  Without that parent the node's init does.
    for number in (_signal.SIGCONT, _signal.SIGKILL):
        for session in _sessions_with_zombies(ct):
            _signal.pidfd_send_signal(session, number)
            os.close(session)
        if wait_pidfd(pidfd, SESSION_TIMEOUT_S):
            return
    if not wait_pidfd(pidfd, KILL_TIMEOUT_S):
        raise VzError("Unable to kill container: a process of it hangs in the kernel", ExitCode.STOP_ERROR)


def _sessions_with_zombies(ct: Container) -> list[int]:
    """Return a pidfd of each vzctl that has a dead process of the CT for a child."""
    base, count = ct.idmap
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        fields = _status(name) if name.isdigit() else {}
        if fields.get("State", "")[:1] != "Z" or not base <= int(fields["Uid"].split()[0]) < base + count:
            continue
        parent = int(fields["PPid"])
        if parent in found:
            continue
        try:
            pidfd = os.pidfd_open(parent)
        except OSError:
            continue
        if _status(str(parent)).get("Name") == "vzctl":
            found[parent] = pidfd
        else:
            os.close(pidfd)
    return list(found.values())


def _status(pid: str) -> dict[str, str]:
    try:
        text = read_text(f"/proc/{pid}/status")
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _exec_halt() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    close_from(3)
    for path in ("/sbin/halt", "/usr/sbin/halt", "/bin/halt"):
        if os.path.exists(path):
            handover.execute(path, ["halt"], {"PATH": HELPER_PATH, "HOME": "/", "TERM": "linux"})
    os._exit(NO_PROGRAM)
