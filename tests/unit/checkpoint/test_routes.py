"""The state that the kernel tells of a route is taken out of a dump's routes; all else stays, byte for byte."""

from __future__ import annotations

import struct
from pathlib import Path

from vz.checkpoint import routes
from vz.kernel.netlink import attribute
from vz.kernel.rtnetlink import RTA_MULTIPATH


def message(flags: int, hop_flags: int, kind: int = routes.RTM_NEWROUTE) -> bytes:
    hops = struct.pack("=HBBi", 16, hop_flags, 0, 3) + attribute(5, bytes(4))
    body = struct.pack("=8BI", 2, 24, 0, 0, 254, 2, 253, 1, flags) + attribute(1, bytes((198, 51, 100, 0)))
    body += attribute(RTA_MULTIPATH, hops) + attribute(8, b"abc")  # one that needs padding
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 7, 9) + body + bytes(-len(body) % 4)


def test_states_go_and_other_flags_stay() -> None:
    given = routes.MAGIC + message(0x1 | 0x4 | 0x10, 0x14) + message(0x4, 0x4) + message(0x11, 0x10, kind=20)
    wanted = routes.MAGIC + message(0x4, 0x4) + message(0x4, 0x4) + message(0x11, 0x10, kind=20)
    assert routes.stateless(given) == wanted
    assert routes.stateless(wanted) == wanted


def test_what_is_no_such_file_is_left_alone() -> None:
    whole = routes.MAGIC + message(0x11, 0x10)
    for data in (b"", b"abc", whole[4:], whole[:-1], routes.MAGIC, whole + b"\1", routes.MAGIC + bytes(32)):
        assert routes.stateless(data) == data


def test_only_routes_are_looked_at(tmp_path: Path) -> None:
    whole = routes.MAGIC + message(0x11, 0x10)
    for name in ("route-9.img", "route6-9.img", "rule-9.img", "files.img"):
        (tmp_path / name).write_bytes(whole)
    routes.forget_state(str(tmp_path))
    changed = {path.name for path in tmp_path.iterdir() if path.read_bytes() != whole}
    assert changed == {"route-9.img", "route6-9.img"}
