"""Which commands there are: one that has no module yet says so, in one line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vz.cli.table import PROGRAMS, VERBS

TOP = Path(__file__).parents[3]


def test_the_links_are_the_programs() -> None:
    assert {path.name for path in (TOP / "bin").iterdir()} == {*PROGRAMS, "vz-launcher"}


def test_every_verb_has_its_module() -> None:
    assert [verb for verb, module in VERBS.items() if not (TOP / f"src/vz/cli/{module}.py").exists()] == []


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_a_program_answers_or_says_that_it_is_not_there(program: str) -> None:
    done = subprocess.run([TOP / "bin" / program, "--help"], capture_output=True, text=True, env=dict(os.environ))
    assert "Traceback" not in done.stderr
    if (TOP / f"src/vz/cli/{PROGRAMS[program]}.py").exists():
        assert done.stdout or done.stderr
    else:
        assert (done.returncode, done.stderr) == (20, f"{program}: not available in this version\n")
