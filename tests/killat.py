#!/usr/bin/python3
"""Run a command under ptrace(2) and strike at its Nth system call that changes something.

    killat.py REPORT N HOW COMMAND…     HOW: main, all, one, int, term, or the name of an errno; N 0 only counts

Counted are the calls of the command and of every process that it starts, on the node's side: what has exec'ed a
program of a CT is let go.  The call itself is not made (a signal of ``int`` and ``term`` comes beside it).  ``main``
kills the command, ``all`` its helpers too, ``one`` the helper that makes the call (the command's own are not counted
then); an errno lets the call fail (x86_64; only calls that make something are counted).
REPORT gets a line of JSON.  Nothing in the product knows of this.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long

SEIZE, SYSCALL, DETACH, LISTEN, GET_SYSCALL_INFO = 0x4206, 24, 17, 0x4208, 0x420E
GETREGS, SETREGS = 12, 13
OPTIONS = 1 | 2 | 4 | 8 | 16  # SYSGOOD, FORK, VFORK, CLONE, EXEC
EVENT_EXEC, EVENT_STOP = 4, 128
WALL = 0x40000000
PATH_FIRST, PATH_SECOND, FD_FIRST, OTHER = range(4)
# name: (x86_64, aarch64, where its path is)
CALLS = {
    "openat": (257, 56, PATH_SECOND), "open": (2, -1, PATH_FIRST), "creat": (85, -1, PATH_FIRST),
    "write": (1, 64, FD_FIRST), "pwrite64": (18, 68, FD_FIRST), "writev": (20, 66, FD_FIRST),
    "ftruncate": (77, 46, FD_FIRST), "sendto": (44, 206, OTHER), "sendmsg": (46, 211, OTHER),
    "mkdir": (83, -1, PATH_FIRST), "mkdirat": (258, 34, PATH_SECOND), "rmdir": (84, -1, PATH_FIRST),
    "unlink": (87, -1, PATH_FIRST), "unlinkat": (263, 35, PATH_SECOND), "rename": (82, -1, PATH_FIRST),
    "renameat": (264, 38, PATH_SECOND), "renameat2": (316, 276, PATH_SECOND), "link": (86, -1, PATH_FIRST),
    "linkat": (265, 37, PATH_SECOND), "symlink": (88, -1, PATH_FIRST), "symlinkat": (266, 36, PATH_FIRST),
    "mknod": (133, -1, PATH_FIRST), "mknodat": (259, 33, PATH_SECOND), "chmod": (90, -1, PATH_FIRST),
    "fchmod": (91, 52, FD_FIRST), "fchmodat": (268, 53, PATH_SECOND), "chown": (92, -1, PATH_FIRST),
    "fchown": (93, 55, FD_FIRST), "lchown": (94, -1, PATH_FIRST), "fchownat": (260, 54, PATH_SECOND),
    "fsync": (74, 82, FD_FIRST), "flock": (73, 32, FD_FIRST),
    "mount": (165, 40, PATH_SECOND), "umount2": (166, 39, PATH_FIRST), "pivot_root": (155, 41, PATH_FIRST),
    "move_mount": (429, 429, OTHER), "fsmount": (432, 432, OTHER), "mount_setattr": (442, 442, OTHER),
    "kill": (62, 129, OTHER), "pidfd_send_signal": (424, 424, OTHER), "bpf": (321, 280, OTHER),
    "clone": (56, 220, OTHER), "fork": (57, -1, OTHER), "vfork": (58, -1, OTHER), "clone3": (435, 435, OTHER),
    "execve": (59, 221, PATH_FIRST), "unshare": (272, 97, OTHER), "setns": (308, 268, OTHER),
    "sethostname": (170, 161, OTHER), "setresuid": (117, 147, OTHER), "exit_group": (231, 94, OTHER),
}  # fmt: skip
MAKING = (
    *("open", "creat", "write", "pwrite", "mkdir", "rename", "link", "symlink", "mknod", "chown", "fchown", "lchown"),
    *("mount", "move_mount", "fsmount", "bpf", "clone", "fork", "vfork", "execve", "unshare", "setns", "fsync"),
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
MACHINE = ("x86_64", "aarch64").index(os.uname().machine)
NAMES = {row[MACHINE]: name for name, row in CALLS.items() if row[MACHINE] >= 0}


def ptrace(request: int, pid: int, address: int = 0, data: object = 0) -> int:
    return int(
        libc.ptrace(request, pid, address, ctypes.cast(data, ctypes.c_void_p) if not isinstance(data, int) else data)
    )  # type: ignore[arg-type]


def text_at(pid: int, address: int) -> str:
    try:
        with open(f"/proc/{pid}/mem", "rb", 0) as memory:
            memory.seek(address)
            return memory.read(256).split(b"\0")[0].decode("utf-8", "replace")
    except (OSError, ValueError, OverflowError):
        return "?"


def descriptor(pid: int, fd: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return "?"


def changing(pid: int, main: int) -> str:
    """Return what the call at which *pid* stands would change, "" for nothing or for its end."""
    info = ctypes.create_string_buffer(88)
    if ptrace(GET_SYSCALL_INFO, pid, 88, info) <= 0 or info.raw[0] != 1:
        return ""
    nr, *args = struct.unpack_from("7Q", info.raw, 24)
    name = NAMES.get(nr, "")
    if not name:
        return ""
    where = CALLS[name][2]
    what = ""
    if name in ("open", "openat"):
        flags = args[1 if name == "open" else 2]
        if not flags & WRITING or flags & os.O_APPEND:
            return ""
    if where == FD_FIRST:
        what = descriptor(pid, args[0])
        if name == "write" and (what.endswith((".log", "/null")) or (pid == main and args[0] in (1, 2))):
            return ""
    elif where in (PATH_FIRST, PATH_SECOND):
        what = text_at(pid, args[where])
        if what == "/dev/null":
            return ""
    return f"{name}({what})" if what else name


def in_ct(pid: int) -> bool:
    """Tell whether *pid* lives in a pid namespace below ours: what it has exec'ed is the CT's."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            return any(line.startswith("NSpid:") and len(line.split()) > 2 for line in status)
    except OSError:
        return True


