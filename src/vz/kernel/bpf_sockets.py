"""BPF programs on a cgroup2 directory that count and limit the Internet sockets of its processes; see bpf(2).

Three programs share two maps: cgroup/sock_create counts and refuses (ENOBUFS), cgroup/sock_release counts down, sockops
counts connections that a listener takes.  They live as long as the directory.  Key 0 are stream sockets, key 1 others.
"""

from __future__ import annotations

import errno
import os
import struct

from . import ffi
from .bpf import BPF_F_ALLOW_MULTI, BPF_PROG_ATTACH, BPF_PROG_GET_FD_BY_ID, attached_ids, call, insn, load

BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM = 0, 1, 2
BPF_MAP_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD = 14, 15
BPF_MAP_TYPE_ARRAY = 2
NAME = "vz_sockets"  # what bpftool(8) shows
BPF_PROG_TYPE_CGROUP_SOCK, BPF_PROG_TYPE_SOCK_OPS = 9, 13
BPF_CGROUP_INET_SOCK_CREATE, BPF_CGROUP_SOCK_OPS, BPF_CGROUP_INET_SOCK_RELEASE = 2, 3, 34
BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB = 5
MAP_LOOKUP, SET_RETVAL = 1, 187  # helpers
SOCK_STREAM = 1
STREAM, OTHER = 0, 1
UNLIMITED = (1 << 63) - 1

_LD_IMM64, _CALL, _EXIT = 0x18, 0x85, 0x95
_LDX_W, _LDX_DW, _STX_W, _STX_DW, _ATOMIC_DW = 0x61, 0x79, 0x63, 0x7B, 0xDB
_MOV_K, _MOV_X, _ADD_K = 0xB7, 0xBF, 0x07
_JEQ_K, _JNE_K, _JGT_X, _JLE_X = 0x15, 0x55, 0x2D, 0xBD
_ADD, _FETCH_ADD = 0x00, 0x01
_HELD, _MAXHELD, _FAILED = 0, 8, 16
_ALLOW = [insn(_MOV_K, 0, 0, 0, 1), insn(_EXIT)]


class Maps:
    """The two maps of one directory: counters (held, maxheld, failures) and limits, by key; ``close`` when done."""

    __slots__ = ("counters", "limits")

    def __init__(self, counters: int, limits: int) -> None:
        self.counters = counters
        self.limits = limits

    def close(self) -> None:
        os.close(self.counters)
        os.close(self.limits)

    def read(self, key: int) -> tuple[int, int, int]:
        """Return (held, maxheld, failures)."""
        held, most, failed = struct.unpack("QQQ", _lookup(self.counters, key, 24))
        return held, most, failed

    def set_held(self, key: int, held: int) -> None:
        """Correct what is held; a socket made in the same moment may be lost from the count."""
        _, most, failed = self.read(key)
        _update(self.counters, key, struct.pack("QQQ", held, max(most, held), failed))

    def set_limit(self, key: int, limit: int) -> None:
        _update(self.limits, key, struct.pack("Q", limit))


def probe() -> None:
    """Load a program of the kind that counts and drop it; OSError where this kernel does not let us."""
    os.close(load(b"".join(_ALLOW), NAME, BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_CREATE))


def attach(cgroup: str) -> Maps:
    """Put the programs on *cgroup*, without limits and with nothing held, and return their maps.

    Raises:
        OSError: EPERM, EINVAL: this kernel does not let us.
    """
    maps = Maps(_make_map(24), -1)
    try:
        maps.limits = _make_map(8)
        for key in (STREAM, OTHER):
            maps.set_limit(key, UNLIMITED)
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # what counts down first: a socket that is counted up is always counted down again
            for kind, where, program in (
                (BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_RELEASE, release_program(maps)),
                (BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, sockops_program(maps)),
                (BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_CREATE, create_program(maps)),
            ):
                fd = load(program, NAME, kind, where if kind == BPF_PROG_TYPE_CGROUP_SOCK else 0)
                try:
                    call(
                        BPF_PROG_ATTACH,
                        struct.pack("IIIII", directory, fd, where, BPF_F_ALLOW_MULTI, 0),
                        "BPF_PROG_ATTACH",
                    )
                finally:
                    os.close(fd)
        finally:
            os.close(directory)
    except BaseException:
        for fd in (maps.counters, maps.limits):
            if fd >= 0:
                os.close(fd)
        raise
    return maps


