"""Running a command in a running CT: ``exec``, ``exec2``, ``exec3``.

The operator's descriptors never get into the CT: its three streams are pipes of ours, relayed by splice(2) or
read and write.  One fork: this process only takes the CT's pid namespace for its children.
"""

from __future__ import annotations

import _signal
import errno
import os
import select

from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel.process import exit_status
from vz.ops.join import HELPER_PATH, open_init, spawn_in_ct

ENV = {"HOME": "/", "TERM": "linux", "PATH": HELPER_PATH}
CHUNK = 65536
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
    _, pidfd = open_init(ct)
    pipes = [os.pipe() for _ in range(4)]  # stdin, stdout, stderr, and the news of a failed execve

    def run() -> None:
        os.dup2(pipes[0][0], 0)
        os.dup2(pipes[1][1], 1)
        os.dup2(pipes[2][1], 2)
        os.dup2(pipes[3][1], 3)
        os.set_inheritable(3, False)
        os.closerange(4, 1 << 20)
        tries = [(argv[0], argv) for argv in candidates]
        if use_path and "/" not in candidates[0][0]:  # not os.execvpe: it imports, and the host's files are gone
            tries = [(f"{folder}/{candidates[0][0]}", candidates[0]) for folder in HELPER_PATH.split(":")]
        for path, argv in tries:
            try:
                os.execve(path, argv, ENV)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                os.write(3, str(exc.errno).encode())
                os._exit(NO_SHELL)
        os.write(3, str(errno.ENOENT).encode())
        os._exit(NO_SHELL)

    pid = spawn_in_ct(ct, pidfd, run)
    for fd in (pipes[0][0], pipes[1][1], pipes[2][1], pipes[3][1], pidfd):
        os.close(fd)
    status = _relay(pid, pipes[0][1], pipes[1][0], pipes[2][0])
    news = os.read(pipes[3][0], 16)
    if news:
        what = os.strerror(int(news)) if news.isdigit() else "cannot be started"
        raise VzError(f"Unable to start {candidates[-1][0]} in the container: {what}", ExitCode.FS_BAD_TMPL)
    return status


def _relay(pid: int, to_stdin: int, from_stdout: int, from_stderr: int) -> int:
    """Pass the three streams until the process ends, then what is left of them; return its status."""
    pidfd = os.pidfd_open(pid)
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, lambda signum, _: _forward(pid, signum))
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    sources = {from_stdout: 1, from_stderr: 2, 0: to_stdin}
    for fd in sources:
        poll.register(fd, select.POLLIN)
    ended = False
    while not ended:
        for fd, event in poll.poll():
            if fd == pidfd:
                ended = True
            elif event & select.POLLNVAL or not _pass(fd, sources[fd]):
                poll.unregister(fd)
                if fd == 0:
                    os.close(to_stdin)
    for fd in (from_stdout, from_stderr):  # what it wrote before it ended; its background children may go on
        os.set_blocking(fd, False)
        while _pass(fd, sources[fd]):
            pass
    return exit_status(os.waitpid(pid, 0)[1])


def _forward(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def _pass(source: int, target: int) -> bool:
    """Move one chunk; False at the end of the source, or when nobody reads the target."""
    try:
        moved = os.splice(source, target, CHUNK)
        return moved > 0
    except OSError as exc:
        if exc.errno == errno.EAGAIN or exc.errno == errno.EIO:
            return False
        if exc.errno == errno.EPIPE:
            return False
        if exc.errno != errno.EINVAL:  # EINVAL: neither is a pipe the kernel can splice here (a terminal, O_APPEND)
            raise
    try:
        data = os.read(source, CHUNK)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
        return bool(data)
    except OSError as exc:
        if exc.errno in (errno.EAGAIN, errno.EIO, errno.EPIPE):
            return False
        raise


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
            os.closerange(3, 1 << 16)
            try:
                os.execve(argv[0], argv, ENV)
            except OSError:
                os._exit(NO_SHELL)

        pid = spawn_in_ct(ct, pidfd, run)
        process = os.pidfd_open(pid)
        from vz.kernel.process import wait_pidfd

        if not wait_pidfd(process, timeout_s):
            os.kill(pid, _signal.SIGKILL)
        status = exit_status(os.waitpid(pid, 0)[1])
        return bytes([status if 0 <= status < 128 else NO_SHELL]) + os.pread(files[1], 1 << 20, 0)

    try:
        reply = run_in_child(child)
    except ChildFailed as exc:
        raise VzError(str(exc), exc.code) from exc
    return reply[0], reply[1:]
