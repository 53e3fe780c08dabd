"""runscript: a script of the node, run by the CT's own shell; a stopped CT is started for it without its init."""

from __future__ import annotations

import os

from vz.container.ct import Container, need_paths
from vz.container.record import SCRIPT
from vz.errors import ExitCode, VzError
from vz.kernel.files import read_bytes
from vz.kernel.process import starttime
from vz.ops import mount
from vz.ops.exec import exec_command
from vz.ops.launch import launch
from vz.ops.report import warn
from vz.ops.settle import clear, forget_run
from vz.ops.start import forget, make_plan, new_record
from vz.ops.undo import Undo
from vz.resources import cgroups


def runscript(ct: Container, path: str) -> int:
    """Run the script *path* in the CT and return its status.

    Raises:
        VzError: no such file (11), no private area (43).
    """
    try:
        text = read_bytes(path)
    except OSError as exc:
        raise VzError(f"Script {path}: {exc.strerror}", ExitCode.NOSCRIPT) from exc
    if ct.is_running():
        return _run(ct, text)
    need_paths(ct)
    if not os.path.isdir(ct.private):
        raise VzError(f"Container private area {ct.private} does not exist", ExitCode.FS_NOPRVT)
    mount.ensure_ids(ct)
    was_mounted = ct.is_mounted()
    record = new_record(ct, SCRIPT)
    if was_mounted:
        record.root = ""
    with Undo(warn) as undo:
        undo.add(forget, ct)
        record.save()
        if not was_mounted:
            mount.mount_with_scripts(ct)
            undo.add(mount.umount_with_scripts, ct)
        undo.add(cgroups.remove, ct)
        undo.add(cgroups.kill_all, ct)
        cgroups.create(ct)
        plan = make_plan(ct, record, False)
        # a first process that does nothing: it keeps the namespaces for as long as the script runs
        plan.argv = ["/bin/sh", "-c", "while :; do sleep 1000; done"]
        born = launch(plan, (record.idmap_base, record.idmap_count), lambda: cgroups.fork_into(ct))
        undo.add(born.abandon)
        record.init_pid = born.init_pid
        record.init_start = starttime(born.init_pid)
        record.save()
        born.release()
        ct.forget_record()
        status = _run(ct, text)
    clear(ct)
    if not was_mounted:
        mount.umount_with_scripts(ct, quiet=True)
    forget_run(ct)
    return status


def _run(ct: Container, text: bytes) -> int:
    """Give the script to the CT's shell, with our streams for all but its input."""
    helper = os.fork()  # exec_command takes this process's children into the CT's pid namespace
    if helper:
        return os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    status = ExitCode.SYSTEM_ERROR
    try:
        script = os.memfd_create("script")
        os.write(script, text)
        os.lseek(script, 0, os.SEEK_SET)
        os.dup2(script, 0)
        status = exec_command(ct, [["/bin/bash", "-s"], ["/bin/sh", "-s"]])
    except VzError as exc:
        warn(str(exc))
        status = exc.code
    finally:
        os._exit(status if status >= 0 else ExitCode.SYSTEM_ERROR)
    return status
