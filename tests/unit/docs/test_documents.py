"""The documents: what they link to is there, what they name exists, and the version is one."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from vz.cli.main import VERSION
from vz.cli.table import LATER, VERBS
from vz.cli.usage import USAGE
from vz.config.actions import ACTIONS
from vz.config.options import OPTIONS

TOP = Path(__file__).parents[3]
DOCUMENTS = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")])
names = [str(path.relative_to(TOP)) for path in DOCUMENTS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)\)", path.read_text())
    local = [path.parent / target for target in targets if "://" not in target]
    assert [str(target) for target in local if not target.exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_files_that_are_named_exist(path: Path) -> None:
    words = re.findall(r"`([a-z0-9_.-][a-z0-9_./-]*/[A-Za-z0-9_.-]+\.(?:py|md|conf|in))`", path.read_text())
    words = [word for word in words if "NAME" not in word]
    places = (TOP, TOP / "src/vz", TOP / "etc", path.parent)
    assert [word for word in words if not any((place / word).exists() for place in places)] == []


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_functions_of_a_start_are_where_the_architecture_says() -> None:
    rows = re.findall(r"^\| \d+ \| `([a-z_/.]+\.py)` \| ([^|]*) \|", (TOP / "docs/architecture.md").read_text(), re.M)
    assert len(rows) > 15
    for module, named in rows:
        wanted = set(re.findall(r"`(\w+)`", named))
        assert wanted and wanted <= functions(TOP / "src/vz" / module), module


def test_every_package_is_on_the_map() -> None:
    text = (TOP / "docs/architecture.md").read_text()
    packages = {path.parent.name for path in (TOP / "src/vz").glob("*/__init__.py")}
    folders = {path.name for path in TOP.iterdir() if path.is_dir() and not path.name.startswith(".")}
    missing = {name for name in packages | folders - {"src", "docs", "bin", "completion"} if f"`{name}/`" not in text}
    assert missing == set()


def test_the_readme_names_every_page_and_the_targets_that_it_counts_on() -> None:
    text = (TOP / "README.md").read_text()
    for page in (TOP / "docs/man").glob("*.[58]"):
        assert f"man {page.stem}`" in text
    targets = re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.M)
    assert set(re.findall(r"make ([a-z]+)(?= |`|$)", text.replace("install make ", ""), re.M)) <= set(targets)


def test_what_is_refused_is_in_the_changelog() -> None:
    text = (TOP / "CHANGELOG.md").read_text()
    refused = text[text.index("### Refused") : text.index("### Different")]
    for verb in LATER:
        assert verb in refused or f"{verb.partition('-')[0]}*" in refused, verb
    for verb in VERBS:
        assert not re.search(rf"`[^`]*\b{verb}\b(?!-)[^`]*`", refused.replace("--", "++")), f"{verb} is there now"
    later = [option for option in [*OPTIONS, *(option for _group, option in ACTIONS)] if option.later and option.flags]
    for option in later:
        assert option.flags[0] in refused, option.flags


def test_every_rule_of_isolation_has_its_tests() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", (TOP / "docs/security.md").read_text(), re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 16))
    files = {path.name: functions(path) for path in (TOP / "tests").rglob("test_*.py")}
    for number, named in rows:
        found = [files[name] for name in re.findall(r"`(test_\w+\.py)`", named)]
        assert found, number
        if int(number) < 13:
            assert any(test.startswith(f"test_rule{int(number):02}_") for tests in found for test in tests), number
    marked = {name for name, tests in files.items() if any(test.startswith("test_rule") for test in tests)}
    assert marked <= {name for _, named in rows for name in re.findall(r"`(\w+\.py)`", named)}


def test_there_is_one_version() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert USAGE.startswith(f"vzctl version {VERSION}\n")
    assert (TOP / "CHANGELOG.md").read_text().startswith(f"# Changes\n\n## {VERSION}")


def test_decisions_have_one_number_each() -> None:
    numbers = [path.name[:4] for path in (TOP / "docs/decisions").glob("*.md")]
    assert all(number.isdigit() for number in numbers)
    assert len(numbers) == len(set(numbers))
