"""CRIU's image files: two 32-bit magics, then records of a 32-bit size and a protobuf message.

Only what has to be put right between a dump and a restore is read here, and only those fields are changed; the
message types are those of criu's images/*.proto.
"""

from __future__ import annotations

import os

from vz.kernel.files import read_bytes, write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

O_PATH = 0o10000000
O_LARGEFILE = 0o100000
HEAD = 8
MODE = 0o644  # root of the CT's user namespace reads it at the restore; the dump's own directory is closed
LIMIT_BYTES = 1 << 30  # files.img of a CT with a million open files is far below
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# fields by message: mm_entry, file_entry, reg_file_entry, userns_entry, uid_gid_extent, cgroup_entry and below,
# stats_entry and dump_stats_entry
MM_EXE_FILE_ID = 12
FILE_ID, FILE_REG = 2, 3
REG_ID, REG_FLAGS = 1, 2
USERNS_MAPS = (1, 2)
EXTENT_FIRST, EXTENT_LOWER_FIRST, EXTENT_COUNT = 1, 2, 3
CGROUP_SETS, CGROUP_CONTROLLERS = 1, 2
SET_MEMBERS, MEMBER_PATH, MEMBER_PREFIX = 2, 2, 3
CONTROLLER_DIRS, DIR_NAME = 2, 1
STATS_DUMP, DUMP_PAGES_WRITTEN = 1, 7
# core_entry, thread_info_x86, user_x86_regs_entry
CORE_MACHINE, CORE_X86, X86_REGS = 1, 2, 2
REGS_AX, REGS_ORIG_AX, REGS_IP = 11, 16, 17
MACHINE_X86_64, NR_POLL, NR_RESTART_SYSCALL, SYSCALL_BYTES = 1, 7, 219, 2
MINUS_EINTR = (1 << 64) - 4


class BadImage(Exception):
    """An image file that is not what criu writes."""


def fix_executables(folder: str) -> int:
    """Give every program whose file criu knows only as O_PATH descriptor an entry of its own; return how many.

    systemd's pid 1 keeps an O_PATH descriptor of systemd-executor; criu takes the executable of (sd-pam), the same
    inode, for the same file, opens it O_PATH at the restore, and prctl(PR_SET_MM) answers EBADF.
    """
    changed: list[tuple[str, bytes]] = []
    made: dict[int, int] = {}  # id of the O_PATH entry → id of its copy
    regular: dict[int, tuple[bytes, bytes]] | None = None  # file id → (file_entry, reg_file_entry)
    top = 0
    files = f"{folder}/files.img"
    added = b""
    for name in sorted(os.listdir(folder)):
        if not (name.startswith("mm-") and name.endswith(".img")):
            continue
        if regular is None:
            regular, top = regular_files(records(read(files), "files.img"))
        data = read(f"{folder}/{name}")
        entry = records(data, name)[0]
        exe = first(entry, MM_EXE_FILE_ID)
        if not isinstance(exe, int) or exe not in regular:
            continue
        file_entry, reg = regular[exe]
        flags = first(reg, REG_FLAGS)
        if not isinstance(flags, int) or not flags & O_PATH:
            continue
        if exe not in made:
            top += 1
            made[exe] = top
            copy = with_varint(with_varint(reg, REG_ID, top), REG_FLAGS, O_LARGEFILE)
            added += record(with_bytes(with_varint(file_entry, FILE_ID, top), FILE_REG, copy))
        changed.append((f"{folder}/{name}", data[:HEAD] + record(with_varint(entry, MM_EXE_FILE_ID, made[exe]))))
    if added:  # first: an entry that nobody names does no harm
        replace(files, read(files) + added)
    for path, data in changed:
        replace(path, data)
    return len(changed)


