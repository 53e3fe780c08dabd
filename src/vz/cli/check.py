"""vzctl check: whether a running CT can be checkpointed, or migrated live, and what stands in the way."""

from __future__ import annotations

import os

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.container.ct import Container, printable
from vz.errors import BadSyntax, BadValue, ExitCode, Interrupted, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Wanted:
    """What was given: a migration or just a dump, to which node ("": any), how ssh is to reach it."""

    __slots__ = ("host", "migrate", "ssh")

    def __init__(self) -> None:
        self.migrate = False
        self.host = ""
        self.ssh = ""


def run(argv: list[str], options: Globals) -> int:
    """vzctl check CTID [--migrate [HOST] [--ssh OPTIONS]]"""
    node, ctid = prepare(options, argv[0])
    wanted = parse(argv[1:])

    def action(ct: Container) -> int:
        if not wanted.migrate:
            from vz.ops.chkpnt import Dump, need_running, obstacles

            found = obstacles(ct, need_running(ct), Dump(ct.dump_path))
            return tell(found, [f"Container {ct.ctid} can be checkpointed", *doubts(ct)])
        return there(ct, wanted) if wanted.host else anywhere(ct)

    return locked(options, node, ctid, action)


def parse(argv: list[str]) -> Wanted:
    """Return what *argv* says; BadSyntax (20), BadValue (21)."""
    wanted = Wanted()
    words = list(argv)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name == "--migrate":
            wanted.migrate = True
            if not equals and words and not words[0].startswith("-"):
                value = words.pop(0)
            from vz.ops.migrate.ssh import is_host

            if (value or equals) and not is_host(value):
                raise BadValue(f"Bad parameter for --migrate: {printable(value)}")
            wanted.host = value
        elif name == "--ssh":
            if not equals:
                value = words.pop(0) if words else ""
            if not value or "\n" in value:
                raise BadValue("--ssh needs a value")
            wanted.ssh = value
        else:
            kind = "Unknown option" if name.startswith("-") else "Invalid extra arguments:"
            raise BadSyntax(f"{kind} {printable(name)}")
    if wanted.ssh and not wanted.host:
        raise BadSyntax("--ssh goes with --migrate HOST")
    return wanted


def anywhere(ct: Container) -> int:
    """Say what stands in the way on this side, or what another node must have."""
    from vz.ops.migrate import checks, conditions, source

    lines, live = source.live_facts(ct)
    found = conditions.missing_here() + lines
    if not live:
        return tell(found, [])
    try:
        facts = {**checks.ct_facts(ct, was="running"), "live": live}
    except Interrupted:
        raise
    except VzError as exc:  # its layout, its template
        return tell([*found, str(exc)], [])
    needs = [f"\t{line}" for line in conditions.wanted_there(facts)]
    return tell(found, [f"Container {ct.ctid} can be migrated live to a node that has", *needs, *doubts(ct)])


def there(ct: Container, wanted: Wanted) -> int:
    """Ask the node, as ``vzmigrate --online --check-only`` does, and say everything that stands in the way."""
    from vz.ops.chkpnt import need_running
    from vz.ops.migrate import source
    from vz.ops.migrate.session import Session
    from vz.ops.migrate.wire import Broken
    from vz.requests import Migrate

    need_running(ct)
    request = Migrate(wanted.host)
    request.ssh, request.online, request.check_only = wanted.ssh, True, True
    problems: list[dict[str, Any]] = []
    try:
        session = Session(ct, request, "running")
        try:
            problems = source.survey(session)
        finally:
            session.helper.close()
    except Interrupted:
        raise
    except VzError as exc:  # ssh, the node, the layout, the template
        return tell([str(exc)], [])
    except Broken as exc:
        return tell([f"Lost {wanted.host}: {exc}"], [])
    warnings = [f"Warning: {item['text']}" for item in problems if not item["code"]] + doubts(ct)
    found = [f"{item['text']}{_way_on(item)}" for item in problems if item["code"]]
    if found:
        return tell(found + warnings, [])
    return tell([], [f"Container {ct.ctid} can be migrated live to {wanted.host}", *warnings])


def doubts(ct: Container) -> list[str]:
    from vz.ops import chkpnt

    return [f"Warning: {text}" for text in chkpnt.doubts(ct)]


def _way_on(item: dict[str, Any]) -> str:
    return f" (vzmigrate --nodeps={item['about']} goes on in spite of it)" if item["about"] else ""


def tell(found: list[str], good: list[str]) -> int:
    """Print what was *found*, a line each, or the *good* news; the exit status."""
    os.write(1, "".join(f"{line}\n" for line in found or good).encode("utf-8", "surrogateescape"))
    return ExitCode.CHKPNT_ERROR if found else ExitCode.OK