def find(cgroup: str) -> Maps | None:
    """Return the maps of the programs on *cgroup*, None when there are none."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ids = attached_ids(directory, BPF_CGROUP_INET_SOCK_CREATE)
    finally:
        os.close(directory)
    if not ids:
        return None
    program = call(BPF_PROG_GET_FD_BY_ID, struct.pack("III", ids[0], 0, 0), "BPF_PROG_GET_FD_BY_ID")
    try:
        map_ids = (ffi.c_uint32 * 2)()
        # struct bpf_prog_info: nr_map_ids and the pointer map_ids at 52 and 56
        info = ffi.create_string_buffer(bytes(52) + struct.pack("=IQ", 2, ffi.addressof(map_ids)), 64)
        attr = struct.pack("IIQ", program, 64, ffi.addressof(info))
        call(BPF_OBJ_GET_INFO_BY_FD, attr, "BPF_OBJ_GET_INFO_BY_FD")
        if struct.unpack_from("I", info.raw, 52)[0] != 2:
            raise OSError(errno.EPROTO, "another program counts sockets here", cgroup)
    finally:
        os.close(program)
    fds = [call(BPF_MAP_GET_FD_BY_ID, struct.pack("III", number, 0, 0), "BPF_MAP_GET_FD_BY_ID") for number in map_ids]
    return Maps(*fds)


def create_program(maps: Maps) -> bytes:
    """Return the program of sock_create; its context is struct bpf_sock, with the type at 8."""
    refuse = [insn(_MOV_K, 1, 0, 0, -1), insn(_ATOMIC_DW, 9, 1, _HELD, _ADD)]
    refuse += [insn(_MOV_K, 1, 0, 0, 1), insn(_ATOMIC_DW, 9, 1, _FAILED, _ADD)]
    refuse += [insn(_MOV_K, 1, 0, 0, -errno.ENOBUFS), insn(_CALL, 0, 0, 0, SET_RETVAL)]
    refuse += [insn(_MOV_K, 0, 0, 0, 0), insn(_EXIT)]
    count = [insn(_MOV_K, 1, 0, 0, 1), insn(_ATOMIC_DW, 9, 1, _HELD, _FETCH_ADD), insn(_ADD_K, 1, 0, 0, 1)]
    count += [insn(_JGT_X, 1, 7, 3 + len(_ALLOW)), *_maximum()]
    limit = _lookup_in(maps.limits)
    tail = [insn(_LDX_DW, 7, 0, 0, 0), *count, *_ALLOW, *refuse]
    program = [*_key_of_type(), *_lookup_in(maps.counters), insn(_JNE_K, 0, 0, 2, 0), *_ALLOW, insn(_MOV_X, 9, 0)]
    program += [*limit, insn(_JNE_K, 0, 0, 2, 0), *_ALLOW, *tail]
    return b"".join(program)


def release_program(maps: Maps) -> bytes:
    """Return the program of sock_release: one less, never below nothing."""
    program = [*_key_of_type(), *_lookup_in(maps.counters), insn(_JEQ_K, 0, 0, 4, 0)]
    program += [insn(_LDX_DW, 1, 0, _HELD, 0), insn(_JEQ_K, 1, 0, 2, 0)]
    program += [insn(_MOV_K, 1, 0, 0, -1), insn(_ATOMIC_DW, 0, 1, _HELD, _ADD), *_ALLOW]
    return b"".join(program)


def sockops_program(maps: Maps) -> bytes:
    """Return the program of sockops, with the event at 0 of its context: one more for a connection taken."""
    count = [insn(_MOV_K, 1, 0, 0, 1), insn(_ATOMIC_DW, 9, 1, _HELD, _FETCH_ADD), insn(_ADD_K, 1, 0, 0, 1), *_maximum()]
    body = [insn(_MOV_K, 8, 0, 0, STREAM), insn(_STX_W, 10, 8, -4, 0), *_lookup_in(maps.counters)]
    body += [insn(_JEQ_K, 0, 0, 1 + len(count), 0), insn(_MOV_X, 9, 0), *count]
    size = len(b"".join(body)) // 8
    return b"".join(
        [insn(_LDX_W, 7, 1, 0, 0), insn(_JNE_K, 7, 0, size, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB), *body, *_ALLOW]
    )


def _key_of_type() -> list[bytes]:
    """Put the key, STREAM or OTHER, on the stack at -4."""
    code = [insn(_LDX_W, 7, 1, 8, 0), insn(_MOV_K, 8, 0, 0, OTHER), insn(_JNE_K, 7, 0, 1, SOCK_STREAM)]
    return [*code, insn(_MOV_K, 8, 0, 0, STREAM), insn(_STX_W, 10, 8, -4, 0)]


def _lookup_in(fd: int) -> list[bytes]:
    """Look the key at -4 up; r0 is the value, or 0."""
    load_map = insn(_LD_IMM64, 1, 1, 0, fd) + insn(0)  # source 1: the number is a map's descriptor
    return [load_map, insn(_MOV_X, 2, 10), insn(_ADD_K, 2, 0, 0, -4), insn(_CALL, 0, 0, 0, MAP_LOOKUP)]


def _maximum() -> list[bytes]:
    """Raise maxheld of the value in r9 to r1: three instructions."""
    return [insn(_LDX_DW, 2, 9, _MAXHELD, 0), insn(_JLE_X, 1, 2, 1), insn(_STX_DW, 9, 1, _MAXHELD, 0)]


def _make_map(value_size: int) -> int:
    return call(BPF_MAP_CREATE, struct.pack("IIIII", BPF_MAP_TYPE_ARRAY, 4, value_size, 2, 0), "BPF_MAP_CREATE")


def _lookup(fd: int, key: int, size: int) -> bytes:
    word, value = ffi.create_string_buffer(struct.pack("I", key), 4), ffi.create_string_buffer(size)
    attr = struct.pack("IIQQQ", fd, 0, ffi.addressof(word), ffi.addressof(value), 0)
    call(BPF_MAP_LOOKUP_ELEM, attr, "BPF_MAP_LOOKUP_ELEM")
    return value.raw


def _update(fd: int, key: int, data: bytes) -> None:
    word, value = ffi.create_string_buffer(struct.pack("I", key), 4), ffi.create_string_buffer(data, len(data))
    attr = struct.pack("IIQQQ", fd, 0, ffi.addressof(word), ffi.addressof(value), 0)
    call(BPF_MAP_UPDATE_ELEM, attr, "BPF_MAP_UPDATE_ELEM")
