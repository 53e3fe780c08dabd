"""vzmigrate: move containers to another node, by hand-parsed options of the tool that OpenVZ had."""

from __future__ import annotations

import os
import time

from vz.cli.main import Globals, complain, remember
from vz.config.nodeconfig import load_node
from vz.container.ct import find, load, parse_ctid
from vz.container.lock import CTLock, is_held
from vz.errors import Interrupted, Locked, NoContainerConfig, NoGlobalConfig, VzError
from vz.ops import journal, report
from vz.ops.migrate.errors import LOCKED, MISSING, NOT_RUNNING, USAGE, MigrateFailed
from vz.requests import Migrate

USAGE_TEXT = """\
This program is used for container migration to another node.
Usage:
  vzmigrate [option ...] <host> <ctid>[:<newid>] ...
  vzmigrate --take-back <ctid>
Options:
-r, --remove-area yes|no
	Whether to remove the container here after a successful migration.
--ssh=<options>
	Options for ssh; not the destination.
--ssh-mux
	All connections through one.
--rsync=<options>
	Options for rsync.
--keep-dst
	Keep what has been copied when the migration fails, for the next try.
--live, --online
	Move a running container with its processes, memory and connections.
--lazy, --no-lazy
	With --online: the container runs on over there at once and fetches
	its memory afterwards; never do that.
--max-downtime <ms>
	With --online: rather give up than freeze it for longer.
--check-only, --dry-run
	Only check whether it can be done.
-f, --nodeps[=<check>[,<check> ...]]
	Go on where these checks fail: cpu, ipv6, memory, address, all.
-v
	Verbose, up to four times.
-t, --times
	Print how long each stage took.
--take-back <ctid>
	The node that a container was being handed over to is gone for good: it
	is this one's again.
-h, --help
	This text.
See vzmigrate(8)."""
LOCK_PATIENCE_S = 90.0
CHECKS = frozenset(("cpu", "cpu_check", "ipv6", "memory", "address", "all"))


def run(argv: list[str], options: Globals) -> int:
    """vzmigrate [option ...] HOST CTID[:NEWID] ..."""
    if not argv:
        print(USAGE_TEXT)
        return 0
    try:
        return act(argv)
    except NoGlobalConfig as exc:
        complain(f"Error: {exc}", "vzmigrate")
        return MISSING
    except MigrateFailed as exc:
        complain(f"Error: {exc}", "vzmigrate")
        return exc.code
    except BadUsage as exc:
        complain(f"Invalid usage: {exc}\n\nFor command line syntax, please check\n  vzmigrate --help", "vzmigrate")
        return USAGE


class BadUsage(Exception):
    pass


def act(argv: list[str]) -> int:
    """Read the options and do what they say; the exit status.  BadUsage, or MigrateFailed for what is not there yet."""
    request = Migrate("")
    words = list(argv)
    take_back = False
    while words and words[0].startswith("-"):
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-h", "--help", "--usage", "-?"):
            print(USAGE_TEXT)
            return 0
        if word == "--serve":
            from vz.ops.migrate.serve import serve

            serve(words.count("-v"))
            return 0
        if word == "--pages" and len(words) == 1:
            from vz.ops.migrate.pages import relay

            return relay(words[0])
        if word == "--take-back":
            take_back = True
        elif name == "--ssh" and equals:
            request.ssh = f"{request.ssh} {_one_line(value)}".strip()
        elif name == "--rsync" and equals:
            request.rsync = f"{request.rsync} {_one_line(value)}".strip()
        elif name in ("-r", "--remove-area"):
            request.remove = _yes_no(name, value if equals else _next(words, name))
        elif name == "--max-downtime":
            request.max_downtime_s = _milliseconds(value if equals else _next(words, name))
        elif name in ("-f", "--nodeps"):
            request.ignore = _checks(value) if equals else frozenset(("all",))
        elif word[0] == "-" and word[1:] and not word[1:].strip("v"):
            request.verbosity += len(word) - 1
        elif word in FLAGS:
            attr, setting = FLAGS[word]
            setattr(request, attr, setting)
        elif word in ("-c", "--compact", "-s", "--snapshot"):
            what = "compacts" if word in ("-c", "--compact") else "snapshots"
            raise BadUsage(f"{word} {what} ploop images, which are not available in this version")
        else:
            raise BadUsage(f"unknown option {word}")
    if request.verbosity > 4:
        raise BadUsage("-v at most four times")
    if request.verbosity:
        request.times = True
    if os.geteuid() != 0:
        raise MigrateFailed("vzmigrate: this needs root", NOT_RUNNING)
    report.set_up("vzmigrate", verbosity=request.verbosity - 1)
    if take_back:
        if len(words) != 1:
            raise BadUsage("--take-back wants one container")
        return _take_back(words[0])
    if len(words) < 2:
        raise BadUsage("not enough parameters")
    for name, given in (("--lazy", request.lazy is not None), ("--max-downtime", request.max_downtime_s)):
        if given and not request.online:
            raise BadUsage(f"{name} goes with --online only")
    from vz.ops.migrate.ssh import is_host

    request.host = words[0]
    if not is_host(request.host):
        raise BadUsage(f"bad host {request.host!r}")
    return _all(words[1:], request)


