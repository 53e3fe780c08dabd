"""Whose kill a record of /dev/kmsg is; a CT that names its groups and programs as it likes fakes nobody else's."""

from __future__ import annotations

import pytest

from vz.resources.noticing import parse_kill

HEAD = "6,812,7054681985,-;"
REST = "nodemask=(null),cpuset=/,mems_allowed=0"
OURS = (7054681985, "perl (pid 4711)", "container")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (f"CONSTRAINT_MEMCG,{REST},oom_memcg=/vz/101,task_memcg=/vz/101,task=perl,pid=4711,uid=0", OURS),
        (
            f"CONSTRAINT_MEMCG,{REST},oom_memcg=/vz/101/ct,task_memcg=/vz/101/ct/a.service,task=perl,pid=4711,uid=0",
            OURS,
        ),
        (
            f"CONSTRAINT_MEMCG,{REST},oom_memcg=/vz/101/ct/a,task_memcg=/vz/101/ct/a,task=perl,pid=4711,uid=0",
            (*OURS[:2], "program"),
        ),
        (f"CONSTRAINT_NONE,{REST},global_oom,task_memcg=/vz/101/ct,task=perl,pid=4711,uid=0", (*OURS[:2], "node")),
        (f"CONSTRAINT_MEMCG,{REST},oom_memcg=/vz/1010,task_memcg=/vz/1010,task=perl,pid=4711,uid=0", None),
        (f"CONSTRAINT_MEMCG,{REST},oom_memcg=/vz/102,task_memcg=/vz/102,task=x,oom_memcg=/vz/101,pid=1,uid=0", None),
        ("CONSTRAINT_MEMCG,oom_memcg=/vz/101", None),
    ],
)
def test_whose_it_was(words: str, wanted: tuple[int, str, str] | None) -> None:
    assert parse_kill(f"{HEAD}oom-kill:constraint={words}\n SUBSYSTEM=x\n", "/vz/101") == wanted


@pytest.mark.parametrize("group", ["/vz/102/ct/x,task_memcg=/vz/101", "/vz/102/ct/x,task_memcg=/vz/101/ct"])
def test_a_group_that_is_named_like_another_ct(group: str) -> None:
    words = f"CONSTRAINT_MEMCG,{REST},oom_memcg={group},task_memcg={group},task=a,pid=1,uid=0"
    assert parse_kill(f"{HEAD}oom-kill:constraint={words}", "/vz/101") is None
    found = parse_kill(f"{HEAD}oom-kill:constraint={words}", "/vz/102")
    assert found is not None and found[2] == "program"


def test_a_limit_above_all_containers_is_the_nodes() -> None:
    words = f"CONSTRAINT_MEMCG,{REST},oom_memcg=/vz,task_memcg=/vz/101/ct,task=a,pid=1,uid=0"
    assert parse_kill(f"{HEAD}oom-kill:constraint={words}", "/vz/101") == (7054681985, "a (pid 1)", "node")
