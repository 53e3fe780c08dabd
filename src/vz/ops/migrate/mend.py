"""What any command does that finds an interrupted migration in the journal of its CT."""

from __future__ import annotations

from vz.container.ct import Container
from vz.ops.migrate import log


def mend(ct: Container, facts: dict[str, str]) -> None:
    """Finish it, or take it back; see outgoing.mend() and incoming.mend()."""
    if facts["operation"] == log.OUT:
        from vz.ops.migrate import outgoing

        outgoing.mend(ct, facts)
    else:
        from vz.ops.migrate import incoming

        incoming.mend(ct, facts)
