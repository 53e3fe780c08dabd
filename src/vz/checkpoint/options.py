"""What criu(8) must be told about a CT, derived from its run record and from nothing else."""

from __future__ import annotations

import os

from vz.checkpoint.criu import hook_program
from vz.container.record import Record
from vz.kernel.process import which

# 64 MB: what an unlinked file may hold by default; more is asked for where a process has one
GHOST_LIMIT_BYTES = 64 << 20
COMMON = ("-v4", "--no-default-config", "--tcp-established", "--file-locks", "--manage-cgroups=soft")


def dump_options(
    record: Record,
    images: str,
    *,
    work: str = "",
    freezer: str = "",
    leave_running: bool = False,
    ghost_bytes: int = 0,
    skip_in_flight: bool = False,
) -> list[str]:
    """Return the arguments of ``criu dump`` for the running CT of *record* into the directory *images*.

    Logs go to *work*.  *freezer* is the cgroup that is frozen already and whose processes are to be dumped.
    """
    argv = ["dump", "-t", str(record.init_pid), "-D", images, "-W", work or images, *COMMON]
    limit = max(GHOST_LIMIT_BYTES, ghost_bytes)
    argv += ["--link-remap", "--ghost-limit", str(limit), "--network-lock", "skip"]
    if freezer:
        argv += ["--freeze-cgroup", freezer, "--action-script", hook_program()]
    if leave_running:
        argv.append("--leave-running")
    if skip_in_flight:
        argv.append("--skip-in-flight")
    for item in record.externals:
        argv += ["--external", f"mnt[{item.target}]:{item.key}"]
    return argv


def restore_options(record: Record, images: str, *, work: str = "", hooked: bool = True) -> list[str]:
    """Return the arguments of ``criu restore`` that bring the CT of *record* back below its mounted root."""
    argv = ["restore", "-d", "-D", images, "-W", work or images, *COMMON]
    argv += ["--root", record.root]
    if hooked:
        argv += ["--action-script", hook_program()]
    for item in record.externals:
        argv += ["--external", f"mnt[{item.key}]:{item.source}"]
    for outside, inside in record.netifs:
        argv += ["--external", f"veth[{inside}]:{outside}"]
    return argv


def criu_program() -> str:
    """Return our own criu: beside an installed tree, or in the working tree's prefix; else the one on PATH.

    Raises:
        FileNotFoundError: there is none.
    """
    here = os.path.dirname(os.path.realpath(__file__))
    for path in (f"{here}/../../../../libexec/vz/criu/sbin/criu", f"{here}/../../../.prefix/criu/sbin/criu"):
        if os.access(path, os.X_OK):
            return os.path.normpath(path)
    return which("criu")
