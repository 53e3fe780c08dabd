"""Commands struck at chosen system calls: SIGKILL of the command, of all its processes, of one helper, signals, errors.

Each time one next command brings the CT to a sound state and names what it mended, and nothing is left over.  A
sample of the moments each time; with --soak all of them, for as long as MINUTES a case.
"""

from __future__ import annotations

import os
import random
import time
import zlib
from collections.abc import Iterator

import pytest

from conftest import BUSYBOX, SOAK, leftovers
from killat import MAKING
from nodestate import processes, snapshot
from strikes import Rig, cases, sweep
from testnode import Node

MINUTES = float(os.environ.get("VZ_STRIKE_MINUTES", "2"))
NAMES = "create mount umount start stop restart set-save set-live set-edit set-unsaved destroy".split()
KILLS = ("main", "all")
OTHERS = ("one", "int", "term", "ENOSPC", "EIO", "ENOMEM", "EAGAIN", "EMFILE")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86_64 system call numbers")
    with Node() as node:
        yield Rig(node, 7101, BUSYBOX)


@pytest.mark.parametrize("name", NAMES)
def test_struck_anywhere(rig: Rig, name: str) -> None:
    # the same moments at each commit, so that a failure is the commit's; soak looks for new ones
    seed = random.randrange(1 << 30) if SOAK else zlib.crc32(name.encode())
    rng = random.Random(seed)
    end = time.monotonic() + MINUTES * 60

    def points(count: int) -> Iterator[tuple[int, str, bool]]:
        every = [(at, how, rng.random() < 0.5) for at in range(1, count + 1) for how in KILLS + OTHERS]
        rng.shuffle(every)
        if SOAK:
            for point in every:
                if time.monotonic() > end:
                    return
                yield point
            return
        yield from [point for point in every if point[1] in KILLS][:2]
        yield from [point for point in every if point[1] in OTHERS][:1]

    wrong = sweep(rig, cases(rig.ctid, rig)[name], points)
    assert not wrong, f"seed {seed}\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", ["stop", "destroy"])
def test_no_process_to_be_had_for_what_can_wait(rig: Rig, name: str) -> None:
    """The CT is dead or gone already: the command does itself what it would have left to a child."""
    case = cases(rig.ctid, rig)[name]
    _, calls = rig.known(case)
    made = [call for call in calls if call.partition(": ")[2].startswith(MAKING)]  # what an errno is counted by
    assert rig.back(case) == []
    forks = [at for at, call in enumerate(made, 1) if call.startswith("main: clone")]
    assert forks
    for at in forks:
        assert rig.round(case, at, "EAGAIN", False) == []
        assert rig.back(case) == []


def test_an_init_that_is_killed_before_it_is_one_has_not_started(rig: Rig) -> None:
    start = cases(rig.ctid, rig)["start"]
    _, calls = rig.known(start)
    rig.back(start)
    helpers = [call for call in calls if not call.startswith("main:")]
    last = max(number for number, call in enumerate(helpers, 1) if call.startswith("vzctl: mount("))
    report, _, err = rig.strike(start, last, "one")
    assert report["struck"] and report["status"] == 7 and "was killed" in err, (report, err)
    assert rig.back(start) == []


def test_destroy_after_all_that_leaves_nothing(rig: Rig) -> None:
    rig.to("absent")
    for _ in range(100):  # the deleter goes on in the background
        if not processes(rig.node):
            break
        time.sleep(0.05)
    assert [line for line in snapshot(rig.node) if str(rig.ctid) in line] == []
    assert processes(rig.node) == [] and leftovers(rig.node, rig.ctid) == []