def restart_polls(folder: str, continued: Callable[[int, int], int]) -> int:
    """Let threads that a dump interrupted in poll(2) with a timeout call it again; return how many.

    The kernel would go on with the rest of the time; criu has no way to, and makes it EINTR (compel's get_task_regs).
    Nobody expects that without a signal: mariadbd ends a connection after ten of them.  The whole time begins anew.
    Other calls of this kind (nanosleep, futex) say how much is left, or their callers try again.  A thread that was
    frozen before is in restart_syscall(2): *continued* says of a tid inside and its instruction pointer which call that
    goes on with.  On x86_64 only: arm64 keeps no copy of the first argument.
    """
    count = 0
    mark = field(REGS_AX, VARINT, MINUS_EINTR)
    for name in os.listdir(folder):
        if not (name.startswith("core-") and name.endswith(".img")):
            continue
        data = read(f"{folder}/{name}")
        if mark not in data:  # most of them
            continue
        core = records(data, name)[0]
        info = first(core, CORE_X86)
        regs = first(info, X86_REGS) if isinstance(info, bytes) else None
        if first(core, CORE_MACHINE) != MACHINE_X86_64 or not isinstance(info, bytes) or not isinstance(regs, bytes):
            continue
        ip, call = first(regs, REGS_IP), first(regs, REGS_ORIG_AX)
        if first(regs, REGS_AX) != MINUS_EINTR or not isinstance(ip, int):
            continue
        if call == NR_RESTART_SYSCALL:
            call = continued(int(name[len("core-") : -len(".img")]), ip)
        if call != NR_POLL:
            continue
        regs = with_varint(with_varint(regs, REGS_AX, NR_POLL), REGS_IP, ip - SYSCALL_BYTES)
        core = with_bytes(core, CORE_X86, with_bytes(info, X86_REGS, regs))
        replace(f"{folder}/{name}", data[:HEAD] + record(core))
        count += 1
    return count


def move_ids(folder: str, old: int, new: int, count: int) -> None:
    """Rewrite the maps of user namespaces in *folder* from host ids *old*… to *new*…, *count* of them.

    Each file is replaced in one step.  A map outside of *old*'s range (rewritten by an earlier, killed try) is left.
    """
    for name in sorted(os.listdir(folder)):
        if not (name.startswith("userns-") and name.endswith(".img")):
            continue
        data = read(f"{folder}/{name}")
        out = data[:HEAD]
        for message in records(data, name):
            moved = b""
            for number, wire, value in fields(message):
                if number in USERNS_MAPS and isinstance(value, bytes):
                    lower = first(value, EXTENT_LOWER_FIRST)
                    if isinstance(lower, int) and old <= lower < old + count:
                        value = with_varint(value, EXTENT_LOWER_FIRST, lower - old + new)
                moved += field(number, wire, value)
            out += record(moved)
        if out != data:
            write_atomically(f"{folder}/{name}", out, MODE)


def move_cgroups(folder: str, old: tuple[str, int], new: tuple[str, int]) -> None:
    """Rewrite the cgroups in *folder* from *old* to *new*; can be done again.

    Both are (parent without slashes around, CTID).  Only the parent itself and what is in the CT's own directory below
    it are meant: the rest of a path is the CT's.
    """
    path = f"{folder}/cgroup.img"
    data = read(path)
    out = data[:HEAD]
    for message in records(data, "cgroup.img"):
        moved = b""
        for number, wire, value in fields(message):
            if isinstance(value, bytes) and number in (CGROUP_SETS, CGROUP_CONTROLLERS):
                wanted = SET_MEMBERS if number == CGROUP_SETS else CONTROLLER_DIRS
                value = _each(value, wanted, lambda inner: _move_cgroup(inner, old, new))
            moved += field(number, wire, value)
        out += record(moved)
    if out != data:
        write_atomically(path, out, MODE)


def _move_cgroup(message: bytes, old: tuple[str, int], new: tuple[str, int]) -> bytes:
    """Return a member of a set ("/parent/…", length of the namespace's root) or a directory ("parent/…") moved."""
    own, its_own = f"{old[0]}/{old[1]}".encode(), f"{new[0]}/{new[1]}".encode()
    parent, its_parent = old[0].encode(), new[0].encode()
    out = b""
    grown = 0
    for number, wire, value in fields(message):
        if number in (DIR_NAME, MEMBER_PATH) and isinstance(value, bytes):
            slash = b"/" if value[:1] == b"/" else b""
            path = value[len(slash) :]
            if path == own or path.startswith(own + b"/"):
                value, grown = slash + its_own + path[len(own) :], len(its_own) - len(own)
            elif path == parent:
                value, grown = slash + its_parent, len(its_parent) - len(parent)
        elif number == MEMBER_PREFIX and isinstance(value, int) and value:
            value += grown  # it comes after the path
        out += field(number, wire, value)
    return out


def _each(message: bytes, wanted: int, change: Callable[[bytes], bytes]) -> bytes:
    """Return *message* with each of its fields *wanted* changed."""
    return b"".join(
        field(number, wire, change(value) if number == wanted and isinstance(value, bytes) else value)
        for number, wire, value in fields(message)
    )


