"""Getting into a running CT: its cgroups and all its namespaces at once, then what every CT process wears.

Order matters (security): cgroups by host paths first, one setns(2) for all namespaces, ids, session keyring; then the
birth of the process that the CT can see, capabilities, filter.  A process is in its pid namespace from birth, and
/proc/PID shows anybody there its mount table and network whatever its ids: so it is born by a helper that has
joined everything else before.  It is not dumpable until it has exec'ed a program of the CT, and holds no descriptor
and no directory of the host.
"""

from __future__ import annotations

import errno
import os

from vz.container.ct import Container
from vz.container.record import Record
from vz.errors import NotRunning, VzError
from vz.kernel import capabilities, inherited, libc, namespaces, process, seccomp
from vz.kernel.process import PR_SET_DUMPABLE, starttime
from vz.resources.cgroups import EXEC_LEAF, fork_into
from vz.resources.policy import dropped_capabilities, seccomp_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HELPER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EDIT_LIMIT_S = 60.0  # a file system that the CT serves itself may never answer
NOT_PID = namespaces.ALL_NAMESPACES & ~namespaces.CLONE_NEWPID


def open_init(ct: Container) -> tuple[Record, int]:
    """Return the record and a pidfd of the CT's init; NotRunning when it does not run.

    The start time is looked at after the pidfd is open: the pid cannot have been reused then.
    """
    record = ct.record()
    if record is not None and record.init_pid:
        try:
            pidfd = os.pidfd_open(record.init_pid)
        except ProcessLookupError:
            raise NotRunning from None
        if starttime(record.init_pid) == record.init_start:
            return record, pidfd
        os.close(pidfd)
    raise NotRunning


def spawn_in_ct(ct: Container, pidfd: int, run: Callable[[], None]) -> int:
    """Fork a process of the CT that calls *run* (which ends in execve); return its pid on the host, for waitpid(2).

    *run* finds itself with the CT's root, ids and filter, in a session of its own, and must close what it does not
    hand on.  What goes wrong in it before is said on our stderr, and status 126.

    Raises:
        VzError: the CT has as many processes as it may.
    """
    program = seccomp_program(ct.conf)
    dropped = dropped_capabilities(ct.conf.capability)
    news, teller = os.pipe()
    try:
        helper = fork_into(ct, EXEC_LEAF)
    except BlockingIOError as exc:  # EAGAIN
        raise VzError(
            "Unable to start a process in the container: its limit of processes (numproc) is reached"
        ) from exc
    if helper:
        os.close(teller)
        word = os.read(news, 16)
        os.close(news)
        if not word:
            return helper  # it failed, and says so
        os.waitpid(helper, 0)
        return int(word)
    try:
        record = ct.record()
        own = record.rlimits if record is not None else {}
        enter(pidfd, own)
        pid = process.clone(process.CLONE_PARENT)
        if pid:
            os.write(teller, str(pid).encode())
            os._exit(0)
        os.setsid()
        capabilities.drop_from_bounding_set(dropped)
        seccomp.install(program)
        inherited.lower(own)
        run()
    except BaseException as exc:
        what = getattr(exc, "strerror", None) or exc
        if getattr(exc, "errno", 0) == errno.EAGAIN:
            what = "its limit of processes (numproc) is reached"
        try:
            os.write(2, f"Unable to start a process in the container: {what}\n".encode("utf-8", "surrogateescape"))
        except OSError:
            pass
    os._exit(126)


def enter(pidfd: int, rlimits: dict[int, int]) -> None:
    """Take this process, forked into the CT's cgroups, into its namespaces and ids; its children are in the pid one."""
    libc.prctl(PR_SET_DUMPABLE, 0)
    os.setsid()  # away from the operator's terminal
    inherited.reset(rlimits)
    inherited.seal_imports()
    _join_clocks(pidfd)
    namespaces.setns(pidfd, namespaces.ALL_NAMESPACES)
    _become_root()
    namespaces.leave_keyring()
    os.umask(0o022)
    process.default_signals()
    os.chdir("/")


def _join_clocks(pidfd: int) -> None:
    """Join the CT's time namespace; a restored CT has one of its own, so that its clocks go on where they were."""
    try:
        namespaces.setns(pidfd, namespaces.CLONE_NEWTIME)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # a kernel without
            raise


def _become_root() -> None:
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0)  # a change of ids sets it to fs.suid_dumpable


def edit_in_ct(ct: Container, pidfd: int, function: Callable[[], bytes | None]) -> bytes:
    """Run *function* in a child that has the running CT's root and ids; for edits of its files."""

    def inside() -> bytes | None:
        libc.prctl(PR_SET_DUMPABLE, 0)
        inherited.seal_imports()
        namespaces.setns(pidfd, NOT_PID & ~namespaces.CLONE_NEWCGROUP)
        _become_root()
        os.chdir("/")
        return function()

    return namespaces.run_in_child(inside, EDIT_LIMIT_S)


def edit_in_root(ct: Container, function: Callable[[], bytes | None]) -> bytes:
    """Run *function* in a child whose root is the mounted VE_ROOT of a stopped CT, with the CT's ids."""
    from vz.kernel import mounts

    userns_fd = namespaces.userns(*ct.idmap)

    def inside() -> bytes | None:
        libc.prctl(PR_SET_DUMPABLE, 0)
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        os.chdir(ct.root)
        _minimal_dev()
        libc.pivot_root(".", ".")
        mounts.umount(".", mounts.MNT_DETACH)
        os.chdir("/")
        inherited.seal_imports()
        namespaces.setns(userns_fd, namespaces.CLONE_NEWUSER)
        _become_root()
        return function()

    return namespaces.run_in_child(inside)


def _minimal_dev() -> None:
    """Give the root below the working directory a /dev that programs can start with, in this mount namespace alone."""
    from vz.kernel import mounts

    if os.path.islink("dev") or not os.path.isdir("dev"):
        return
    mounts.mount("tmpfs", "./dev", "tmpfs", mounts.MS_NOSUID | mounts.MS_NOEXEC, "mode=755,size=64k")
    for name in ("null", "zero", "random", "urandom"):
        os.close(os.open(f"dev/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        mounts.mount(f"/dev/{name}", f"./dev/{name}", None, mounts.MS_BIND)
