"""Our part of ctypes, and the whole package where a later Python has changed what lies below it."""

from __future__ import annotations

import subprocess

import pytest

from testnode import TREE

SCRIPT = f"""
import sys
sys.path.insert(0, {str(TREE / "src")!r})
{{before}}
from vz.kernel import ffi
print("ctypes" in sys.modules)
buffer = ffi.create_string_buffer(b"a\\0b", 3)
print(buffer.raw, ffi.create_string_buffer(4).raw, ffi.create_string_buffer(b"xy").raw)
libc = ffi.CDLL(None, use_errno=True)
print(libc.close(ffi.c_int(-1)), ffi.get_errno(), libc.strlen(b"four"))
class Pair(ffi.Structure):
    _fields_ = [("a", ffi.c_uint32), ("b", ffi.c_uint64)]
print(ffi.sizeof(Pair), Pair(1, 1 << 63).b == 1 << 63, ffi.sizeof(ffi.c_size_t), (ffi.c_uint * 3)(7)[0])
libc.getenv.restype = ffi.c_char_p
print(libc.getenv(b"HERE"), ffi.PyDLL(None).getpid() > 1)
"""
EXPECTED = [
    r"b'a\x00b' b'\x00\x00\x00\x00' b'xy\x00'",
    "-1 9 4",
    "16 True 8 7",
    "b'yes' True",
]


@pytest.mark.parametrize(
    ("before", "whole"), [("", False), ("import _ctypes; del _ctypes.dlopen", True), ("import ctypes", True)]
)
def test_the_calls_that_wrappers_make(before: str, whole: bool) -> None:
    argv = ["/usr/bin/python3", "-I", "-S", "-B", "-c", SCRIPT.format(before=before)]
    if "del" in before:  # the package needs it too: it is loaded first
        argv[-1] = SCRIPT.format(before="import ctypes; " + before)
    done = subprocess.run(argv, capture_output=True, text=True, env={"HERE": "yes"})
    assert done.stderr == ""
    first, *rest = done.stdout.splitlines()
    assert (first, rest) == (str(whole), EXPECTED)
