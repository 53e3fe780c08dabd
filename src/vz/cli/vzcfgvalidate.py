"""vzcfgvalidate: check a CT's configuration file, and repair what can be repaired."""

from __future__ import annotations

import os

from vz.cli.main import Globals
from vz.config.conffile import ConfFile
from vz.config.validate import ERROR, Finding, check_file, repair
from vz.container.ct import printable
from vz.errors import VzError
from vz.ops import report

OK, USAGE, INVALID = 0, 1, 2
USAGE_TEXT = """\
Usage: vzcfgvalidate [-r|-i] [-v yes|no] <configfile>
  -r  repair the file
  -i  ask before each repair
  -v  check it as a VSwap configuration, or not as one"""


def run(argv: list[str], options: Globals) -> int:
    """vzcfgvalidate [-r|-i] [-v yes|no] FILE; 0: valid, 1: usage or unreadable, 2: invalid."""
    report.set_up(options.program)
    try:
        path, mode, vswap = parse(argv)
    except ValueError as exc:
        report.warn(str(exc) or USAGE_TEXT)
        return USAGE
    try:
        conf = ConfFile.read(path)
    except OSError as exc:
        report.warn(f"Unable to read {printable(path)}: {exc.strerror}")
        return USAGE
    except VzError as exc:
        report.warn(printable(str(exc)))
        return USAGE
    ram_bytes, swap_bytes = host_memory()

    def check() -> list[Finding]:
        return check_file(conf, vswap=vswap, ram_bytes=ram_bytes, swap_bytes=swap_bytes)

    findings = repair(conf, check, said if mode == "r" else asked) if mode else check()
    for finding in findings:
        report.warn(printable(str(finding)))
    if conf.changed:
        try:
            conf.save()
        except OSError as exc:
            report.warn(f"Unable to save {printable(path)}: {exc.strerror}")
            return USAGE
    if any(finding.level == ERROR for finding in findings):
        return INVALID
    report.say("Validation completed: success")
    return OK


def parse(argv: list[str]) -> tuple[str, str, bool | None]:
    """Return (path, "r", "i" or "", vswap) of the command line; ValueError with what is wrong, or nothing for usage."""
    mode, vswap, path = "", None, ""
    words = list(argv)
    while words:
        word = words.pop(0)
        if word in ("-r", "-i"):
            if mode and mode != word[1]:
                raise ValueError("vzcfgvalidate: -r and -i exclude each other")
            mode = word[1]
        elif word == "-v":
            value = words.pop(0) if words else ""
            if value not in ("yes", "no"):
                raise ValueError("vzcfgvalidate: -v is followed by yes or no")
            vswap = value == "yes"
        elif word == "--" and len(words) == 1 and not path:
            path = words.pop(0)
        elif word.startswith("-") or path or not word:
            raise ValueError(USAGE_TEXT)
        else:
            path = word
    if not path:
        raise ValueError(USAGE_TEXT)
    return path, mode, vswap


def said(finding: Finding, value: str) -> bool:
    report.warn(printable(str(finding)))
    report.say(f"{finding.attr} is set to {value}")
    return True


def asked(finding: Finding, value: str) -> bool:
    """Ask on the terminal; no answer is no."""
    report.warn(printable(str(finding)))
    os.write(1, f"set {finding.attr} to {value}? [y/N] ".encode())
    answer = b""
    while not answer.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        answer += byte
    return answer.strip().lower() in (b"y", b"yes")


def host_memory() -> tuple[int, int]:
    """Return the host's (RAM, swap) in bytes from /proc/meminfo; zeros where it cannot be read."""
    found = {"MemTotal": 0, "SwapTotal": 0}
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                name, _, rest = line.partition(":")
                if name in found:
                    found[name] = int(rest.split()[0]) << 10
    except OSError:
        pass
    return found["MemTotal"], found["SwapTotal"]
