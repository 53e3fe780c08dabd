"""The C library through ctypes, and the one place that reads errno.

Wrappers prefer libc's function; ``syscall`` is for calls that Debian 12's libc has no function for.  Their
numbers are the same on all our architectures from 424 up; older ones come from the table below.
"""

from __future__ import annotations

import os

from . import ffi

libc = ffi.CDLL(None, use_errno=True)

MACHINE = os.uname().machine

_NR_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NR_BPF = {"x86_64": 321, "aarch64": 280}
_NR_KEYCTL = {"x86_64": 250, "aarch64": 219}


def check(result: int, call: str, path: str | None = None) -> int:
    """Return *result*; if it is -1, raise the OSError that errno names."""
    if result == -1:
        err = ffi.get_errno()
        raise OSError(err, f"{call}: {os.strerror(err)}", path)
    return result


def syscall(nr: int, *args: int | bytes | ffi.Array[ffi.c_char] | object | None) -> int:
    """Make system call *nr*; integers go as longs, as the kernel takes them.  Returns -1 with errno set."""
    longs = [ffi.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return int(libc.syscall(ffi.c_long(nr), *longs))


def nr(table: dict[str, int]) -> int:
    """Return this machine's number from *table*; ENOSYS where we have none."""
    try:
        return table[MACHINE]
    except KeyError:
        raise OSError(38, f"no system call numbers for {MACHINE}") from None


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2) with integer arguments."""
    result = libc.prctl(ffi.c_int(option), ffi.c_ulong(arg2), ffi.c_ulong(arg3), ffi.c_ulong(arg4), ffi.c_ulong(arg5))
    return check(int(result), "prctl")


def pivot_root(new_root: str, put_old: str) -> None:
    """Make *new_root* the root mount; see pivot_root(2)."""
    check(syscall(nr(_NR_PIVOT_ROOT), os.fsencode(new_root), os.fsencode(put_old)), "pivot_root", new_root)


def new_session_keyring() -> None:
    """Join a fresh anonymous session keyring; see keyctl(2), KEYCTL_JOIN_SESSION_KEYRING."""
    check(syscall(nr(_NR_KEYCTL), 1, None), "keyctl")
