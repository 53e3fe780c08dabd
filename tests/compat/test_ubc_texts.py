"""The texts of beancounters and of the commands about the node, to the column: golden files in tests/compat/ubc.

VZ_WRITE_GOLDEN=1 makes them anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vz.cli import vzcalc, vzcpucheck, vzmemcheck, vzoversell, vzsplit, vzubc
from vz.cli.main import Globals
from vz.config.conffile import ConfFile
from vz.config.units import UNLIMITED
from vz.config.validate import ERROR, check_file
from vz.resources import beancounters, commitment, proctext
from vz.resources.commitment import Node
from vz.resources.proctext import Row

GOLDEN = Path(__file__).parent / "ubc"
MB = 1 << 20
NODE = Node(8192 * MB, 2048 * MB, 32768)


def golden(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if "VZ_WRITE_GOLDEN" in os.environ:
        path.write_text(text)
    assert text == path.read_text()


def rows(**given: Row) -> dict[str, Row]:
    unlimited: Row = (0, 0, UNLIMITED, UNLIMITED, 0)
    return {name: given.get(name, unlimited) for name in proctext.NAMES}


BASIC = rows(
    kmemsize=(4862976, 5533696, 14372700, 14790164, 3),
    privvmpages=(22528, 30720, 65536, 69632, 0),
    physpages=(8192, 9000, 0, UNLIMITED, 0),
    oomguarpages=(8192, 9000, 26112, UNLIMITED, 0),
    vmguarpages=(22528, 30720, 33792, UNLIMITED, 0),
    numproc=(120, 240, 240, 240, 17),
    numtcpsock=(3, 5, 360, 360, 0),
    tcpsndbuf=(0, 0, 1720320, 2703360, 0),
    tcprcvbuf=(0, 0, 1720320, 2703360, 0),
    othersockbuf=(0, 0, 1126080, 2097152, 0),
    dgramrcvbuf=(0, 0, 262144, 262144, 0),
    numfile=(123456, 123456, 9312, 9312, 0),
)
VSWAP = rows(
    physpages=(50000, 65536, 0, 65536, 2), swappages=(1000, 2000, 0, 131072, 0), numproc=(30, 31, 8192, 8192, 0)
)


def test_the_text_of_proc() -> None:
    blocks = {0: rows(), 101: BASIC, 2147483644: VSWAP}
    text = proctext.user_beancounters(blocks)
    golden("user_beancounters", text)
    golden("bc-resources", proctext.bc_resources(blocks))
    golden("bc-101-resources", proctext.bc_ct_resources(BASIC))
    lines = text.splitlines()
    assert lines[:2] == ["Version: 2.5", "       uid  resource                     held" + " " * 14 + "maxheld"
                         + " " * 14 + "barrier" + " " * 16 + "limit" + " " * 14 + "failcnt"]  # fmt: skip
    assert "\n      101:  kmemsize" in text
    assert {len(line) for line in lines[1:]} == {10 + 2 + 12 + 5 * 21}
    assert [line.split()[-6] for line in lines[27:52]].count("dummy") == 4


def test_what_is_written_is_read() -> None:
    blocks = {0: rows(), 101: BASIC}
    assert proctext.parse(proctext.user_beancounters(blocks)) == blocks
    assert proctext.parse(proctext.bc_resources(blocks)) == blocks


@pytest.mark.parametrize("text", ["", "Version: 2.4\n", "Version: 2.5\n  101: kmemsize 1 2 3\n", "a\0b"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|not a line"):
        proctext.parse(text)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"numproc": "enforced", "physpages": "enforced", "swappages": "enforced", "numfile": "approximate"}
    monkeypatch.setattr(beancounters, "kept_how", lambda name: how.get(name, "counted"))
    monkeypatch.setitem(beancounters.APPROXIMATELY, "numfile", "each process alone")


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("vzubc", []),
        ("vzubc-q", ["-q"]),
        ("vzubc-v", ["-v", "-qm", "0.99"]),
        ("vzubc-c", ["-c", "-qh", "0.9"]),
    ],
)
def test_vzubc(name: str, argv: list[str], kept: None) -> None:
    asked, _ids = vzubc.parse(argv)
    golden(name, vzubc.text_of(asked, {101: BASIC, 102: VSWAP}))


def test_vzubc_remembers(tmp_path: Path) -> None:
    asked, _ = vzubc.parse(["-rd", str(tmp_path / "r"), "-id", str(tmp_path / "i")])
    first = vzubc.text_of(asked, {101: BASIC})
    more = {**BASIC, "numproc": (100, 240, 240, 240, 20)}
    second = vzubc.text_of(asked, {101: more})
    line = next(line for line in second.splitlines() if " numproc|" in line)
    assert line.startswith("     numproc|  -20") and line.endswith("     3")
    assert next(line for line in first.splitlines() if " numproc|" in line).endswith("    17")
    vzubc.clear(str(tmp_path / "r"))
    assert list((tmp_path / "r").iterdir()) == []


def test_vzubc_reads_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from vz.cli.main import Globals

    path = tmp_path / "ub"
    path.write_text(proctext.user_beancounters({101: BASIC, 102: VSWAP}))
    assert vzubc.run(["-f", str(path), "102"], Globals("vzubc")) == 0
    assert capfd.readouterr().out.splitlines()[1].startswith("CT 102      | HELD")
    assert vzubc.run(["-f", str(path), "103"], Globals("vzubc")) == 1
    path.write_text("Version: 2.4\n")
    assert vzubc.run(["-f", str(path)], Globals("vzubc")) == 1
    assert capfd.readouterr().err.splitlines()[-1] == "Version: 2.5 expected"


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (0, "items", "-"), (UNLIMITED, "bytes", "-"), (99999, "items", "99999"), (123456, "items", "123K"),
        (1023, "bytes", "1023"), (1024, "bytes", "1K"), (4862976, "bytes", "4.64M"), (256, "pages", "1M"),
        (65536, "pages", "256M"), (1048575, "bytes", "1M"), (10 << 40, "bytes", "10T"),
    ],
)  # fmt: skip
def test_short_numbers(value: int, kind: str, shown: str) -> None:
    assert vzubc.human(value, kind) == shown


def test_vzmemcheck() -> None:
    shares = {ctid: commitment.share(part, NODE) for ctid, part in ((101, BASIC), (102, VSWAP))}
    for name, verbose, absolute in (("vzmemcheck", False, False), ("vzmemcheck-vA", True, True)):
        text = vzmemcheck.report(shares, NODE, verbose, absolute)
        golden(name, text)
    row = text.splitlines()[3].split()  # awk '{print $1" "$9}'
    assert (row[0], float(row[8])) == ("101", pytest.approx((69632 * 4096 + 22643060 - 391616) / MB, abs=1))
    assert len(text.splitlines()[3]) == 11 + 8 * 8 - 1


def test_vzoversell(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    full = rows(physpages=(62000, 65536, 0, 65536, 3), swappages=(1024, 2048, 0, 131072, 1))
    text = vzoversell.report({102: VSWAP, 101: BASIC, 103: full}, 512 * MB, 0)
    golden("vzoversell", text)
    assert text.splitlines()[-3:] == [
        "RAM        available: 512  allocated: 512  oversell: 0%",
        "Swap       available: 0  allocated: 1024  oversell: n/a",
        "RAM+Swap   available: 512  allocated: 1536  oversell: 200%",
    ]
    saved = tmp_path / "resources"
    saved.write_text(proctext.bc_resources({0: BASIC, 103: full}))
    assert vzoversell.from_file(str(saved)) == {103: proctext.parse(saved.read_text())[103]}
    junk = tmp_path / "junk"
    junk.write_bytes(b"\0\xff" * 99)
    for path, words in ((junk, "Version: 2.5 expected"), (tmp_path / "none", "No such file or directory")):
        assert vzoversell.run([str(path)], Globals("vzoversell")) == 1
        assert capfd.readouterr() == ("", f"vzoversell: {path}: {words}\n")


def test_vzcalc() -> None:
    for name, part, running, verbose in (
        ("vzcalc-v", BASIC, True, True),
        ("vzcalc-stopped", BASIC, False, True),
        ("vzcalc-vswap", VSWAP, True, False),
    ):
        golden(name, vzcalc.report(commitment.share(part, NODE), part["numproc"], NODE, running, verbose))


def test_a_ct_without_limits_was_promised_the_whole_node() -> None:
    values = commitment.share(rows(), NODE).values
    assert values == [0, NODE.ram, 0, 0, NODE.total, 0, NODE.total, NODE.total]


def test_vzcpucheck() -> None:
    text = vzcpucheck.report({0: 1000, 101: 500}, 1200, True)
    golden("vzcpucheck-v", text)
    plain = vzcpucheck.report({0: 1000}, 2000, False).splitlines()
    assert (plain[0].split()[3], plain[1].split()[4]) == ("1000", "2000")  # words 4 and 5, as nova reads them
    assert [line.split(":")[1].strip() for line in plain] == ["1000", "2000"]
    assert vzcpucheck.power() > 0


@pytest.mark.parametrize(("count", "vswap"), [(1, "yes"), (50, "yes"), (1, "no"), (8, "no"), (60, "no")])
def test_what_vzsplit_makes_is_valid(count: int, vswap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vzsplit, "host_memory", lambda: (64 << 30, 4 << 30))
    text = vzsplit.make(vzsplit.parse(["-n", str(count), "-v", vswap]))
    conf = ConfFile("ve-split.conf-sample", text.encode())
    left = check_file(conf, vswap=vswap == "yes", ram_bytes=64 << 30, swap_bytes=4 << 30)
    assert [str(finding) for finding in left if finding.level == ERROR] == []
    if vswap == "yes":
        pages = (64 << 30) * 9 // 10 // count // 4096
        assert (conf.get("PHYSPAGES"), conf.get("SWAPPAGES")) == (f"0:{pages}", f"0:{2 * pages}")
        assert (conf.get("VMGUARPAGES"), conf.get("KMEMSIZE")) == ("0:unlimited", "unlimited")


@pytest.mark.parametrize(
    "argv", [["-n", "0"], ["-n", "x"], ["-n"], ["-v", "maybe"], ["-n", "1", "-f", "../x"], ["-q", "1"], ["-s", "-1"]]
)
def test_vzsplit_refuses(argv: list[str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        vzsplit.parse(argv if "-n" in argv else ["-n", "1", *argv])
