"""The two statuses that take a hung process or five minutes: 33 and 15, with the waiting cut short."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any, cast

import pytest

import vz.ops.exec
from vz.config import dists
from vz.container.ct import Container
from vz.errors import VzError
from vz.ops import distscripts, stop


def test_an_init_that_survives_sigkill_is_33(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    monkeypatch.setattr(stop, "KILL_TIMEOUT_S", 0)
    monkeypatch.setattr(stop, "SESSION_TIMEOUT_S", 0)
    monkeypatch.setattr(stop, "_sessions_with_zombies", lambda _: [])
    monkeypatch.setattr(stop, "pidfd_send_signal", lambda pidfd, number: sent.append(number))
    with subprocess.Popen(["sleep", "60"]) as process:
        pidfd = os.pidfd_open(process.pid)
        try:
            with pytest.raises(VzError) as caught:
                stop.kill(cast(Container, None), pidfd)
        finally:
            process.kill()
            os.close(pidfd)
    assert (caught.value.code, sent) == (33, [signal.SIGKILL])


class Dist:
    """A distribution file that names one script."""

    path = "/etc/vz/dists/x.conf"
    scripts = {"SET_HOSTNAME": "slow.sh"}

    def script_text(self, action: str) -> bytes:
        return b"sleep 1000\n"


@pytest.mark.parametrize(("limit_s", "status", "code"), [(0, 127, 15), (300, 1, 70), (300, 0, 0)])
def test_a_script_that_takes_too_long_is_15(
    monkeypatch: pytest.MonkeyPatch, limit_s: int, status: int, code: int
) -> None:
    monkeypatch.setattr(dists, "LIMIT_S", limit_s)
    monkeypatch.setattr(distscripts, "environment", lambda *_: {})
    monkeypatch.setattr(vz.ops.exec, "exec_status", lambda *_: (status, b""))
    arguments: Any = (None, Dist(), "SET_HOSTNAME", "running")
    if not code:
        assert distscripts.run(*arguments)
        return
    with pytest.raises(VzError) as caught:
        distscripts.run(*arguments)
    assert caught.value.code == code and "slow.sh" in str(caught.value)
