"""execve(2) without leaving a way back to this interpreter.

A program of a CT may be ``#!/proc/self/exe``: the kernel then starts whatever the calling process is, which would be
the node's Python (CVE-2019-5736), with a loader that the CT chose.  So the last thing that this process becomes
before it is the CT's is a hundred bytes in a sealed memory file, see memfd_create(2): they make descriptor 3
close-on-exec, call execve(2), and write errno as one byte to descriptor 3 where that fails.  Without a descriptor 3
they end: such a ``/proc/self/exe`` has led back to them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from .libc import MACHINE

# argv: a name, the program's path, its own argv.  Made by as(1) from what stands beside it.
_CODE = {
    "x86_64": bytes.fromhex(
        "b848000000bf03000000be02000000ba010000000f05"  # fcntl(3, F_SETFD, FD_CLOEXEC)
        "85c07831"  # EBADF: this is the second time, go to the end
        "488b0c24488d54cc10"  # envp: rsp + 8 * argc + 16
        "488b7c2410488d742418b83b0000000f05"  # execve(argv[1], &argv[2], envp)
        "f7d850b801000000bf030000004889e6ba010000000f05"  # write(3, &errno, 1)
        "b8e7000000bf7f0000000f05"  # exit_group(127)
    ),
    "aarch64": bytes.fromhex(
        "280380d2600080d2410080d2220080d2010000d4"
        "e001f8b7"
        "e30340f9e26f238b42400091"
        "e00b40f9e1630091a81b80d2010000d4"
        "e00300cbe00f1ff8600080d2e1030091220080d2080880d2010000d4"
        "e00f80d2c80b80d2010000d4"
    ),
}
_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}
_BASE = 0x400000
_MFD_EXEC = 0x10  # Linux 6.3; before, and with vm.memfd_noexec=0, every memory file can be run
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def execute(path: str, argv: list[str], env: dict[str, str]) -> None:
    """Become the program *path* as execve(2) does; returns only by OSError, before the hand-over.

    What execve(2) itself answers comes as one byte, errno, over descriptor 3, and the process ends with status 127.

    Raises:
        OSError: EACCES: vm.memfd_noexec=2 forbids it.
    """
    fd = _image()
    if fd == 3:
        fd = os.dup(fd)
    try:
        fcntl.fcntl(3, fcntl.F_SETFD, 0)
    except OSError:
        os.dup2(fd, 3)  # there must be one: to write to it fails, as it should
    os.execve(fd, ["exec", path, *argv], env)


def program(machine: str) -> bytes:
    """Return the whole ELF file for *machine*; see elf(5)."""
    code = _CODE[machine]
    start = 64 + 2 * 56
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1",
        2,  # ET_EXEC
        _ELF_MACHINE[machine],
        1,
        _BASE + start,
        64,
        0,
        0,
        64,
        56,
        2,
        0,
        0,
        0,
    )
    size = start + len(code)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK: not executable
    return header + load + stack + code


def _image() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("vz-exec", flags | _MFD_EXEC)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise OSError(exc.errno, f"memfd_create: {exc.strerror}; vm.memfd_noexec must be 0 or 1") from None
        fd = os.memfd_create("vz-exec", flags)
    os.write(fd, program(MACHINE))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd
