"""Classic-BPF seccomp filters, assembled by hand; see seccomp(2) and the kernel's userspace-api/seccomp_filter.rst.

A filter is a list of rules per architecture.  A call that no rule looks at by its arguments costs nothing:
since Linux 5.11 the kernel keeps a bitmap of the calls that a filter always allows.
"""

from __future__ import annotations

import struct

from . import ffi
from .libc import MACHINE, prctl

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000

AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
COMPATIBLE = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64",)}  # 32-bit arm is killed: no table for it
X32_SYSCALL_BIT = 0x40000000

_LD_W_ABS = 0x20
_JEQ, _JGE, _JSET = 0x15, 0x35, 0x45
_RET = 0x06
_OFF_NR, _OFF_ARCH, _OFF_ARGS = 0, 4, 16

_Insn = tuple[int, int, int, int]


class Rule:
    """Refuse call *number* with *errno*; with *argument*, only where (argument & mask) or argument == value.

    *also*: (argument, values) that must hold too, with a value each.  Several rules for one call stand together.
    """

    __slots__ = ("also", "argument", "errno", "mask", "number", "values")

    def __init__(
        self,
        number: int,
        errno: int,
        argument: int | None = None,
        mask: int = 0,
        values: tuple[int, ...] = (),
        also: tuple[int, tuple[int, ...]] | None = None,
    ) -> None:
        self.also = also
        self.number = number
        self.errno = errno
        self.argument = argument
        self.mask = mask
        self.values = values


def assemble(rules: dict[str, list[Rule]]) -> bytes:
    """Return the program for *rules* by architecture; calls of an architecture that has none kill the process."""
    program: list[_Insn] = [(_LD_W_ABS, 0, 0, _OFF_ARCH)]
    for arch, chain in rules.items():
        body = _arch_body(arch, chain)
        # one conditional jump reaches 255 instructions only, so jump over an unconditional one
        program.append((_JEQ, 1, 0, AUDIT_ARCH[arch]))
        program.append((0x05, 0, 0, len(body)))  # ja
        program += body
    program.append((_RET, 0, 0, SECCOMP_RET_KILL_PROCESS))
    return b"".join(struct.pack("HBBI", *insn) for insn in program)


def install(program: bytes) -> None:
    """Put *program* on this thread and all it will start; needs CAP_SYS_ADMIN in its user namespace (else EACCES)."""
    code = ffi.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ffi.addressof(code))
    header = ffi.create_string_buffer(fprog, len(fprog))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ffi.addressof(header))


def architectures() -> tuple[str, ...]:
    """Return the system-call architectures that programs on this machine may use."""
    return COMPATIBLE.get(MACHINE, (MACHINE,))


def _arch_body(arch: str, chain: list[Rule]) -> list[_Insn]:
    body: list[_Insn] = [(_LD_W_ABS, 0, 0, _OFF_NR)]
    if arch == "x86_64":
        body += [(_JGE, 0, 1, X32_SYSCALL_BIT), (_RET, 0, 0, SECCOMP_RET_ERRNO | 38)]
    for number in dict.fromkeys(rule.number for rule in chain):
        test: list[_Insn] = []
        for rule in chain:
            if rule.number == number:
                test += _test(rule)
        test.append((_RET, 0, 0, SECCOMP_RET_ALLOW))
        body.append((_JEQ, 0, len(test), number))
        body += test
    body.append((_RET, 0, 0, SECCOMP_RET_ALLOW))
    return body


def _test(rule: Rule) -> list[_Insn]:
    """Return what refuses by *rule*, or falls through."""
    refuse = (_RET, 0, 0, SECCOMP_RET_ERRNO | rule.errno)
    if rule.argument is None:
        return [refuse]
    last: list[_Insn] = [refuse]
    if rule.also is not None:
        argument, values = rule.also
        last = [_load(argument)]
        for value in values:
            last += [(_JEQ, 0, 1, value), refuse]
    test = [_load(rule.argument)]
    if rule.mask:
        test += [(_JSET, 0, len(last), rule.mask), *last]
    for value in rule.values:
        if rule.also is not None and len(test) > 1:
            test.append(_load(rule.argument))
        test += [(_JEQ, 0, len(last), value), *last]
    return test


def _load(argument: int) -> _Insn:
    return (_LD_W_ABS, 0, 0, _OFF_ARGS + 8 * argument)  # the low word: little-endian
