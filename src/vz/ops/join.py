"""Getting into a running CT: its cgroups and all its namespaces at once, then what every CT process wears.

Order matters (security): cgroups by host paths first, one setns(2) for all namespaces, ids, session keyring,
capabilities, filter.  The joining process is not dumpable until it has exec'ed a program of the CT, and holds
no descriptor and no directory of the host.
"""

from __future__ import annotations

import os

from vz.container.ct import Container
from vz.container.record import Record
from vz.errors import NotRunning
from vz.kernel import capabilities, libc, namespaces, seccomp
from vz.kernel.process import PR_SET_DUMPABLE, default_signals, starttime
from vz.resources.cgroups import EXEC_LEAF, fork_into
from vz.resources.policy import dropped_capabilities, seccomp_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HELPER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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
    """Fork a process of the CT that calls *run* (which ends in execve); return its pid on the host.

    The caller's own children to come are in the CT's pid namespace from here on: it must not fork for other ends.
    """
    program = seccomp_program(ct.conf.features, ct.conf.netfilter)
    dropped = dropped_capabilities(ct.conf.capability)
    namespaces.setns(pidfd, namespaces.CLONE_NEWPID)
    pid = fork_into(ct, EXEC_LEAF)
    if pid:
        return pid
    try:
        enter(pidfd)
        capabilities.drop_from_bounding_set(dropped)
        seccomp.install(program)
        run()
    except BaseException as exc:
        try:
            os.write(2, f"{getattr(exc, 'strerror', None) or exc}\n".encode("utf-8", "surrogateescape"))
        except OSError:
            pass
    os._exit(126)


def enter(pidfd: int) -> None:
    """Take this process, forked into the CT's cgroups, into its namespaces and ids, in a session of its own."""
    libc.prctl(PR_SET_DUMPABLE, 0)
    os.setsid()
    namespaces.setns(pidfd, NOT_PID)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0)  # a change of ids sets it to fs.suid_dumpable
    try:
        libc.new_session_keyring()
    except OSError:
        pass  # EDQUOT or no keyrings: then there is none to inherit either
    os.umask(0o022)
    default_signals()
    os.chdir("/")


def edit_in_ct(ct: Container, pidfd: int, function: Callable[[], bytes | None]) -> bytes:
    """Run *function* in a child that has the running CT's root and ids; for edits of its files."""

    def inside() -> bytes | None:
        libc.prctl(PR_SET_DUMPABLE, 0)
        namespaces.setns(pidfd, NOT_PID & ~namespaces.CLONE_NEWCGROUP)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        libc.prctl(PR_SET_DUMPABLE, 0)
        os.chdir("/")
        return function()

    return namespaces.run_in_child(inside)


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
        namespaces.setns(userns_fd, namespaces.CLONE_NEWUSER)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        libc.prctl(PR_SET_DUMPABLE, 0)
        os.umask(0o022)
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
