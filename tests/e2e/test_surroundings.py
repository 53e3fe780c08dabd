"""Commands where something is amiss around them: a full or read-only disk, no root, closed streams, few descriptors.

What fails does so with a documented status, in few words, and changes nothing; stop and destroy go on wherever they can.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from conftest import BUSYBOX
from nodestate import changes, processes, snapshot
from strikes import Rig
from testnode import Node

CTID = 7402
FULL = (
    "mount -t tmpfs -o size=1m t /mnt && cp -a {0}/. /mnt/ && mount --move /mnt {0} && "
    "{{ cat /dev/zero > {0}/fill; true; }} 2>&-"
)
READ_ONLY = "mount --bind {0} {0} && mount -o remount,bind,ro {0}"
NO_LOCK, NO_CONF, NO_AREA, NO_NAME, NO_ROOT, NO_START, NO_REMOVAL = 3, 139, 46, 131, 12, 7, 52
COMMANDS = {
    "create": ("absent", f"vzctl create {CTID} --ostemplate {BUSYBOX}"),
    "start": ("stopped", f"vzctl start {CTID}"),
    "set": ("stopped", f"vzctl set {CTID} --cpuunits 500 --name two --save"),
    "set-live": (
        "running",
        f"vzctl set {CTID} --hostname x.example.com --ipadd 198.51.100.7 --name two --save",
    ),
    "stop": ("running", f"vzctl stop {CTID} --fast"),
    "destroy": ("stopped", f"vzctl destroy {CTID}"),
}
# which place, how, and the status of each command that fails by it; the others succeed
PLACES = {
    "conf-full": (FULL, "/etc/vz/conf", {"create": NO_CONF, "set": NO_CONF, "set-live": NO_CONF}),
    "state-full": (FULL, "/var/lib/vzctl", {"create": NO_AREA, "start": NO_START, "set": 3, "set-live": 3}),
    "run-full": (FULL, "/run/vz", {"start": NO_START}),
    "etc-read-only": (
        READ_ONLY,
        "/etc/vz",
        {"create": NO_CONF, "set": NO_NAME, "set-live": NO_NAME, "destroy": NO_REMOVAL},
    ),
    "vz-read-only": (READ_ONLY, "/vz", dict.fromkeys(COMMANDS, NO_LOCK)),
}
WAYS = {
    "closed": ("{} <&- >&- 2>&-", 0),
    "output-full": ("{} >/dev/full", 0),
    "no-root": ("setpriv --reuid 65534 --clear-groups {}", NO_ROOT),
    "no-large-files": ("trap '' XFSZ; ulimit -f 0; {}", NO_LOCK),
    "16-descriptors": ("ulimit -n 16; {}", 0),
}


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Node() as node:
        yield Rig(node, CTID, BUSYBOX)


def run(rig: Rig, script: str) -> tuple[int, list[str], list[str]]:
    """Run *script*; return its status, what it said on stderr, and what it changed."""
    before = snapshot(rig.node)
    done = rig.node.run("sh", "-c", script)
    for _ in range(100):
        if not processes(rig.node):
            break
        time.sleep(0.05)
    return done.returncode, done.stderr.splitlines(), changes(before, snapshot(rig.node))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("where", PLACES)
def test_a_place_that_cannot_be_written(rig: Rig, where: str, name: str) -> None:
    how, place, failing = PLACES[where]
    state, command = COMMANDS[name]
    rig.to("absent")
    rig.to(state)
    made = rig.node.run("sh", "-c", how.format(place))
    assert made.returncode == 0, made.stderr
    try:
        status, said, changed = run(rig, command)
        expected = failing.get(name, 0)
        assert status == expected, said
        if expected:
            assert changed == [] and 1 <= len(said) <= 2, (changed, said)
    finally:
        if how is FULL:  # what was done there counts
            rig.node.run("sh", "-c", f"rm {place}/fill; mount --move {place} /mnt; cp -a /mnt/. {place}/; umount /mnt")
        else:
            rig.node.run("umount", "-l", place)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_caller_that_gives_little(rig: Rig, way: str, name: str) -> None:
    how, expected = WAYS[way]
    state, command = COMMANDS[name]
    rig.to("absent")
    rig.to(state)
    status, said, changed = run(rig, how.format(command))
    assert status == expected, said
    assert (changed == [] and len(said) == 1) if expected else not any("Traceback" in line for line in said)
