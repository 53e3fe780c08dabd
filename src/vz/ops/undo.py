"""Undo: a step that is done names its inverse; leaving by an exception runs the inverses, newest first.

Also the answer to SIGINT and SIGTERM: the handler only sets a flag, which turns into ``Interrupted`` at the next
step, so that nothing falls between a step and its inverse.
"""

from __future__ import annotations

import _signal

from vz.errors import Interrupted
from vz.kernel import process
from vz.ops.report import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any


def catch_signals() -> None:
    """Make SIGINT and SIGTERM wait for the next step; SIGPIPE is ignored, as vzctl(8) does."""
    for number in (_signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, _on_signal)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if not interrupted():
        warn("Cancelling...")
    process.note_stop()


def check_interrupt() -> None:
    """Raise Interrupted, once, when a signal has asked us to stop: the inverses must run to their end."""
    if process.must_stop():
        raise Interrupted


def interrupted() -> bool:
    """Tell whether what fails now fails because of a signal: then nothing else needs saying."""
    return process.stop_asked or process.stopping


class Undo:
    """``with Undo() as undo: … undo.add(function, *args)``; a clean end forgets all inverses."""

    __slots__ = ("_report", "_steps")

    def __init__(self, report: Callable[[str], None] | None = None) -> None:
        self._steps: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._report = report

    def __enter__(self) -> Undo:
        check_interrupt()
        return self

    def add(self, function: Callable[..., Any], *args: Any) -> None:
        """Name the inverse of the step just done; raises Interrupted (and so runs it) when a signal came."""
        self._steps.append((function, args))
        check_interrupt()

    def __exit__(self, kind: object, exc: object, trace: object) -> None:
        if kind is not None:
            while self._steps:
                function, args = self._steps.pop()
                try:
                    function(*args)
                except Exception as failure:  # the others still run
                    if self._report is not None:
                        self._report(f"while undoing: {failure}")
        self._steps.clear()
