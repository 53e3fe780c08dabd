"""vzcfgvalidate: its rules one by one, repair, and its exit statuses."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from vz.cli import vzcfgvalidate
from vz.cli.main import Globals
from vz.config.conffile import ConfFile
from vz.config.validate import ERROR, RECOMMENDATION, WARNING, check_file

CONF = Path(__file__).parents[3] / "etc" / "conf"
BASIC = (CONF / "ve-basic.conf-sample").read_text()
GIB = 1 << 30


def findings(text: str, ram_bytes: int = 0, swap_bytes: int = 0) -> list[tuple[str, str]]:
    found = check_file(ConfFile("101.conf", text.encode()), ram_bytes=ram_bytes, swap_bytes=swap_bytes)
    return [(item.level, item.text) for item in found]


def with_value(key: str, value: str) -> str:
    lines = [f'{key}="{value}"' if line.startswith(f"{key}=") else line for line in BASIC.splitlines()]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", sorted(CONF.iterdir()), ids=lambda path: path.name)
def test_what_is_shipped_is_valid(path: Path) -> None:
    found = check_file(ConfFile.read(str(path)), ram_bytes=8 * GIB, swap_bytes=16 * GIB)
    assert found == []


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("NUMPROC", "100:200", "numproc.bar should be == numproc.lim"),
        ("KMEMSIZE", "1000:14790164", "kmemsize.bar should be >="),
        ("DCACHESIZE", "1:2", "dcachesize.lim should be >= 3575808"),
        ("PRIVVMPAGES", "10:20", "privvmpages.bar should be >= 33792"),
        ("TCPSNDBUF", "1720320:1720321", "tcpsndbuf.lim - tcpsndbuf.bar should be >= 921600"),
        ("TCPRCVBUF", "1720320:1720321", "tcprcvbuf.lim - tcprcvbuf.bar should be >= 921600"),
        ("OTHERSOCKBUF", "1126080:1126081", "othersockbuf.lim - othersockbuf.bar should be >= 921600"),
        ("TCPSNDBUF", "1000:2703360", "tcpsndbuf.bar should be >= 65536"),
        ("DGRAMRCVBUF", "1000:1000", "dgramrcvbuf.bar should be >= 32768"),
        ("NUMFILE", "100:100", "numfile.bar should be >= 5760"),
        ("SHMPAGES", "20:10", "shmpages.bar should be <= shmpages.lim"),
        ("NUMFLOCK", "206:188", "numflock.bar should be <= numflock.lim"),
        ("DISKSPACE", "2G:1G", "diskspace: the soft limit is above the hard one"),
        ("CPUUNITS", "5", "CPUUNITS"),
    ],
)
def test_each_rule(key: str, value: str, text: str) -> None:
    errors = [what for level, what in findings(with_value(key, value)) if level == ERROR]
    assert any(text in what for what in errors), errors


def test_a_small_datagram_buffer_is_only_a_recommendation() -> None:
    assert [level for level, _ in findings(with_value("DGRAMRCVBUF", "40000:262144"))] == [RECOMMENDATION]


def test_beancounters_that_are_missing() -> None:
    found = findings("ONBOOT=no\n")
    assert (ERROR, "parameter numproc not found") in found
    assert not any("avnumproc" in text or "swappages" in text for _, text in found)


def test_vswap() -> None:
    assert findings('PHYSPAGES="0:256M"\nSWAPPAGES="0:512M"\n', ram_bytes=GIB, swap_bytes=GIB) == []
    assert (ERROR, "parameter swappages not found") in findings('PHYSPAGES="0:256M"\n')
    assert findings('PHYSPAGES="5:256M"\nSWAPPAGES="0:0"\n')[0][0] == ERROR
    assert findings('PHYSPAGES="0:2G"\nSWAPPAGES="0:0"\n', ram_bytes=GIB)[0][0] == ERROR
    assert findings('PHYSPAGES="0:256M"\nSWAPPAGES="0:2G"\n', ram_bytes=GIB, swap_bytes=GIB)[0][0] == WARNING


def test_lines_of_a_file() -> None:
    text = 'nonsense\nFOO="1"\nCPUS="x"\nDESCRIPTION="$(reboot)"\nPHYSPAGES="0:1G"\nSWAPPAGES="0:0"\n'
    found = findings(text)
    assert [level for level, _ in found] == [WARNING, WARNING, ERROR, WARNING]
    assert [what.split(":")[1] for _, what in found] == ["1", "2", "3", "4"]


def run(argv: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = vzcfgvalidate.run(argv, Globals("vzcfgvalidate"))
    out, err = capfd.readouterr()
    return status, out, err


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good.conf"
    good.write_text(BASIC)
    assert run([str(good)], capfd) == (0, "Validation completed: success\n", "")
    bad = tmp_path / "bad.conf"
    bad.write_text(with_value("NUMPROC", "1:2"))
    status, out, err = run([str(bad)], capfd)
    assert (status, out) == (2, "")
    assert err.startswith("Error: numproc.bar should be == numproc.lim (currently, 1:2)\n")
    assert bad.read_text() == with_value("NUMPROC", "1:2")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["-x"],
        ["-v"],
        ["-v", "maybe", "f"],
        ["-r", "-i", "f"],
        ["a", "b"],
        ["/nonexistent"],
        ["/"],
        ["/dev/zero"],
        [""],
    ],
)
def test_usage_and_unreadable_files_are_1(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(argv, capfd)
    assert (status, out) == (1, "")
    assert err


def test_v_forces_the_kind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.conf"
    path.write_text('PHYSPAGES="0:64M"\nSWAPPAGES="0:0"\n')
    assert run([str(path)], capfd)[0] == 0
    assert run(["-v", "yes", str(path)], capfd)[0] == 0
    assert run(["-v", "no", str(path)], capfd)[0] == 2


def test_repair_makes_a_file_valid_and_leaves_its_other_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.conf"
    text = BASIC
    for key, value in (
        ("KMEMSIZE", "1:2"),
        ("NUMFILE", "10:20"),
        ("TCPSNDBUF", "5:5"),
        ("DGRAMRCVBUF", "1"),
        ("DISKSPACE", "5G:1G"),
    ):
        text = (
            "\n".join(f'{key}="{value}"' if line.startswith(f"{key}=") else line for line in text.splitlines()) + "\n"
        )
    path.write_text("# mine\nUNKNOWN=1\n" + text)
    status, out, _ = run(["-r", str(path)], capfd)
    assert status == 0
    assert "kmemsize is set to " in out
    assert out.endswith("Validation completed: success\n")
    assert path.read_text().startswith("# mine\nUNKNOWN=1\n")
    assert run([str(path)], capfd)[0] == 0


def test_what_cannot_be_repaired_stays_invalid(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.conf"
    path.write_text(BASIC + 'CPUS="many"\n')
    assert run(["-r", str(path)], capfd)[0] == 2


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", 0), (b"n\n", 2), (b"", 2)])
def test_interactive_repair_asks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], answer: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.conf"
    path.write_text(with_value("NUMPROC", "1:2"))
    stream = io.BytesIO(answer)
    real = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: stream.read(size) if fd == 0 else real(fd, size))
    got, out, _ = run(["-i", str(path)], capfd)
    assert got == status
    assert "set numproc to 2? [y/N]" in out
    assert ('NUMPROC="2"' in path.read_text()) == (status == 0)
