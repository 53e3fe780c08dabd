"""BPF assembled by hand: bpf(2) itself, and the device filter of a cgroup2 directory.

It works on a cgroup2 tree without controllers too, so one filter serves both cgroup versions.
"""

from __future__ import annotations

import os
import struct

from . import ffi
from .libc import _NR_BPF, check, nr, syscall

BPF_PROG_LOAD, LOAD_TRIES = 5, 5
BPF_PROG_ATTACH = 8
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2
BPF_F_REPLACE = 4
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16

DEV_BLOCK, DEV_CHAR = 1, 2
ACC_MKNOD, ACC_READ, ACC_WRITE = 1, 2, 4

_LDX_W, _JNE_K, _JNE_X, _MOV_K, _AND_K, _RSH_K, _EXIT, _MOV_X, _JEQ_K = (
    0x61,
    0x55,
    0x5D,
    0xB7,
    0x57,
    0x77,
    0x95,
    0xBF,
    0x15,
)


class DeviceRule:
    """Allow *access* (ACC_… bits) to devices of *kind* with *major*, and *minor* unless it is None."""

    __slots__ = ("access", "kind", "major", "minor")

    def __init__(self, kind: int, major: int, minor: int | None, access: int) -> None:
        self.kind = kind
        self.major = major
        self.minor = minor
        self.access = access


def device_program(rules: list[DeviceRule]) -> bytes:
    """Return the instructions of a filter that allows what one of *rules* allows whole, and refuses the rest.

    The context is {u32 access_type, major, minor}; access_type is the kind in its low 16 bits, the access above.
    """
    code = [insn(_LDX_W, 2, 1, 0, 0), insn(_LDX_W, 4, 1, 4, 0), insn(_LDX_W, 5, 1, 8, 0)]
    code += [insn(_MOV_X, 3, 2), insn(_RSH_K, 3, 0, 0, 16), insn(_AND_K, 2, 0, 0, 0xFFFF)]
    for rule in rules:
        body = [insn(_MOV_X, 6, 3), insn(_AND_K, 6, 0, 0, rule.access), insn(_JNE_X, 6, 3, 2)]
        body += [insn(_MOV_K, 0, 0, 0, 1), insn(_EXIT)]
        if rule.minor is not None:
            body.insert(0, insn(_JNE_K, 5, 0, len(body), rule.minor))
        body.insert(0, insn(_JNE_K, 4, 0, len(body), rule.major))
        body.insert(0, insn(_JNE_K, 2, 0, len(body), rule.kind))
        code += body
    code += [insn(_MOV_K, 0, 0, 0, 0), insn(_EXIT)]
    return b"".join(code)


def load(program: bytes, name: str = "vz_devices", kind: int = BPF_PROG_TYPE_CGROUP_DEVICE, where: int = 0) -> int:
    """Load *program*, of type *kind* for attach type *where*, and return its descriptor.

    Raises:
        OSError: EPERM: no CAP_BPF, ENOSYS: no bpf(2).
    """
    text = ffi.create_string_buffer(program, len(program))
    licence = ffi.create_string_buffer(b"GPL")
    attr = struct.pack(
        "IIQQIIQII16sII",
        kind,
        len(program) // 8,
        ffi.addressof(text),
        ffi.addressof(licence),
        *(0, 0, 0, 0, 0),
        name.encode()[:15],
        0,
        where,
    )
    for _ in range(LOAD_TRIES - 1):
        try:
            return call(BPF_PROG_LOAD, attr, "BPF_PROG_LOAD")
        except BlockingIOError:
            continue  # a signal came while the kernel looked through the program
    return call(BPF_PROG_LOAD, attr, "BPF_PROG_LOAD")


def attach(program_fd: int, cgroup: str) -> None:
    """Make the filter the only device filter of *cgroup*: added when there is none, else put in the old one's place
    in one step, so that there is never a moment without."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old = _attached(directory)
        flags = BPF_F_ALLOW_MULTI | (BPF_F_REPLACE if old >= 0 else 0)
        attr = struct.pack("IIIII", directory, program_fd, BPF_CGROUP_DEVICE, flags, max(old, 0))
        call(BPF_PROG_ATTACH, attr, "BPF_PROG_ATTACH")
        if old >= 0:
            os.close(old)
    finally:
        os.close(directory)


def _attached(directory: int) -> int:
    """Return a descriptor of the directory's own device filter, -1 when it has none."""
    ids = attached_ids(directory, BPF_CGROUP_DEVICE)
    if not ids:
        return -1
    return call(BPF_PROG_GET_FD_BY_ID, struct.pack("III", ids[0], 0, 0), "BPF_PROG_GET_FD_BY_ID")


def call(command: int, attr: bytes, name: str) -> int:
    """bpf(2) with the union *attr*; *name* is the command's, for the error."""
    buffer = ffi.create_string_buffer(attr, len(attr))
    return check(syscall(nr(_NR_BPF), command, buffer, len(attr)), name)


def attached_ids(directory: int, where: int) -> list[int]:
    """Return the ids of the programs that the cgroup open as *directory* itself has for attach type *where*."""
    ids = (ffi.c_uint32 * 8)()
    attr = struct.pack("IIIIQII", directory, where, 0, 0, ffi.addressof(ids), 8, 0)
    buffer = ffi.create_string_buffer(attr, len(attr))
    check(syscall(nr(_NR_BPF), BPF_PROG_QUERY, buffer, len(attr)), "BPF_PROG_QUERY")
    return [int(number) for number in ids[: struct.unpack_from("I", buffer.raw, 24)[0]]]


def insn(op: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """Return one instruction."""
    return struct.pack("<BBhi", op, (src << 4) | dst, off, imm)
