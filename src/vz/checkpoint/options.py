"""What criu(8) must be told about a CT, derived from its run record and from nothing else."""

from __future__ import annotations

import os

from vz.checkpoint.criu import PASSED, hook_program
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


def pre_dump_options(record: Record, images: str, *, freezer: str, previous: str) -> list[str]:
    """Return the arguments of a ``criu pre-dump`` that sends memory through its socket and lets the CT run on."""
    argv = ["pre-dump", "-t", str(record.init_pid), "-D", images, "-W", images, *COMMON]
    return [*argv, "--freeze-cgroup", freezer, "--track-mem", *page_server_options(previous)]


def page_server_options(previous: str) -> list[str]:
    """Return what sends a dump's pages through the socket; *previous*: only what changed since, a path from ``-D``."""
    argv = ["--page-server", "--ps-socket", str(PASSED)]
    return [*argv, "--track-mem", "--prev-images-dir", previous] if previous else argv


def lazy_dump_options() -> list[str]:
    """Return what keeps the pages of a dump here until they are asked for through the socket."""
    return ["--lazy-pages", "--ps-socket", str(PASSED)]


def page_server(images: str, work: str, previous: str) -> list[str]:
    """Return the arguments of the criu that writes what comes through its socket to *images*."""
    argv = ["page-server", "-D", images, "-W", work, "-v4", "--no-default-config", "--ps-socket", str(PASSED)]
    return [*argv, "--prev-images-dir", previous] if previous else argv


def lazy_pages(images: str, work: str) -> list[str]:
    """Return the arguments of the criu that fetches pages through its socket for the tasks that are restored."""
    argv = ["lazy-pages", "-D", images, "-W", work, "-v4", "--no-default-config"]
    return [*argv, "--page-server", "--ps-socket", str(PASSED)]


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