FLAGS: dict[str, tuple[str, object]] = {
    "--live": ("online", True),
    "--online": ("online", True),
    "--ssh-mux": ("mux", True),
    "--keep-dst": ("keep", True),
    "--lazy": ("lazy", True),
    "--no-lazy": ("lazy", False),
    "--check-only": ("check_only", True),
    "--dry-run": ("check_only", True),
    "-t": ("times", True),
    "--times": ("times", True),
}


def _all(words: list[str], request: Migrate) -> int:
    """Move one container after the other; the status is the first failure's."""
    node = load_node()
    first = 0
    for word in words:
        status = 0
        try:
            ct_word, colon, new = word.partition(":")
            request.newid = parse_ctid(new) if colon else 0
            ctid = find(ct_word)
            report.set_log(node.logfile if node.logging else "", ctid)
            _one(node, ctid, request)
        except Interrupted as exc:
            complain(f"Error: {exc}", "vzmigrate")
            return first or 3
        except VzError as exc:
            complain(f"Error: {exc}", "vzmigrate")
            status = _status(exc)
            remember(["--online"] if request.online else [], exc, status, f"vzmigrate {request.host}")
        first = first or status
    return first


def _one(node: object, ctid: int, request: Migrate) -> None:
    from vz.config.nodeconfig import NodeConfig
    from vz.ops.migrate.source import migrate
    from vz.ops.settle import settle
    from vz.ops.undo import catch_signals

    assert isinstance(node, NodeConfig)
    catch_signals()
    with CTLock(node.lockdir, ctid) as lock:
        for text in lock.stale:
            report.warn(text)
        pending = journal.read(ctid) or {}
        settle(load(ctid, node, must_exist=False))
        ct = load(ctid, node)
        if not os.path.isdir(ct.private):
            raise MigrateFailed(f"CT {ctid} doesn't exist: no private area {ct.private}", MISSING)
        was_running = pending.get("operation") == "migrate" and pending.get("was") == "running"
        migrate(ct, request, was_running=was_running)


def _take_back(word: str) -> int:
    """The admin says that the destination is gone for good: what is undecided is decided for this node."""
    from vz.ops.migrate import log, outgoing
    from vz.ops.undo import catch_signals

    node = load_node()
    ctid = find(word)
    report.set_log(node.logfile if node.logging else "", ctid)
    catch_signals()
    try:
        with _lock_in_time(node.lockdir, ctid):
            facts = journal.read(ctid) or {}
            if facts.get("operation") != log.OUT or facts.get("stage") != log.HANDOVER:
                raise MigrateFailed(f"CT {ctid} is not being handed over to another node", MISSING)
            outgoing.stay(load(ctid, node), log.Log(ctid, log.OUT, facts))
            report.say(f"Container {ctid} is this node's", -1)
    except VzError as exc:
        complain(f"Error: {exc}", "vzmigrate")
        return _status(exc)
    return 0


def _lock_in_time(lockdir: str, ctid: int) -> CTLock:
    """Return the lock of the CT, not yet taken, when nobody has it: the guard does while it asks the destination."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while is_held(lockdir, ctid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return CTLock(lockdir, ctid)


def _status(exc: VzError) -> int:
    if isinstance(exc, Locked):
        return LOCKED
    if isinstance(exc, NoContainerConfig):
        return MISSING
    from vz.errors import BadValue
    from vz.ops.migrate.outgoing import Undecided
    from vz.ops.migrate.ssh import Refused

    if isinstance(exc, BadValue):
        return MISSING
    if isinstance(exc, Undecided):
        return LOCKED
    return exc.code if isinstance(exc, (MigrateFailed, Refused)) else NOT_RUNNING


def _next(words: list[str], name: str) -> str:
    if not words:
        raise BadUsage(f"option {name} requires a value")
    return words.pop(0)


def _milliseconds(value: str) -> float:
    if not (value.isascii() and value.isdecimal() and 0 < int(value) < 10**9):
        raise BadUsage(f"Bad argument for --max-downtime: {value} (milliseconds)")
    return int(value) / 1000


def _yes_no(name: str, value: str) -> bool:
    if value not in ("yes", "no"):
        raise BadUsage(f"Bad argument for {name}: {value}")
    return value == "yes"


def _checks(value: str) -> frozenset[str]:
    names = frozenset(value.split(","))
    unknown = sorted(names - CHECKS)
    if unknown:
        raise BadUsage(f"unknown --nodeps argument: {unknown[0]}")
    return frozenset("cpu" if name == "cpu_check" else name for name in names)


def _one_line(value: str) -> str:
    if "\n" in value:
        raise BadUsage("an option with a line end in it")
    return value
