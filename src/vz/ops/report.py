"""What a command tells: chatter on stdout, errors and warnings on stderr, both to the log file.

``--quiet`` removes both from the terminal (not from the log); ``--verbose`` adds details.  Scripts read some of
these lines, so their texts are those of vzctl 4.11.
"""

from __future__ import annotations

import os
import time

_program = "vzctl"
_ctid = 0
_verbosity = 0
_quiet = False
_log_path = ""


def set_up(program: str, *, quiet: bool = False, verbosity: int = 0) -> None:
    """Say who speaks and how much; called once, before the configuration is read."""
    global _program, _quiet, _verbosity
    _program, _quiet, _verbosity = program, quiet, verbosity


def set_log(path: str, ctid: int) -> None:
    """Log to *path* from now on ("" for not at all), about CT *ctid* (0 for none)."""
    global _log_path, _ctid
    _log_path, _ctid = path, ctid


def say(text: str, level: int = 0) -> None:
    """Print *text* on stdout; with *level* above 0 only where --verbose asks for as much."""
    if level <= _verbosity:
        if not _quiet:
            _write(1, text)
        _log(text)


def warn(text: str) -> None:
    """Print *text* (a warning or an error) on stderr."""
    if not _quiet:
        _write(2, text)
    _log(text)


def is_verbose() -> bool:
    return _verbosity > 0


def _write(fd: int, text: str) -> None:
    data = (text + "\n").encode("utf-8", "surrogateescape")
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:  # a closed pipe must not undo an operation
        pass


def _log(text: str) -> None:
    if not _log_path:
        return
    about = f"CT {_ctid} : " if _ctid else ""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    line = f"{stamp} {_program} : {about}{text}".replace("\n", " ") + "\n"
    try:
        fd = os.open(_log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return
    try:
        os.write(fd, line.encode("utf-8", "surrogateescape"))
    except OSError:
        pass
    finally:
        os.close(fd)
