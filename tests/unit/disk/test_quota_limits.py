"""Disk quota without a file system that has one: what the kernel is told of a configuration, and what is read back."""

from __future__ import annotations

import os

import pytest

from vz.cli import vzquota
from vz.config.conffile import ConfFile
from vz.config.ctconfig import load_ct
from vz.config.nodeconfig import NodeConfig
from vz.container.ct import MAX_CTID, Container
from vz.disk import project, quota
from vz.kernel.quota import Dqblk


def ct(text: str, vz_conf: str = "") -> Container:
    node = NodeConfig(ConfFile("vz.conf", vz_conf.encode()))
    return Container(101, node, load_ct(101, node, conf=ConfFile("101.conf", text.encode())))


@pytest.mark.parametrize(
    ("limits", "grace", "told"),
    [
        ((10, 20, 3, 4), 0, (10, 10, 3, 3)),
        ((10, 20, 3, 4), 5, (10, 20, 3, 4)),
        ((0, 0, 3, 3), 0, (0, 0, 3, 3)),
        ((0, 20, 0, 0), 0, (20, 20, 0, 0)),
        ((20, 10, 0, 0), 7, (10, 20, 0, 0)),
    ],
)
def test_a_soft_limit_without_grace_is_a_hard_one(limits, grace: int, told) -> None:  # type: ignore[no-untyped-def]
    assert quota.in_kernel(limits, grace) == told


def test_what_a_conf_limits() -> None:
    assert quota.conf_limits(ct('DISKSPACE="2G:2.2G"\nDISKINODES="131072:144179"\n')) == (
        2097152,
        2306867,
        131072,
        144179,
    )
    assert quota.conf_limits(ct("")) is None and quota.conf_limits(ct('DISKSPACE="0"\n')) is None
    assert quota.is_wanted(ct("")) and not quota.is_wanted(ct('DISK_QUOTA="no"\n'))
    assert not quota.is_wanted(ct("", "DISK_QUOTA=no\n")) and quota.is_wanted(
        ct('DISK_QUOTA="yes"\n', "DISK_QUOTA=no\n")
    )


def test_usage_names_both_numbers_of_the_conf_where_they_are_in_force() -> None:
    found = quota.Usage(Dqblk(10, 10, 2049, 3, 3, 2, 0, 0), (10, 20, 3, 4), 0)
    assert (found.part("diskspace"), found.part("diskinodes")) == ((3, (10, 20)), (2, (3, 4)))
    found = quota.Usage(Dqblk(11, 10, 1024, 0, 0, 2, 0, 0), (10, 20, 3, 4), 0)
    assert (found.part("diskspace"), found.part("diskinodes")) == ((1, (10, 11)), (2, (0, 0)))


def test_no_project_of_a_ct_is_another_kind() -> None:
    assert project.FIRST + MAX_CTID < project.SPARE < project.LAST < 1 << 32


def test_a_directory_that_nobody_counts(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = ct(f'VE_PRIVATE="{tmp_path}"\nDISKSPACE="1G"\n')
    project.begin_area(str(tmp_path), 101)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        if not quota.problem(fd, str(tmp_path)):
            pytest.skip("this file system has project quota")
        assert quota.problem(fd, "/x").count("\n") == 0 and not quota.clear(fd)
    finally:
        os.close(fd)
    assert quota.usage(made) is None and quota.check_support(made)
    quota.forget(str(tmp_path))
    quota.forget(str(tmp_path / "none"))


def test_words_of_vzquota_setlimit() -> None:
    assert vzquota._limits(["-b", "1", "-B2", "-i", "3", "-I", "4"]) == {0: 1, 1: 2, 2: 3, 3: 4}
    for words in (["-b"], ["-x", "1"], ["1"], ["-b", "x"], ["-b", "-1"], ["-b", "٣"]):
        with pytest.raises(ValueError):
            vzquota._limits(words)
