"""Which disk a path is on, by the kernel's own tables; and weights by elevator."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import needs
from vz.resources import blkio


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A loop device of 32 MiB with one partition."""
    image = tmp_path / "image"
    entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048, 40960)  # of a partition table as old as the PC
    image.write_bytes(bytes(446) + entry + bytes(48) + b"\x55\xaa")
    os.truncate(image, 32 << 20)
    done = subprocess.run(["losetup", "-fP", "--show", image], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs a loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    yield device
    subprocess.run(["losetup", "-d", device], check=True)


def numbers(path: str) -> str:
    device = os.stat(path).st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


def test_a_partition_counts_as_its_disk(loop: str, tmp_path: Path) -> None:
    name = f"{os.path.basename(loop)}p1"
    if not os.path.exists(f"/sys/class/block/{name}"):
        pytest.skip("needs a kernel that reads partition tables")
    major, minor = Path(f"/sys/class/block/{name}/dev").read_text().split(":")
    partition, target = tmp_path / name, tmp_path / "mnt"
    target.mkdir()
    os.mknod(partition, 0o600 | stat.S_IFBLK, os.makedev(int(major), int(minor)))
    subprocess.run(["mke2fs", "-q", partition], check=True)
    subprocess.run(["mount", partition, target], check=True)
    try:
        assert blkio.disk_of(str(target)) == numbers(loop)
        assert blkio.disk_name(numbers(loop)) == os.path.basename(loop)
    finally:
        subprocess.run(["umount", target], check=True)


def test_a_file_system_without_a_number_of_its_own(tmp_path: Path) -> None:
    """btrfs shows made-up device numbers: its mount tells the disk."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs mkfs.btrfs")
    target = tmp_path / "mnt"
    target.mkdir()
    image = tmp_path / "big"
    image.write_bytes(b"")
    os.truncate(image, 128 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    device = subprocess.check_output(["losetup", "-f", "--show", image], text=True).strip()
    try:
        needs("btrfs", lambda: subprocess.run(["mount", device, target], check=True) and None)
        try:
            assert blkio.disk_of(str(target)) == numbers(device)
        finally:
            subprocess.run(["umount", target], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.mark.parametrize("path", ["/proc", "/dev/shm", "/no/such/path"])
def test_where_there_is_no_disk(path: str) -> None:
    assert blkio.disk_of(path) == ""


def test_bfq_knows_weights(loop: str) -> None:
    path = Path(f"/sys/dev/block/{numbers(loop)}/queue/scheduler")
    if "bfq" not in path.read_text():
        pytest.skip("needs the bfq elevator")
    before = blkio.elevator(numbers(loop))
    path.write_text("none")
    try:
        assert not blkio.weight_counts(numbers(loop), 1)
        path.write_text("bfq")
        assert blkio.elevator(numbers(loop)) == "bfq"
        assert blkio.weight_counts(numbers(loop), 1) and blkio.weight_counts(numbers(loop), 2)
    finally:
        path.write_text(before)
