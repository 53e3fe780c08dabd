"""Man pages and completion: made from the declarations, up to date, and sound."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from vz.config.nodeconfig import NODE_KEYS
from vz.config.options import OPTIONS
from vz.errors import ExitCode

TOP = Path(__file__).parents[3]
PAGES = sorted((TOP / "docs" / "man").glob("*.[58]"))


def test_everything_made_is_up_to_date() -> None:
    subprocess.run([TOP / "tools" / "gen-man", "--check"], check=True)


def test_the_five_pages_are_there() -> None:
    assert {path.name for path in PAGES} >= {"vzctl.8", "vzlist.8", "vztmpl.8", "ctid.conf.5", "vz.conf.5"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_has_no_roff_warning(page: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    argv = ["groff", "-ww", "-t", "-man", "-Tutf8", "-Kutf8", page]
    result = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "@@" not in page.read_text()


def test_every_key_and_option_is_in_the_manual() -> None:
    ctid = (TOP / "docs/man/ctid.conf.5").read_text()
    vzctl = (TOP / "docs/man/vzctl.8").read_text().replace("\\-", "-")
    node = (TOP / "docs/man/vz.conf.5").read_text()
    for option in OPTIONS:
        assert f"\\fB{option.key}\\fR" in ctid
        assert all(flag in vzctl for flag in option.flags if flag.startswith("--"))
    for key, _default, _help in NODE_KEYS:
        assert f"\\fB{key}\\fR" in node


def test_the_exit_statuses_of_the_manual_are_those_of_the_code() -> None:
    rows = {}
    for line in (TOP / "docs/man/vzctl.8").read_text().splitlines():
        fields = line.split("\t")
        if len(fields) == 3 and fields[0].isdigit():
            rows[fields[1] or "OK"] = int(fields[0])
    assert rows == {name: value for name, value in vars(ExitCode).items() if name.isupper()}


def complete(tmp_path: Path, function: str, words: list[str]) -> list[str]:
    """Return what bash would offer for the last of *words*."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
        . {shlex.quote(f"{TOP}/completion/vzctl")}
        COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}
        {function}; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = {"PATH": os.environ["PATH"]}
    return subprocess.check_output(["bash", "-c", script], text=True, cwd=tmp_path, env=env).split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["vzctl", "st"], ["start", "status", "stop"]),
        (["vzctl", "--quiet", "umo"], ["umount"]),
        (["vzctl", "set", "101", "--netf"], ["--netfilter"]),
        (["vzctl", "set", "101", "--save", "--onboot", ""], ["yes", "no"]),
        (["vzctl", "set", "101", "--netfilter", ""], ["disabled", "stateless", "stateful", "full"]),
        (["vzctl", "set", "101", "--diskspa"], ["--diskspace"]),
        (["vzctl", "create", "101", "--lay"], ["--layout"]),
        (["vzctl", "create", "101", "--layout", ""], ["overlay", "simfs", "ploop"]),
        (["vzctl", "stop", "101", "--f"], ["--fast"]),
    ],
)
def test_completion_of_vzctl(tmp_path: Path, words: list[str], offered: list[str]) -> None:
    assert complete(tmp_path, "_vzctl", words) == offered


def test_completion_of_ploop(tmp_path: Path) -> None:
    assert complete(tmp_path, "_ploop", ["ploop", "snapshot-m"]) == ["snapshot-merge"]
    assert complete(tmp_path, "_ploop", ["ploop", "init", "-f", "pre"]) == ["preallocated"]


def test_completion_of_vzlist_and_vztmpl(tmp_path: Path) -> None:
    assert complete(tmp_path, "_vzlist", ["vzlist", "-o", "ctid,stat"]) == ["ctid,status"]
    assert complete(tmp_path, "_vzlist", ["vzlist", "--no-t"]) == ["--no-trim"]
    assert complete(tmp_path, "_vztmpl", ["vztmpl", "ver"]) == ["verify"]
