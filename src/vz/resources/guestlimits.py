"""Beancounters that live in a CT's own namespaces: System V shared memory, TCP buffers, devpts and /dev/shm.

Written by a child that has joined the namespaces, through the host's /proc: the CT's has them read-only.
"""

from __future__ import annotations

import os

from vz.config.units import PAGE, UNLIMITED
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import mounts, namespaces
from vz.kernel.network import read_sysctl, write_sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

Limits = dict[str, tuple[int, int]]
TCP = {"tcpsndbuf": "net/ipv4/tcp_wmem", "tcprcvbuf": "net/ipv4/tcp_rmem"}
IN_NAMESPACES = frozenset((*TCP, "shmpages"))  # of a CT that is born, too; its mounts are made with theirs
ATTRS = IN_NAMESPACES | {"numpty"}
DEFAULT_TCP = {"tcpsndbuf": 4 << 20, "tcprcvbuf": 6 << 20}  # what a network namespace begins with
SHMALL_MOST = (1 << 63) - 1 - (1 << 24)  # the kernel's own "no limit"
TIMEOUT_S = 60.0


def shm_bytes(limits: Limits) -> int:
    """Return the size of the CT's /dev/shm and /run; 0: the kernel's default, half of the node's memory."""
    limit = limits.get("shmpages", (UNLIMITED, UNLIMITED))[1]
    return 0 if limit >= UNLIMITED else max(limit, 1) * PAGE


def apply(ct: Container, init_pid: int, limits: Limits, names: set[str], *, born: bool) -> None:
    """Set those of *names* to *limits* in the namespaces of *init_pid*; *born* is one that makes its mounts itself.

    Raises:
        VzError: the kernel refused (1).
    """
    steps: list[tuple[int, Callable[[], None]]] = []
    if "shmpages" in names:
        pages = min(limits["shmpages"][1], SHMALL_MOST)
        steps.append((namespaces.CLONE_NEWIPC, lambda: write_sysctl("kernel/shmall", str(pages))))
    if names & set(TCP):
        steps.append((namespaces.CLONE_NEWNET, lambda: _tcp(limits, names)))
    if not born and names & {"shmpages", "numpty"}:
        steps.append((namespaces.CLONE_NEWNS, lambda: _mounts(limits, names)))
    for flags, step in steps:
        _inside(init_pid, flags, step, sorted(names & ATTRS))


def _inside(init_pid: int, flags: int, step: Callable[[], None], names: list[str]) -> None:
    pidfd = os.pidfd_open(init_pid)

    def child() -> None:
        namespaces.setns(pidfd, namespaces.CLONE_NEWUSER | flags)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        step()

    try:
        namespaces.run_in_child(child, TIMEOUT_S)
    except OSError as exc:
        text = f"Unable to set {', '.join(names)} in the container: {exc.strerror}"
        raise VzError(text, ExitCode.SETUBC_ERROR) from exc
    finally:
        os.close(pidfd)


def _tcp(limits: Limits, names: set[str]) -> None:
    """No socket's buffer may grow beyond the limit of all; the first two numbers follow where they would be above."""
    for name, sysctl in TCP.items():
        if name not in names:
            continue
        words = [int(word) for word in read_sysctl(sysctl).split()]
        most = min(limits[name][1], 0x7FFFFFFF)
        if limits[name][1] >= UNLIMITED:
            most = max(DEFAULT_TCP[name], words[2])
        least = max(most, 4096)
        write_sysctl(sysctl, f"{min(words[0], least)} {min(words[1], least)} {least}")


def _mounts(limits: Limits, names: set[str]) -> None:
    """Give /dev/pts and /dev/shm their new sizes; EINVAL, ENOENT where the CT has something else there."""
    plain = mounts.MS_REMOUNT | mounts.MS_NOSUID
    if "numpty" in names:
        most = max(1, min(limits["numpty"][1], 1 << 20))
        # gid: that of the group tty, as the CT counts
        options = f"newinstance,ptmxmode=0666,mode=0620,gid=5,max={most}"
        mounts.mount("devpts", "/dev/pts", "devpts", plain | mounts.MS_NOEXEC, options)
    if "shmpages" in names:
        size = shm_bytes(limits)
        mounts.mount("tmpfs", "/dev/shm", "tmpfs", plain | mounts.MS_NODEV, f"size={size or '50%'},mode=1777")
