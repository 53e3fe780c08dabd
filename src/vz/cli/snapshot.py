"""vzctl snapshot: keep the state of a CT to go back to; and the words of all snapshot commands."""

from __future__ import annotations

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.container.ct import Container, printable
from vz.errors import BadSyntax, BadValue

ID = {"--id": "id", "--uuid": "id", "-u": "id"}


def run(argv: list[str], options: Globals) -> int:
    """vzctl snapshot CTID [--id U] [--name N] [--description D] [--skip-suspend] [--skip-config]"""
    node, ctid = prepare(options, argv[0])
    valued = {**ID, "--name": "name", "--description": "description"}
    given, flags = words(argv[1:], valued, ("--skip-suspend", "--skip-config"))

    def action(ct: Container) -> None:
        from vz.disk.snapshots import new_uuid
        from vz.ops.snapshot import Request, create

        asked = Request(given.get("id") or new_uuid())
        asked.name = given.get("name", "")
        asked.description = given.get("description", "")
        asked.skip_suspend = "--skip-suspend" in flags
        asked.skip_config = "--skip-config" in flags
        create(ct, asked)

    return locked(options, node, ctid, action)


def words(
    argv: list[str], valued: dict[str, str], allowed: tuple[str, ...] = (), needed: tuple[str, ...] = ()
) -> tuple[dict[str, str], set[str]]:
    """Return (values by name, flags) of *argv*; the value of ``id`` is normalised.

    Raises:
        BadSyntax: a stray word, or one of *needed* is missing (20).
        BadValue: an unknown option, a missing or a bad value (21).
    """
    given: dict[str, str] = {}
    flags: set[str] = set()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=") if word.startswith("--") else (word, "", "")
        if name in valued:
            if not equals:
                if not rest:
                    raise BadValue(f"Option {name} requires a value")
                text = rest.pop(0)
            given[valued[name]] = checked(valued[name], name, text)
        elif word in allowed:
            flags.add(word)
        elif word.startswith("-"):
            raise BadValue(f"Unknown option {printable(word)}")
        else:
            raise BadSyntax(f"Invalid extra arguments: {printable(word)}")
    for name in needed:
        if name not in given:
            raise BadSyntax(f"Option --{name} is required")
    return given, flags


def checked(name: str, option: str, text: str) -> str:
    if not text.isprintable():
        raise BadValue(f"Bad parameter for {option}: {printable(text)}")
    if name != "id":
        return text
    from vz.disk.snapshots import parse_uuid

    try:
        return parse_uuid(text)
    except ValueError:
        raise BadValue(f"Bad parameter for {option}: {printable(text)}") from None
