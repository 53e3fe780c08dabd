"""Samples: what a new CT's conf starts from, and the statuses when that cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from vz.config import samples
from vz.config.conffile import ConfFile
from vz.config.nodeconfig import NodeConfig
from vz.errors import VzError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(samples, "CONF_DIR", str(tmp_path))
    (tmp_path / "ve-basic.conf-sample").write_text('# basic\nCPUUNITS="1000"\n')
    return tmp_path


def node(text: str = "") -> NodeConfig:
    return NodeConfig(ConfFile("vz.conf", text.encode()))


def test_a_named_sample_is_copied_with_its_comments(folder: Path) -> None:
    conf = samples.for_create(101, node(), "basic")
    assert conf.dump() == b'# basic\nCPUUNITS="1000"\nORIGIN_SAMPLE="basic"\n'
    assert conf.path == str(folder / "101.conf")
    assert not (folder / "101.conf").exists()


def test_the_nodes_sample_is_the_default_and_none_is_none(folder: Path) -> None:
    assert samples.for_create(101, node('CONFIGFILE="basic"\n'), None).get("ORIGIN_SAMPLE") == "basic"
    assert samples.for_create(101, node(), None).dump() == b""


def test_a_conf_that_is_there_is_kept_with_a_warning_unless_a_sample_is_named(folder: Path) -> None:
    (folder / "101.conf").write_text("HOSTNAME=kept\n")
    conf = samples.for_create(101, node('CONFIGFILE="basic"\n'), None)
    assert conf.dump() == b"HOSTNAME=kept\n"
    assert len(conf.warnings) == 1
    with pytest.raises(VzError) as caught:
        samples.for_create(101, node(), "basic")
    assert caught.value.code == 82


@pytest.mark.parametrize("name", ["nothing", "../101", "", "a/b", ".x", "a\nb"])
def test_a_sample_that_cannot_be_had(folder: Path, name: str) -> None:
    for code in (82, 109):
        with pytest.raises(VzError) as caught:
            samples.read_sample(name, code)
        assert caught.value.code == code
        assert str(caught.value).isprintable()


def test_a_binary_sample_is_the_same_failure(folder: Path) -> None:
    (folder / "ve-bad.conf-sample").write_bytes(b"\0")
    (folder / "ve-dir.conf-sample").mkdir()
    for name in ("bad", "dir"):
        with pytest.raises(VzError) as caught:
            samples.read_sample(name, 82)
        assert caught.value.code == 82
