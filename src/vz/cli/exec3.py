"""vzctl exec3: like exec2, but the words are the program and its arguments, with no shell between."""

from __future__ import annotations

from vz.cli import exec2
from vz.cli.main import Globals


def run(argv: list[str], options: Globals) -> int:
    """vzctl exec3 CTID PROGRAM [ARG…]"""
    return exec2.run(argv, options, shell=False)