def id_maps(folder: str) -> list[tuple[int, int, int]]:
    """Return the (first, host's first, count) of every uid map in *folder*."""
    found = []
    for name in sorted(os.listdir(folder)):
        if name.startswith("userns-") and name.endswith(".img"):
            for message in records(read(f"{folder}/{name}"), name):
                for number, _, value in fields(message):
                    if number == USERNS_MAPS[0] and isinstance(value, bytes):
                        parts = [first(value, n) for n in (EXTENT_FIRST, EXTENT_LOWER_FIRST, EXTENT_COUNT)]
                        found.append(tuple(part if isinstance(part, int) else 0 for part in parts))
    return found  # type: ignore[return-value]


def pages_written(folder: str) -> int:
    """Return how many pages the dump in *folder* has written or sent, by its stats-dump (criu's images/stats.proto)."""
    for message in records(read(f"{folder}/stats-dump"), "stats-dump"):
        said = first(message, STATS_DUMP)
        count = first(said, DUMP_PAGES_WRITTEN) if isinstance(said, bytes) else None
        return count if isinstance(count, int) else 0
    return 0


def fields(message: bytes) -> list[tuple[int, int, int | bytes]]:
    """Return (number, wire type, value) of each field in order; fixed-size values stay bytes.

    Raises:
        BadImage: not a protobuf message.
    """
    found: list[tuple[int, int, int | bytes]] = []
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        value: int | bytes
        if wire == VARINT:
            value, at = _varint(message, at)
        else:
            if wire == BYTES:
                size, at = _varint(message, at)
            elif wire in (FIXED64, FIXED32):
                size = 8 if wire == FIXED64 else 4
            else:
                raise BadImage(f"wire type {wire}")
            value = message[at : at + size]
            at += size
            if at > len(message):
                raise BadImage("a field ends after its message")
        found.append((number, wire, value))
    return found


def field(number: int, wire: int, value: int | bytes) -> bytes:
    """Return one field as bytes."""
    key = _to_varint(number << 3 | wire)
    if isinstance(value, int):
        return key + _to_varint(value)
    return key + (_to_varint(len(value)) if wire == BYTES else b"") + value


def with_varint(message: bytes, wanted: int, value: int) -> bytes:
    """Return *message* with its integer field *wanted* set to *value*."""
    out = b""
    for number, wire, old in fields(message):
        out += field(number, wire, value if number == wanted and wire == VARINT else old)
    return out


def with_bytes(message: bytes, wanted: int, value: bytes) -> bytes:
    """Return *message* with its string or message field *wanted* set to *value*."""
    out = b""
    for number, wire, old in fields(message):
        out += field(number, wire, value if number == wanted and wire == BYTES else old)
    return out


def regular_files(entries: list[bytes]) -> tuple[dict[int, tuple[bytes, bytes]], int]:
    """Return the regular files in *entries* of files.img by id, as (file_entry, reg_file_entry), and the largest id."""
    found = {}
    top = 0
    for entry in entries:
        file_id = integer(entry, FILE_ID)
        top = max(top, file_id)
        reg = first(entry, FILE_REG)
        if isinstance(reg, bytes):
            found[file_id] = (entry, reg)
    return found, top


def read(path: str) -> bytes:
    return read_bytes(path, LIMIT_BYTES)


def replace(path: str, data: bytes) -> None:
    write_atomically(path, data, MODE, durable=False)


def records(data: bytes, name: str) -> list[bytes]:
    """Return the messages of an image file; BadImage."""
    found = []
    at = HEAD
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if at + size > len(data):
            raise BadImage(f"{name} is cut short")
        found.append(data[at : at + size])
        at += size
    return found


def record(message: bytes) -> bytes:
    """Return *message* as it stands in an image file."""
    return len(message).to_bytes(4, "little") + message


def first(message: bytes, wanted: int) -> int | bytes | None:
    """Return the value of field *wanted*, None where *message* has none."""
    return next((value for number, _, value in fields(message) if number == wanted), None)


def integer(message: bytes, wanted: int) -> int:
    """Return the value of field *wanted*, a number; BadImage where there is none."""
    value = first(message, wanted)
    if not isinstance(value, int):
        raise BadImage(f"a message without field {wanted}")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise BadImage("a number ends after its message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