def set_call(pid: int, number: int | None = None, result: int | None = None) -> None:
    """Change the number of the call that *pid* is about to make, or the result of the one it has made (x86_64)."""
    regs = (ctypes.c_ulonglong * 27)()
    ptrace(GETREGS, pid, 0, regs)
    if number is not None:
        regs[15] = number & 0xFFFFFFFFFFFFFFFF
    if result is not None:
        regs[10] = result & 0xFFFFFFFFFFFFFFFF
    ptrace(SETREGS, pid, 0, regs)


def begin(argv: list[str]) -> int:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        try:
            os.execvp(argv[0], argv)
        finally:
            os._exit(127)
    os.close(reader)
    if ptrace(SEIZE, pid, 0, OPTIONS):
        raise OSError(ctypes.get_errno(), "ptrace")
    os.close(writer)
    return pid


def main(at: int, how: str, argv: list[str]) -> dict[str, object]:
    pid_main = begin(argv)
    tracees = {pid_main}
    seen: list[str] = []
    failing = 0
    report: dict[str, object] = {"struck": False, "call": "", "status": None}
    while True:
        try:
            pid, status = os.waitpid(-1, WALL)
        except ChildProcessError:
            break
        if not os.WIFSTOPPED(status):
            tracees.discard(pid)
            if pid == pid_main:
                report["status"] = os.waitstatus_to_exitcode(status)
                break
            continue
        tracees.add(pid)
        number, event = os.WSTOPSIG(status), status >> 16
        deliver = 0
        if event == EVENT_EXEC and in_ct(pid):
            tracees.discard(pid)
            ptrace(DETACH, pid)
            continue
        if event == EVENT_STOP and number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            ptrace(LISTEN, pid)
            continue
        if number == signal.SIGTRAP | 0x80:
            if failing == pid:  # the exit of the call that must fail
                set_call(pid, result=-getattr(errno, how))
                failing = 0
            call = changing(pid, pid_main)
            if (how == "one" and pid == pid_main and at) or (how.isupper() and not call.startswith(MAKING)):
                call = ""
            if call:
                who = "main" if pid == pid_main else open(f"/proc/{pid}/comm").read().strip()
                seen.append(f"{who}: {call}")
                if len(seen) == at:
                    report.update(struck=True, call=seen[-1])
                    if how in ("main", "all"):
                        for victim in [pid_main] if how == "main" else [pid_main, *tracees]:
                            os.kill(victim, signal.SIGKILL)
                        while os.waitpid(pid_main, WALL)[0] and os.path.exists(f"/proc/{pid_main}/exe"):
                            pass
                        report["status"] = -9
                        break
                    if how == "one":
                        os.kill(pid, signal.SIGKILL)
                    elif how in ("int", "term"):
                        os.kill(pid_main, signal.SIGINT if how == "int" else signal.SIGTERM)
                    else:
                        set_call(pid, number=-1)
                        failing = pid
        elif not event:
            deliver = number
        ptrace(SYSCALL, pid, 0, deliver)
    report["count"] = len(seen)
    report["calls"] = seen if at == 0 else []
    return report


if __name__ == "__main__":
    outcome = main(int(sys.argv[2]), sys.argv[3], sys.argv[4:])
    with open(sys.argv[1], "w") as out:
        json.dump(outcome, out)
    # what is left of the command's processes goes on alone when its tracer ends
    os._exit(0)
