"""pytest plugin inside a VM that has others beside it: each takes the next file of the list until none is left.

The list is a directory of the host, mounted by hostfs: one file for each test file, with the ids to run.  Who can
remove it has taken it; which of two VMs is faster need not be known before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

SHARE = "/run/share"


def taken() -> Iterator[str]:
    """Yield test ids, file by file, as long as there are some that no other VM has taken."""
    for name in sorted(os.listdir(SHARE)):
        try:
            with open(f"{SHARE}/{name}") as file:
                ids = file.read().split("\n")
            os.unlink(f"{SHARE}/{name}")
        except OSError:
            continue
        yield from ids


def pytest_runtestloop(session: pytest.Session) -> bool:
    items = {item.nodeid: item for item in session.items}
    before: pytest.Item | None = None
    for name in taken():
        item = items[name]
        if before is not None:
            before.config.hook.pytest_runtest_protocol(item=before, nextitem=item)
        before = item
    if before is not None:
        before.config.hook.pytest_runtest_protocol(item=before, nextitem=None)
    return True
