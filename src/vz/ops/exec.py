"""Running a command in a running CT: ``exec``, ``exec2``, ``exec3``.

The operator's descriptors never get into the CT: its three streams are pipes of ours, see relay.py.
"""

from __future__ import annotations

import _signal
import errno
import os

from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import handover, process
from vz.kernel.process import exit_status
from vz.ops.join import HELPER_PATH, open_init, spawn_in_ct
from vz.ops.relay import Relay

ENV = {"HOME": "/", "TERM": "linux", "PATH": HELPER_PATH}
NO_SHELL = 127


def shell_argv(words: list[str]) -> list[list[str]]:
    """Return the shells to try for *words* as vzctl joins them: single blanks, an empty word becomes ''.

    With ``-`` as the first word they read standard input.
    """
    if words[0] == "-":
        return [["/bin/bash"], ["/bin/sh"]]
    line = " ".join(word if word else "''" for word in words)
    return [["/bin/bash", "-c", line], ["/bin/sh", "-c", line]]


def exec_command(ct: Container, candidates: list[list[str]], *, use_path: bool = False) -> int:
    """Run the first of *candidates* that the CT has and return its exit status, or minus its signal.

    With *use_path* the program is looked for in the CT's PATH (exec3).

    Raises:
        NotRunning: the CT does not run (31).
        VzError: the CT has none of the programs (47).
    """
    record, pidfd = open_init(ct)
    pipes = [os.pipe() for _ in range(4)]  # stdin, stdout, stderr, and the news of a failed execve
    for end in (pipes[0][0], pipes[1][1], pipes[2][1]):
        os.fchown(end, record.idmap_base, record.idmap_base)  # or nobody inside could open /dev/stdout

    def run() -> None:
        os.dup2(pipes[0][0], 0)
        os.dup2(pipes[1][1], 1)
        os.dup2(pipes[2][1], 2)
        os.dup2(pipes[3][1], 3)
        process.close_from(4)
        tries = [(argv[0], argv) for argv in candidates]
        if use_path and "/" not in candidates[0][0]:
            tries = [(f"{folder}/{candidates[0][0]}", candidates[0]) for folder in HELPER_PATH.split(":")]
        news = errno.ENOENT
        for path, argv in tries:
            try:
                os.stat(path)
                handover.execute(path, argv, ENV)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                news = exc.errno or errno.EPERM
                break
        os.write(3, bytes([news & 0xFF]))
        os._exit(NO_SHELL)

    pid = spawn_in_ct(ct, pidfd, run)
    for fd in (pipes[0][0], pipes[1][1], pipes[2][1], pipes[3][1], pidfd):
        os.close(fd)
    status = Relay(pid, pipes[0][1], pipes[1][0], pipes[2][0]).run()
    os.set_blocking(pipes[3][0], False)  # somebody of the CT may have got hold of the other end
    try:
        news = os.read(pipes[3][0], 1)
    except BlockingIOError:
        news = b""
    if news:
        what = os.strerror(news[0])
        raise VzError(f"Unable to start {candidates[-1][0]} in the container: {what}", ExitCode.FS_BAD_TMPL)
    return status


def exec_status(ct: Container, argv: list[str], stdin: bytes = b"", timeout_s: float = 30.0) -> tuple[int, bytes]:
    """Run *argv* in the CT for our own ends and return (status, what it printed); in a child, so that this process
    goes on forking outside the CT.  A signal, or no such program, is status 127."""
    from vz.kernel.namespaces import ChildFailed, run_in_child

    def child() -> bytes:
        _, pidfd = open_init(ct)
        files = [os.memfd_create("stdin"), os.memfd_create("stdout")]
        os.write(files[0], stdin)
        os.lseek(files[0], 0, os.SEEK_SET)

        def run() -> None:
            os.dup2(files[0], 0)
            os.dup2(files[1], 1)
            os.dup2(files[1], 2)
            process.close_from(3)
            try:
                handover.execute(argv[0], argv, ENV)
            except OSError:
                os._exit(NO_SHELL)

        pid = spawn_in_ct(ct, pidfd, run)
        if not process.wait_pidfd(os.pidfd_open(pid), timeout_s):
            os.kill(pid, _signal.SIGKILL)
        status = exit_status(os.waitpid(pid, 0)[1])
        return bytes([status if 0 <= status < 128 else NO_SHELL]) + os.pread(files[1], 1 << 20, 0)

    try:
        reply = run_in_child(child)
    except ChildFailed as exc:
        raise VzError(str(exc), exc.code) from exc
    return reply[0], reply[1:]
