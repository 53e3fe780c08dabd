"""A child that is reaped while it is being reaped: SIGCHLD comes between waitid(2) and what is made of its answer."""

from __future__ import annotations

import os
import select
import signal
from typing import Any

import pytest

from vz.ops.relay import Child


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_in_the_midst_of_a_reap_loses_no_status(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    gate, opener = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(gate, 1)
        os._exit(7)
    child = Child(pid)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the test says when
    waitid = os.waitid

    def interrupted(*arguments: Any) -> Any:
        monkeypatch.setattr(os, "waitid", waitid)
        if when == "before":
            child.reap()
        found = waitid(*arguments)
        if when == "after":
            child.reap()
        return found

    try:
        os.write(opener, b"!")
        assert select.select([child.pidfd], [], [], 10)[0]
        monkeypatch.setattr(os, "waitid", interrupted)
        child.reap()
        assert (child.ended, child.status) == (True, 7)
    finally:
        child.close()
        os.close(gate)
        os.close(opener)
