"""Every test of tests/kernel and tests/e2e once more, on cgroup version 2: in user-mode Linux, see machine.py.

Each has a test here, which waits for its result.  What cannot run there is skipped there, by vm_limits.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from machine import TREE
from vm_session import Session


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    argv = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--collect-only"]
    environment = {name: value for name, value in os.environ.items() if name not in ("VZ_SOAK", "PYTEST_ADDOPTS")}
    argv += ["tests/kernel", "tests/e2e"]
    done = subprocess.run(argv, cwd=TREE, env=environment, capture_output=True, text=True)
    ids = [line for line in done.stdout.splitlines() if "::" in line]
    if done.returncode or not ids:
        raise RuntimeError(f"what would run in the VM cannot be collected:\n{done.stdout}{done.stderr}")
    metafunc.parametrize("test_id", ids, ids=ids)
    metafunc.config.pluginmanager.register(Session(), "vm")


@pytest.fixture
def vm(request: pytest.FixtureRequest) -> Session:
    found = request.config.pluginmanager.get_plugin("vm")
    assert isinstance(found, Session)
    return found


@pytest.mark.timeout(0)  # the VM has a timeout for each test, and Session one for all
def test_in_the_vm(vm: Session, test_id: str) -> None:
    outcome, text = vm.result(test_id)
    if outcome == "skipped":
        name = test_id.rpartition("::")[2].partition("[")[0]
        pytest.skip(text if text.startswith("in the VM: ") else f"in the VM: {name}: {text}")
    if outcome != "passed":
        pytest.fail(f"in the VM: {text}", pytrace=False)
