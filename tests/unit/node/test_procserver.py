"""The /proc server without a kernel: the protocol's structures, names and formulas."""

from __future__ import annotations

import struct

import pytest

from vz.config.procnames import NAMES
from vz.kernel import fuse
from vz.node.procserver import child
from vz.resources.procview import Load, Memory, loadavg, renumbered, shown_cpus

MIB = 1 << 20


def test_the_answers_have_the_sizes_of_fuse_h() -> None:
    assert len(fuse.attr_answer(16, directory=True)) == 104
    assert len(fuse.entry_answer(17, directory=False)) == 128
    assert len(fuse.statfs_answer()) == 80
    assert len(fuse.init_answer(struct.pack("<4I", 7, 45, 131072, 0xFFFFFFFF))) == 64
    packet = struct.pack("<IIQQIIII", 44, fuse.LOOKUP, 1 << 63, 1, 0, 0, 1, 0) + b"101\0"
    request = fuse.Request(packet)
    assert (request.opcode, request.unique, request.node, request.body) == (fuse.LOOKUP, 1 << 63, 1, b"101\0")


def test_a_node_id_says_it_all() -> None:
    assert child(fuse.ROOT, b"101") == 101 << 4
    assert [child(101 << 4, name.encode()) & 15 for name in NAMES] == list(range(1, len(NAMES) + 1))
    for node, name in ((1, b".."), (1, b"0"), (101 << 4, b"../102"), (101 << 4, b""), ((101 << 4) | 1, b"stat")):
        with pytest.raises(FileNotFoundError):
            child(node, name)


@pytest.mark.parametrize(
    ("used", "file", "held", "swapped", "free", "cached"),
    [(20, 5, 15, 0, 44, 5), (80, 0, 64, 16, 0, 0), (200, 0, 64, 32, 0, 0), (70, 30, 40, 0, 0, 24), (0, 0, 0, 0, 64, 0)],
)
def test_memory_beyond_ram_is_swapped(used: int, file: int, held: int, swapped: int, free: int, cached: int) -> None:
    seen = Memory(64, 32, used, file, 0)
    assert (seen.held, seen.swapped, seen.free, seen.cached) == (held, swapped, free, cached)


def test_the_cpus_that_a_ct_sees() -> None:
    assert [shown_cpus(*pair) for pair in ((4, 0), (4, 150), (2, 800), (8, 10), (1, 0))] == [4, 2, 2, 1, 1]
    text = "processor\t: 0\nmodel\t: a\n\nprocessor\t: 1\nmodel\t: b\n\nprocessor\t: 2\nmodel\t: c\n\n"
    assert renumbered(text, [1, 2]) == "processor\t: 0\nmodel\t: b\n\nprocessor\t: 1\nmodel\t: c\n\n"


def test_a_load_decays() -> None:
    load = Load(0.0, 2)
    load.sample(60.0, 0)
    assert loadavg(load, 1, 9) == "0.74 1.64 1.87 1/9 9\n"
