"""Every CT can be checkpointed from its first start: a plain criu dump and restore, told what the record says."""

from __future__ import annotations

import pytest

from conftest import Vz, template
from testnode import TREE


@pytest.mark.parametrize("name", ["busybox", "debian-12", "debian-13", "debian-12-sysvinit"])
def test_dump_and_restore(vz: Vz, new_ct, name: str) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--ipadd", "192.0.2.77", "--ipadd", "2001:db8::77", template=template(name), start=False)
    vz.ok("start", ctid, "--wait")
    vz.sh(ctid, "echo kept > /run/kept; (sleep 1000 & echo $! > /run/sleeper) </dev/null >/dev/null 2>&1")
    done = vz.run("/usr/bin/python3", "-I", "-B", f"{TREE}/tests/e2e/criu_cycle.py", ctid)
    assert done.returncode == 0, done.stdout + done.stderr
    assert vz("exec", ctid, "cat /run/kept").stdout == "kept\n"
    assert vz.run("ping", "-c1", "-W2", "192.0.2.77").returncode == 0
    assert vz.run("ping", "-6", "-c1", "-W2", "2001:db8::77").returncode == 0
    if name in ("debian-12", "debian-13"):
        assert vz("exec", ctid, "systemctl is-system-running").stdout == "running\n"
        assert vz("exec", ctid, "systemctl restart cron && systemctl is-active cron").stdout == "active\n"
    vz.ok("stop", ctid, timeout=60)
