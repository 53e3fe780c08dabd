"""ploop: OpenVZ's disk images as files: made, looked at, checked, converted, with snapshots; without ploop's driver."""

from __future__ import annotations

import os
import sys

from vz.cli.main import Globals
from vz.container.ct import printable
from vz.disk.ploopimage import CLUSTER, MAX_CLUSTER, MIN_CLUSTER, SECTOR, PloopCode
from vz.errors import VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

USAGE = """\
Usage: ploop [-v] COMMAND [OPTIONS]
  init -s SIZE [-f raw|expanded|preallocated] [-v 1|2] [-t none|ext4] [-b BLOCKSIZE] [-B FSBLOCK] [-L LABEL] FILE
  mount [-r] [-F] -m DIR [-o OPTIONS] [-t FS] [-u UUID|base] DiskDescriptor.xml | [-f raw] BASE [... TOP]
  umount -d DEVICE | -m DIR | DiskDescriptor.xml | IMAGE
  resize -s SIZE DiskDescriptor.xml
  convert -f raw|expanded|preallocated | -v 1|2 DiskDescriptor.xml
  convert -f FORMAT [-v 1|2] [-u UUID] [-p] -o FILE DiskDescriptor.xml | IMAGE
  check [-u UUID] [-fFcrsdRS] [-b BLOCKSIZE] DiskDescriptor.xml | IMAGE
  info [-s] [-d] DiskDescriptor.xml
  list [-a]
  stat -d DEVICE
  snapshot [-u UUID] DiskDescriptor.xml
  snapshot-delete -u UUID DiskDescriptor.xml
  snapshot-switch -u UUID DiskDescriptor.xml
  snapshot-merge [-u UUID | -A] [-n FILE] DiskDescriptor.xml
  snapshot-list [-H] [-u UUID] [-s] [-o FIELD[,FIELD...]] DiskDescriptor.xml
  merge [-f raw] [-n FILE] DELTA... BASE
  copy -s IMAGE [-d FILE | -o FD]
  copy -d FILE [-i FD]
  restore-descriptor [-f raw|expanded] [-b BLOCKSIZE] DIR IMAGE"""
# command → (module, flags, options with a value); an option is its short letter, long names lead to it
COMMANDS = {
    "init": ("ploop_verbs", "", "sfvtbBL"),
    "mount": ("ploop_verbs", "rF", "fbmotu"),
    "umount": ("ploop_verbs", "", "dm"),
    "resize": ("ploop_verbs", "", "s"),
    "convert": ("ploop_verbs", "p", "fvuo"),
    "check": ("ploop_verbs", "fFcrsdRS", "ub"),
    "info": ("ploop_verbs", "sd", ""),
    "list": ("ploop_verbs", "a", ""),
    "stat": ("ploop_verbs", "", "d"),
    "snapshot": ("ploop_snapshots", "", "u"),
    "snapshot-delete": ("ploop_snapshots", "", "u"),
    "snapshot-switch": ("ploop_snapshots", "", "u"),
    "snapshot-merge": ("ploop_snapshots", "A", "un"),
    "snapshot-list": ("ploop_snapshots", "Hs", "uo"),
    "merge": ("ploop_snapshots", "", "fn"),
    "copy": ("ploop_copy", "", "sdoi"),
    "restore-descriptor": ("ploop_verbs", "", "fb"),
}
ALIASES = {"fsck": "check", "switch": "snapshot-switch", "delete": "snapshot-delete"}
DRIVER = ("start", "stop", "clear", "rm", "replace", "grow", "balloon", "fscheck", "tsnapshot", "encrypt", "getdev")
LONG = {
    "init": {"--version": "v", "--label": "L"},
    "convert": {"--version": "v", "--output": "o", "--partition": "p"},
    "check": {
        "--force": "f",
        "--hard-force": "F",
        "--check": "c",
        "--ro": "r",
        "--silent": "s",
        "--drop-inuse": "d",
        "--raw": "R",
        "--blocksize": "b",
        "--repair-sparse": "S",
        "--uuid": "u",
    },
    "snapshot-list": {"--no-header": "H", "--uuid": "u", "--id": "u", "--snapshot": "s", "--output": "o"},
}
UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}


