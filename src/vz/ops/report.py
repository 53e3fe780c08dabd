"""What a command tells: chatter on stdout, errors and warnings on stderr, both to the log file.

A text has a level: errors and warnings -1, chatter 0, details 1 and up.  The terminal gets what is not above VERBOSE
(``--verbose`` counts in its place), and nothing with ``--quiet``; the log gets what is not above LOG_LEVEL.  Scripts
read some of these lines, so their texts are those of vzctl 4.11.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vz.container.ct import Container

_CPU = (("cpuunits", "Setting CPU units: {}"), ("cpulimit", "Setting CPU limit: {}"), ("cpus", "Setting CPUs: {}"))
_IO = (
    ("ioprio", "Set up ioprio: {}"),
    ("iolimit", "Setting iolimit: {} bytes/sec"),
    ("iopslimit", "Setting iopslimit: {} iops"),
)
_UB = frozenset(
    "kmemsize lockedpages privvmpages shmpages numproc physpages vmguarpages oomguarpages numtcpsock numflock numpty "
    "numsiginfo tcpsndbuf tcprcvbuf othersockbuf dgramrcvbuf numothersock dcachesize numfile numiptent swappages "
    "avnumproc vm_overcommit".split()
)
_program = "vzctl"
_ctid = 0
_verbosity = 0
_quiet = False
_log_path = ""
_log_level = 0


def set_up(program: str, *, quiet: bool = False, verbosity: int = 0) -> None:
    """Say who speaks and how much; called once, before the configuration is read."""
    global _program, _quiet, _verbosity
    _program, _quiet, _verbosity = program, quiet, verbosity


def set_log(path: str, ctid: int, level: int = 0) -> None:
    """Log what is not above *level* to *path* from now on ("" for not at all), about CT *ctid* (0 for none)."""
    global _log_path, _ctid, _log_level
    _log_path, _ctid, _log_level = path, ctid, level


def subject() -> int:
    """Return the id of the CT that this command is about, 0 for none."""
    return _ctid


def say(text: str, level: int = 0) -> None:
    """Print *text* on stdout; with *level* above 0 only where --verbose asks for as much."""
    if level <= _verbosity and not _quiet:
        _write(1, text)
    if level <= _log_level:
        _log(text)


def warn(text: str) -> None:
    """Print *text* (a warning or an error) on stderr."""
    if not _quiet:
        _write(2, text)
    _log(text)


def say_limits(values: dict[str, Any]) -> None:
    """Say which of the limits in *values* (by attribute) have come into force."""
    for attr, text in _CPU:
        if attr in values:
            say(text.format(values[attr]))
    for attr, text in _IO:
        if attr in values:
            word = values[attr]
            say(f"Setting {attr}: 0 (unlimited)" if word == 0 and attr != "ioprio" else text.format(word))
    if _UB & set(values):
        say("UB limits were set successfully")


def say_devices() -> None:
    say("Setting devices")


def say_netifs(names: list[str]) -> None:
    say(f"Configure veth devices: {' '.join(names)}".rstrip())


def say_started(ct: Container) -> None:
    """Say what a CT that is being started has got from its configuration, but its addresses."""
    conf = ct.conf
    configured = {attr for attr in (*(row[0] for row in _CPU + _IO), *_UB) if attr.upper() in conf.values}
    say_limits({attr: value for attr in configured if (value := getattr(conf, attr)) is not None})
    if conf.devices or conf.devnodes:
        say_devices()
    if conf.netif:
        say_netifs([netif.ifname for netif in conf.netif])


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
