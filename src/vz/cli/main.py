"""From argv to an exit status: the one handler that turns a failure into a line and a number.

Start-up time is the speed of a command line, so verbs are imported by name only when asked for.
"""

from __future__ import annotations

import os
import sys

from vz.cli.table import PROGRAMS, STARTING, VERBS
from vz.config.paths import CONF_DIR, EVENTD
from vz.errors import BadSyntax, ExitCode, Interrupted, VzError, exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "5.0"
# failures that say nothing about the CT: of the words, of who has the lock, of an id that is no CT
_NOT_REMEMBERED = (
    ExitCode.INVALID_PARAMETER_SYNTAX,
    ExitCode.INVALID_PARAMETER_VALUE,
    ExitCode.LOCKED,
    ExitCode.NOVECONFIG,
)
_ONLY_ASKING = frozenset("exec exec2 exec3 enter console runscript status check why".split())


class Globals:
    """The words before the command."""

    __slots__ = ("program", "quiet", "skiplock", "verbosity")

    def __init__(self, program: str) -> None:
        self.program = program
        self.quiet = False
        self.verbosity = 0
        self.skiplock = False


def main(program: str) -> None:
    """Run the command *program* (the name it was called by) on sys.argv; never returns."""
    argv = sys.argv[1:]
    os.umask(0o022)  # whatever the caller's is: what we make for a CT is to be usable by all of its users
    open_streams()
    status = answer(program, argv)
    os._exit(status)  # nothing of ours is left to clean up; the interpreter's own farewell costs milliseconds


def answer(program: str, argv: list[str]) -> int:
    """Run the command *program* with *argv*, say what fails, and return its exit status."""
    status: int = ExitCode.SYSTEM_ERROR
    try:
        status = vzctl(list(argv)) if program == "vzctl" else load(PROGRAMS[program]).run(argv, Globals(program))
    except VzError as exc:
        complain(exc, program)
        status = exit_code(exc)
        if program == "vzctl":
            remember(argv, exc, status)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        hint = "; this needs root" if os.geteuid() != 0 else ""
        complain(f"{program}: {where}{exc.strerror or exc}{hint}", program)
    except KeyboardInterrupt:
        status = 130
    except Exception as exc:
        code = getattr(exc, "code", None)
        if isinstance(code, int):  # a failure of ours that a child process passed on
            complain(exc, program)
            status = code
            remember(argv, exc, status)
        else:  # a bug: to be seen, not hidden behind a tidy line
            sys.excepthook(type(exc), exc, exc.__traceback__)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # it was closed when we started, or nobody reads it any more
            pass
    return status


def open_streams() -> None:
    """Give a caller's missing streams /dev/null: the next file that we open would be taken for one of them."""
    while (fd := os.open("/dev/null", os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)


def complain(what: object, program: str) -> None:
    """Print the line of a failure."""
    process = sys.modules.get("vz.kernel.process")
    text = str(what)
    if process is not None and (process.stop_asked or process.stopping) and "Cancelled" not in text:
        text = "Cancelled"  # what failed, failed by the signal
    if not text:
        return
    report = sys.modules.get("vz.ops.report")
    if report is not None:
        report.warn(text)
    else:
        os.write(2, (text + "\n").encode("utf-8", "surrogateescape"))


def remember(argv: list[str], exc: Exception, status: int, program: str = "vzctl") -> None:
    """Leave what has failed for ``vzctl why``: not what was mistyped, locked or interrupted, nor the words' values."""
    report, process = sys.modules.get("vz.ops.report"), sys.modules.get("vz.kernel.process")
    ctid = report.subject() if report is not None else 0
    if not ctid or (program == "vzctl" and status in _NOT_REMEMBERED) or isinstance(exc, Interrupted):
        return
    if process is not None and (process.stop_asked or process.stopping):
        return
    from vz.container import events

    names = [word.partition("=")[0] for word in argv if word.startswith("--")]
    verb = next((word for word in argv if not word.startswith("--")), "")
    if verb not in _ONLY_ASKING and os.path.exists(f"{CONF_DIR}/{ctid}.conf"):
        command = " ".join(word for word in (program, verb, *names) if word)
        events.note(ctid, "command", command=command, text=str(exc), status=status)


def load(module: str) -> Any:
    """Import the module of a verb or program; BadSyntax (20) for a program that is still to come."""
    name = f"vz.cli.{module}"
    try:
        __import__(name)
    except ModuleNotFoundError as exc:
        if exc.name != name:
            raise
        program = next(program for program, its in PROGRAMS.items() if its == module)
        raise BadSyntax(f"{program}: not available in this version") from None
    return sys.modules[name]


def vzctl(argv: list[str]) -> int:
    """vzctl [--quiet] [--verbose …] [--skiplock] COMMAND CTID|NAME [args]"""
    options = Globals("vzctl")
    words = list(argv)
    while argv and argv[0].startswith("--"):
        word = argv.pop(0)
        if word == "--quiet":
            options.quiet = True
        elif word == "--verbose":
            options.verbosity += 1
        elif word == "--skiplock":
            options.skiplock = True
        elif word == "--version":
            print(f"vzctl version {VERSION}")
            return ExitCode.OK
        elif word == "--help":
            from vz.cli.usage import USAGE

            print(USAGE)
            return ExitCode.OK
        else:
            raise BadSyntax(f"Bad command: {_printable(word)}")
    if not argv:
        from vz.cli.usage import USAGE

        os.write(2, (USAGE + "\n").encode())
        return ExitCode.INVALID_PARAMETER_SYNTAX
    verb = argv.pop(0)
    module = VERBS.get(verb)
    if module is None:
        from vz.cli.table import LATER

        if verb in LATER:
            raise BadSyntax(f"Command {verb} is not available in this version: {LATER[verb]}")
        raise BadSyntax(f"Bad command: {_printable(verb)}")
    if not argv:
        raise VzError("CTID is missing: vzctl COMMAND CTID|NAME [options]", ExitCode.INVALID_PARAMETER_VALUE)
    if os.geteuid() != 0:  # others would see neither lock nor state, and take a running CT for a stopped one
        raise VzError(f"vzctl {verb}: this needs root", ExitCode.NO_ACCES)
    if (verb in STARTING or (verb == "set" and "--setmode" in argv)) and os.path.exists(EVENTD):
        from vz.node.asking import ask

        done = ask(words)
        if done is not None:
            return done
    status: int = load(module).run(argv, options)
    return status


def flags(argv: list[str], allowed: dict[str, str]) -> set[str]:
    """Return which of the flags in *allowed* (word → name) stand in *argv*.

    Raises:
        BadSyntax: any other word (20).
    """
    found = set()
    for word in argv:
        if word not in allowed:
            kind = "Unknown option" if word.startswith("-") else "Invalid extra arguments:"
            raise BadSyntax(f"{kind} {_printable(word)}")
        found.add(allowed[word])
    return found


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
