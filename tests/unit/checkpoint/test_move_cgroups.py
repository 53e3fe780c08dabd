"""criu's cgroup image, made for one place, is rewritten for another parent or CTID; the CT's own paths stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from vz.checkpoint import images
from vz.config.netif import moved_ifname

HEAD = b"\x11\x22\x33\x44\x55\x66\x77\x88"


def text(number: int, value: str) -> bytes:
    return images.field(number, images.BYTES, value.encode())


def number(of: int, value: int) -> bytes:
    return images.field(of, images.VARINT, value)


def nested(of: int, value: bytes) -> bytes:
    return images.field(of, images.BYTES, value)


def image(members: list[tuple[str, str, int]], folders: list[str]) -> bytes:
    """cgroup_entry: one set of (controller, path, length of the namespace's root), one controller of directories."""
    own = b"".join(nested(2, text(1, name) + text(2, path) + number(3, prefix)) for name, path, prefix in members)
    dirs = b"".join(nested(2, text(1, path) + nested(2, text(1, "vz"))) for path in folders)
    message = nested(1, number(1, 1) + own) + nested(2, text(1, "unified") + dirs)
    return HEAD + len(message).to_bytes(4, "little") + message


@pytest.mark.parametrize(
    ("old", "new"), [(("vz", 101), ("vz", 2002)), (("vz/a", 101), ("vz", 101)), (("vz", 7), ("machine/vz", 12345))]
)
def test_paths_and_the_length_of_the_root(tmp_path: Path, old: tuple[str, int], new: tuple[str, int]) -> None:
    def made(parent: str, ctid: int) -> bytes:
        top = f"{parent}/{ctid}"
        members = [
            ("", f"/{top}/ct/system.slice/{old[0]}/{old[1]}", len(f"/{top}/ct")),
            ("name=systemd", f"/{parent}", 0),
            ("cpu", f"/{top}", len(f"/{top}")),
            ("pids", f"/{old[0]}x/{old[1]}", 0),
            ("freezer", f"/{old[0]}/{old[1]}9/ct", 0),
        ]
        return image(members, [parent, f"{top}/ct", f"{top}/ct/a", f"{old[0]}/{old[1]}9"])

    path = tmp_path / "cgroup.img"
    path.write_bytes(made(*old))
    for _ in range(2):  # a restore that was killed is tried again
        images.move_cgroups(str(tmp_path), old, new)
        assert path.read_bytes() == made(*new)
    images.move_cgroups(str(tmp_path), new, old)
    assert path.read_bytes() == made(*old)


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("veth101.0", "veth202.0"),
        ("veth101.12", "veth202.12"),
        ("veth1011.0", "veth1011.0"),
        ("veth101.x", "veth101.x"),
        ("veth101", "veth101"),
        ("lan7", "lan7"),
    ],
)
def test_names_of_devices(name: str, moved: str) -> None:
    assert moved_ifname(name, 101, 202) == moved
    assert moved_ifname(moved, 202, 101) == name


def test_names_that_would_be_too_long() -> None:
    assert moved_ifname("veth101.12", 101, 2147483644) == "v2147483644.12"
    assert moved_ifname("v2147483644.12", 2147483644, 101) == "veth101.12"
