"""Programs for attempts from inside a CT: tests/probes/NAME.c, built once a session as static programs."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Vz

SOURCES = Path(__file__).with_name("probes")
FLAGS = {"interpreter": ["-static-pie", "-nostdlib", "-fPIE", "-fno-stack-protector"]}
_built: dict[str, Path] = {}


def build(name: str) -> Path:
    """Return the program of tests/probes/NAME.c."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc and libc6-dev")
    if not _built:
        folder = tempfile.mkdtemp(prefix="vz-probes-")
        atexit.register(shutil.rmtree, folder, True)
        _built[""] = Path(folder)
    if name not in _built:
        program = _built[""] / name
        flags = FLAGS.get(name, ["-static"])
        subprocess.run(["gcc", "-O2", "-w", *flags, "-o", program, SOURCES / f"{name}.c"], check=True)
        _built[name] = program
    return _built[name]


def give(vz: Vz, ctid: int, name: str, path: str = "") -> str:
    """Put probe NAME into the running CT and return its path there."""
    path = path or f"/root/{name}"
    done = vz("exec2", ctid, f"cat > {path} && chmod 755 {path}", stdin=build(name).read_bytes())
    assert done.returncode == 0, done.stderr
    return path
