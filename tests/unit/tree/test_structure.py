"""The structure that the style guide promises: linters and types are clean, imports point down, modules stay small."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
SOURCES = sorted((TOP / "src" / "vz").rglob("*.py"))
MAX_LINES = 800
# each may import those of a lower number; equal numbers never meet, except that a package may import itself
LEVELS = {
    "kernel": 0,
    "errors": 0,
    "config": 2,
    "requests": 2,
    "container": 3,
    "resources": 4,
    "disk": 4,
    "net": 4,
    "guest": 4,
    "checkpoint": 4,
    "ops": 5,
    "node": 6,
    "cli": 7,
}
NEVER = frozenset(("argparse", "asyncio", "dataclasses", "http", "logging", "pyroute2", "requests", "typing"))


def imported(path: Path) -> list[tuple[int, str]]:
    """Return (line, dotted name) of everything that a module imports at run time, inside functions too."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            skipped.update(id(inner) for inner in ast.walk(node))
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.relative_to(TOP / "src").with_suffix("").parts[: -node.level]
                module = ".".join((*package, module)).rstrip(".")
            found.append((node.lineno, module))
            if module == "vz":
                found += [(node.lineno, f"vz.{alias.name}") for alias in node.names]
    return found


def level_name(dotted: str) -> str:
    return dotted.split(".")[1] if dotted.startswith("vz.") else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TOP / "src/vz")))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(TOP / "src/vz").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    wrong = []
    for line, name in imported(path):
        other = level_name(name)
        if other and other != own and LEVELS[other] >= LEVELS[own]:
            wrong.append(f"{path.name}:{line} imports {name}")
        if name.split(".")[0] in NEVER and own not in ("node",):
            wrong.append(f"{path.name}:{line} imports {name}, which costs start-up time")
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TOP / "src/vz")))
def test_a_module_is_one_subject(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "no docstring"


def test_no_drawer_for_odds_and_ends() -> None:
    names = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    assert not names & {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


@pytest.mark.parametrize(
    "argv", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=["lint", "format", "types"]
)
def test_linters_and_types(argv: list[str], tmp_path: Path) -> None:
    program = Path(sys.executable).parent / argv[0]
    environment = {**os.environ, "RUFF_CACHE_DIR": str(tmp_path / "ruff"), "MYPY_CACHE_DIR": str(tmp_path / "mypy")}
    done = subprocess.run([program, *argv[1:]], cwd=TOP, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shell_scripts_parse() -> None:
    scripts = [
        path for folder in ("tools", "bin", "tests", "etc") for path in (TOP / folder).rglob("*") if path.is_file()
    ]
    shell = [path for path in scripts if path.read_bytes()[:40].startswith((b"#!/bin/sh", b"#!/bin/bash"))]
    assert len(shell) > 4
    for path in shell:
        subprocess.run(["bash" if b"bash" in path.read_bytes()[:12] else "sh", "-n", path], check=True)


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by that, and a run of all of them would end at once."""
    names = [path.name for path in (TOP / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
