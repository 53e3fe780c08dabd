"""The words after ``vzctl chkpnt CTID`` and ``vzctl restore CTID``."""

from __future__ import annotations

import os

from vz.errors import BadSyntax, BadValue
from vz.ops.report import warn

# of OpenVZ's own kernel: scripts give them, and there is nothing that they could stand for here
NUMBERS = ("--flags", "--context")


class Given:
    """What was given: the dump file as an absolute path ("": the default one), one step or "", flags."""

    __slots__ = ("dumpfile", "flags", "step")

    def __init__(self) -> None:
        self.dumpfile = ""
        self.step = ""
        self.flags: set[str] = set()


def parse(argv: list[str], steps: tuple[str, ...], flags: tuple[str, ...]) -> Given:
    """Return what *argv* says.

    Raises:
        BadSyntax: an unknown word, two steps (20).  BadValue: a missing or bad value (21).
    """
    given = Given()
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--dumpfile", *NUMBERS):
            if not equals:
                value = next(words, "")
            if not value or "\n" in value:
                raise BadValue(f"{name} needs a value")
            if name == "--dumpfile":
                given.dumpfile = os.path.abspath(value)
            elif not value.removeprefix("0x").isalnum():
                raise BadValue(f"Bad parameter for {name}: a number is wanted")
            else:
                warn(f"WARNING: {name} has no effect: it is an option of OpenVZ's own kernel")
        elif word in steps:
            if given.step and given.step != word:
                raise BadSyntax(f"{given.step} and {word} do not go together")
            given.step = word
        elif word in flags or word == "--skip_arpdetect":
            given.flags.add(word)
        else:
            kind = "Unknown option" if word.startswith("-") else "Invalid extra arguments:"
            raise BadSyntax(f"{kind} {''.join(c if c.isprintable() else '?' for c in word)}")
    return given


def need_dumpfile(given: Given, step: str) -> None:
    """BadSyntax (20) when *step* was given without --dumpfile."""
    if given.step == step and not given.dumpfile:
        raise BadSyntax(f"{step} needs --dumpfile FILE")
