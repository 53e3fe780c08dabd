"""vzctl quotaon: see ops.diskquota."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals, flags


def run(argv: list[str], options: Globals) -> int:
    """vzctl quotaon CTID"""
    node, ctid = prepare(options, argv[0])
    flags(argv[1:], {})
    from vz.ops.diskquota import quota_on

    return locked(options, node, ctid, quota_on)
