"""stop: ask init the way it wants to be asked, wait on its pidfd, kill after the limit, take everything down."""

from __future__ import annotations

import _signal
import os

from vz.container.ct import Container
from vz.errors import ExitCode, NotRunning, VzError
from vz.kernel.process import pidfd_send_signal, wait_pidfd
from vz.ops import mount, scripts
from vz.ops.join import open_init
from vz.ops.report import say, warn
from vz.ops.settle import clear
from vz.ops.undo import check_interrupt
from vz.resources import cgroups

DEFAULT_TIMEOUT_S = 120
KILL_TIMEOUT_S = 30
SIGRTMIN = 34
SYSTEMD_POWEROFF = SIGRTMIN + 4


def stop(ct: Container, *, fast: bool = False, skip_umount: bool = False) -> None:
    """Stop the CT; one that does not run is a message on stderr and success.

    Raises:
        ScriptFailed: the .stop script (79), the CT is left running.
        VzError: it cannot be killed (33), its root cannot be unmounted (51).
    """
    try:
        record, pidfd = open_init(ct)
    except NotRunning:
        warn("Unable to stop: container is not running")
        return
    try:
        scripts.run_in_ct(ct, "stop")
        cgroups.thaw(ct)
        if not fast:
            say("Stopping container ...")
        if fast or not shut_down(ct, record.init_pid, pidfd):
            say("Killing container ...")
            kill(ct, pidfd)
    finally:
        os.close(pidfd)
    clear(ct)
    say("Container was stopped")
    if not skip_umount:
        mount.umount_with_scripts(ct)
        say("Container is unmounted")


def shut_down(ct: Container, init_pid: int, pidfd: int) -> bool:
    """Ask init to halt; True when it ended within STOP_TIMEOUT."""
    timeout_s = float(ct.conf.stop_timeout_s or ct.node.stop_timeout_s or DEFAULT_TIMEOUT_S)
    try:
        ask_init(ct, init_pid, pidfd)
    except (OSError, VzError) as exc:
        warn(f"Unable to ask the container's init to halt: {exc}")
        return False
    waited = 0.0
    while waited < timeout_s:
        slice_s = min(1.0, timeout_s - waited)
        if wait_pidfd(pidfd, slice_s):
            return True
        check_interrupt()
        waited += slice_s
    return False


def ask_init(ct: Container, init_pid: int, pidfd: int) -> None:
    """Send what this kind of init takes for *halt*: a signal to systemd and busybox, ``halt`` for any other."""
    try:
        program = os.path.basename(os.readlink(f"/proc/{init_pid}/exe"))
    except OSError:
        program = ""
    if program == "systemd":
        pidfd_send_signal(pidfd, SYSTEMD_POWEROFF)
    elif program == "busybox":
        pidfd_send_signal(pidfd, _signal.SIGUSR2)
    else:
        from vz.kernel.process import exit_status
        from vz.ops.join import spawn_in_ct

        # in a child: this process must go on forking outside the CT's pid namespace
        helper = os.fork()
        if helper == 0:
            status = 1
            try:
                pid = spawn_in_ct(ct, pidfd, _exec_halt)
                status = exit_status(os.waitpid(pid, 0)[1])
            finally:
                os._exit(status & 0xFF)
        if exit_status(os.waitpid(helper, 0)[1]) == 127:
            raise VzError("it has no halt program")


def kill(ct: Container, pidfd: int) -> None:
    """Kill init and with it every process of the CT.

    Raises:
        VzError: it does not go (33): a process hangs in the kernel.
    """
    try:
        pidfd_send_signal(pidfd, _signal.SIGKILL)
    except ProcessLookupError:
        return
    if not wait_pidfd(pidfd, KILL_TIMEOUT_S):
        raise VzError("Unable to kill container: a process of it hangs in the kernel", ExitCode.STOP_ERROR)


def _exec_halt() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, 1 << 16)
    for path in ("/sbin/halt", "/usr/sbin/halt", "/bin/halt"):
        try:
            os.execve(
                path,
                ["halt"],
                {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "TERM": "linux"},
            )
        except FileNotFoundError:
            continue
    os._exit(127)
