"""A poll(2) with a timeout that the dump interrupted is made again; criu's image has EINTR for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vz.checkpoint import images

HEAD = b"\x11\x22\x33\x44\x55\x66\x77\x88"
POLL, NANOSLEEP, READ, RESTART, EINTR = 7, 35, 0, 219, (1 << 64) - 4
CONTINUED = {(7, 0x402002): POLL}


def core(ax: int, orig_ax: int, ip: int, machine: int = 1) -> bytes:
    """core_entry: the machine, thread_info_x86 with user_x86_regs_entry, and a field behind it."""
    registers = ((10, 0x246), (11, ax), (15, 0x7FFC0000), (16, orig_ax), (17, ip), (18, 0x33))
    regs = b"".join(images.field(number, images.VARINT, value) for number, value in registers)
    info = images.field(1, images.VARINT, 99) + images.field(2, images.BYTES, regs)
    message = images.field(1, images.VARINT, machine) + images.field(2, images.BYTES, info)
    message += images.field(4, images.BYTES, b"thread core")
    return HEAD + len(message).to_bytes(4, "little") + message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((EINTR, POLL, 0x401002), (POLL, POLL, 0x401000)),
        ((EINTR, NANOSLEEP, 0x401002), None),  # its caller knows how much was left
        ((EINTR, READ, 0x401002), None),
        ((EINTR, (1 << 64) - 1, 0x401002), None),  # it is in no call
        ((1, POLL, 0x401002), None),
        ((EINTR, RESTART, 0x402002), (POLL, RESTART, 0x402000)),
        ((EINTR, RESTART, 0x401002), None),
        ((EINTR, POLL, 0x401002, 2), None),
    ],
)
def test_the_registers(tmp_path: Path, before: tuple[int, ...], after: tuple[int, ...] | None) -> None:
    path = tmp_path / "core-7.img"
    path.write_bytes(core(*before))
    assert images.restart_polls(str(tmp_path), lambda tid, ip: CONTINUED.get((tid, ip), 0)) == (after is not None)
    assert path.read_bytes() == core(*(after or before))
    assert images.restart_polls(str(tmp_path), lambda tid, ip: CONTINUED.get((tid, ip), 0)) == 0