def run(argv: list[str], options: Globals) -> int:
    """ploop [-v] COMMAND [OPTIONS]; statuses of its own, 38 for wrong words."""
    words = list(argv)
    while words and words[0].startswith("-v") and set(words[0][1:]) <= set("v0123456789"):
        from vz.disk import ploopstack

        ploopstack.verbose = words.pop(0) != "-v0"
    if words in (["--help"], ["help"]):
        print(USAGE)
        return 0
    if not words:
        raise VzError(USAGE, PloopCode.PARAMETER)
    verb = words.pop(0)
    verb = ALIASES.get(verb, verb)
    if verb in DRIVER or verb.startswith("tg-"):
        raise VzError(f"ploop {verb}: works on ploop's own driver, which this kernel does not have", PloopCode.DEVICE)
    if verb not in COMMANDS:
        sys.stderr.write(f"ploop: unknown command {printable(verb)}\n")
        raise VzError(USAGE, PloopCode.PARAMETER)
    module, flags, values = COMMANDS[verb]
    given, rest = parse(verb, words, flags, values)
    __import__(f"vz.cli.{module}")
    handler: Callable[[Given, list[str]], int] = sys.modules[f"vz.cli.{module}"].VERBS[verb]
    try:
        return handler(given, rest)
    except VzError as exc:
        exc.args = (printable(str(exc)),)
        raise
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        hint = "; this needs root" if os.geteuid() != 0 else ""
        raise VzError(printable(f"ploop {verb}: {where}{exc.strerror or exc}{hint}"), PloopCode.SYSTEM) from exc


class Given:
    """The options of a command by their letters."""

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.flags: set[str] = set()
        self.values: dict[str, str] = {}

    def need(self, letter: str) -> str:
        """Return the value of -*letter*; VzError (38) without."""
        if letter not in self.values:
            raise wrong(f"ploop {self.verb}: -{letter} is needed")
        return self.values[letter]


def parse(verb: str, words: list[str], flags: str, values: str) -> tuple[Given, list[str]]:
    """Return (options, other words) of *words*, as getopt(3) does; VzError (38)."""
    given = Given(verb)
    rest: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--":
            rest += words
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            letter = LONG.get(verb, {}).get(name)
            if letter is None or (equals and letter not in values):
                raise wrong(f"ploop {verb}: unknown option {word[:60]}")
            word = f"-{letter}{value}"
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in values:
                if not letters and not words:
                    raise wrong(f"ploop {verb}: -{letter} is followed by a value")
                given.values[letter] = letters or words.pop(0)
                break
            if letter not in flags:
                raise wrong(f"ploop {verb}: unknown option -{letter}")
            given.flags.add(letter)
    return given, rest


def wrong(text: str) -> VzError:
    return VzError(printable(text), PloopCode.PARAMETER)


def one(rest: list[str], verb: str) -> str:
    """Return the only word of *rest*; VzError (38)."""
    if len(rest) != 1:
        raise wrong(f"ploop {verb}: one file is expected, not {len(rest)}")
    return rest[0]


def size(word: str) -> int:
    """Return the bytes that *word* says: sectors, or a number with K, M, G or T; VzError (38)."""
    digits, shift = (word[:-1], UNITS[word[-1].lower()]) if word[-1:].lower() in UNITS else (word, 9)
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16) or not 0 < int(digits) << shift <= 1 << 50:
        raise wrong(f"A size is sectors, or a number with K, M, G or T, not {word[:60]!r}")
    return int(digits) << shift


def block(word: str | None) -> int:
    """Return the cluster size, in bytes, that *word* (sectors) says; VzError (38)."""
    if word is None:
        return CLUSTER
    number = int(word) * SECTOR if word.isascii() and word.isdigit() and len(word) < 9 else 0
    if number & (number - 1) or not MIN_CLUSTER <= number <= MAX_CLUSTER:
        least, most = MIN_CLUSTER // SECTOR, MAX_CLUSTER // SECTOR
        raise wrong(f"A block size is a power of two from {least} to {most} sectors, not {word[:60]!r}")
    return number


def image_format(word: str) -> str:
    """Return raw, expanded or preallocated; VzError (38)."""
    if word not in ("raw", "expanded", "ploop1", "preallocated"):
        raise wrong(f"A format is raw, expanded or preallocated, not {word[:60]!r}")
    return "expanded" if word == "ploop1" else word


def version(word: str | None) -> int:
    """Return 1 or 2; VzError (38)."""
    if word not in (None, "1", "2"):
        raise wrong(f"A version is 1 or 2, not {str(word)[:60]!r}")
    return int(word or 2)
