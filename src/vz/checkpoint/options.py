"""What criu(8) must be told about a CT, derived from its run record and from nothing else."""

from __future__ import annotations

import os

from vz.container.record import Record

COMMON = ("-v4", "--tcp-established", "--file-locks", "--manage-cgroups=soft")


def dump_options(record: Record, images: str) -> list[str]:
    """Return the arguments of ``criu dump`` for the running CT of *record* into the directory *images*."""
    argv = ["dump", "-t", str(record.init_pid), "-D", images, "-o", "dump.log", *COMMON]
    argv += ["--link-remap", "--ghost-limit", "64M", "--network-lock", "skip"]
    for item in record.externals:
        argv += ["--external", f"mnt[{item.target}]:{item.key}"]
    return argv


def restore_options(record: Record, images: str, pid_file: str) -> list[str]:
    """Return the arguments of ``criu restore`` that bring the CT of *record* back below its mounted root."""
    argv = ["restore", "-d", "-D", images, "-o", "restore.log", *COMMON, "--pidfile", pid_file, "--root", record.root]
    for item in record.externals:
        argv += ["--external", f"mnt[{item.key}]:{item.source}"]
    for outside, inside in record.netifs:
        argv += ["--external", f"veth[{inside}]:{outside}"]
    return argv


def criu_program() -> str:
    """Return our own criu: beside an installed tree, or in the working tree's prefix; else the one on PATH."""
    here = os.path.dirname(os.path.realpath(__file__))
    for path in (f"{here}/../../../../libexec/vz/criu/sbin/criu", f"{here}/../../../.prefix/criu/sbin/criu"):
        if os.access(path, os.X_OK):
            return os.path.normpath(path)
    return "criu"
