"""Which distribution file a template gets, what may stand in it, and how a script's input is quoted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vz.config import dists
from vz.errors import ExitCode, VzError

SHIPPED = Path(__file__).resolve().parents[3] / "etc/dists"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dists, "DISTS_DIR", str(tmp_path))
    monkeypatch.setattr(dists, "SCRIPTS_DIR", str(tmp_path / "scripts"))
    (tmp_path / "scripts").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("ostemplate", "expected"),
    [
        ("a-b-c", ["a-b-c.conf", "a-b.conf", "a.conf"]),
        ("debian-12-x86_64", ["debian-12-x86_64.conf", "debian-12.conf", "debian.conf"]),
        ("plain", ["plain.conf"]),
        ("pkg/debian-12", ["debian-12.conf", "debian.conf"]),
        ("../../../etc/passwd", ["passwd.conf"]),
        ("..", []),
        ("-", []),
        ("a\nb", []),
        ("", []),
        (None, []),
    ],
)
def test_candidates(ostemplate: str | None, expected: list[str]) -> None:
    assert dists.candidates(ostemplate) == expected


def test_the_best_file_wins(folder: Path) -> None:
    for name in ("default", "debian.conf", "debian-12.conf"):
        (folder / name).write_text("")
    assert dists.lookup("debian-12-x86_64").path.endswith("/debian-12.conf")
    assert dists.lookup("debian-11").path.endswith("/debian.conf")
    assert dists.lookup("debian-11").warning == ""
    assert "plan9" in dists.lookup("plan9-4").warning
    assert "this container" in dists.lookup("a\x1b[2J").warning


def test_no_file_at_all_is_107(folder: Path) -> None:
    with pytest.raises(VzError, match="not even a default") as caught:
        dists.lookup("debian-12")
    assert caught.value.code == ExitCode.NO_DISTR_CONF == 107


@pytest.mark.parametrize("text", ["FAMILY=plan9\n", "FAMILY=\0\n"])
def test_a_file_that_cannot_be_used_is_107(folder: Path, text: str) -> None:
    (folder / "x.conf").write_text(text)
    with pytest.raises(VzError) as caught:
        dists.lookup("x")
    assert caught.value.code == ExitCode.NO_DISTR_CONF


def test_functions_come_before_the_script(folder: Path) -> None:
    (folder / "x.conf").write_text('FAMILY="redhat"\nADD_IP="add.sh"\nDEL_IP=""\nUNKNOWN=1\n')
    (folder / "scripts/functions").write_text("f() { :; }")
    (folder / "scripts/add.sh").write_text("f\n")
    dist = dists.lookup("x")
    assert (dist.family, dist.scripts) == ("redhat", {"ADD_IP": "add.sh"})
    assert dist.script_text("ADD_IP") == b"f() { :; }\nf\n"


@pytest.mark.parametrize("name", ["absent.sh", "../default", "/bin/sh", ".hidden", "folder"])
def test_a_script_that_is_not_there_is_108(folder: Path, name: str) -> None:
    (folder / "x.conf").write_text(f"ADD_IP={name}\n")
    (folder / "scripts/folder").mkdir()
    with pytest.raises(VzError) as caught:
        dists.lookup("x").script_text("ADD_IP")
    assert caught.value.code == ExitCode.NO_DISTR_ACTION_SCRIPT == 108


def test_values_are_text_for_the_shell() -> None:
    value = 'it\'s $(touch /tmp/never) `id` "x" \\ \n line'
    done = subprocess.run(["sh", "-s"], input=dists.exports({"A": value}) + b'printf %s "$A"', capture_output=True)
    assert done.stdout.decode() == value and not done.stderr


def test_the_shipped_files_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dists, "DISTS_DIR", str(SHIPPED))
    families = {
        "debian-13-x86_64": "debian",
        "debian-12-x86_64-sysvinit": "debian",
        "ubuntu-24.04": "debian",
        "centos-6-x86_64": "redhat",
        "fedora-15-x86_64": "redhat",
        "busybox-x86_64": "other",
    }
    for ostemplate, family in families.items():
        dist = dists.lookup(ostemplate)
        assert (dist.family, dist.scripts, dist.warning) == (family, {}, "")
    assert dists.lookup("unheard-of").warning
    for path in SHIPPED.iterdir():
        if path.is_file():
            subprocess.run(["sh", "-n", str(path)], check=True)
