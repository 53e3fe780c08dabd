"""vzquota: the command of OpenVZ's package of that name, about a CT's own (first-level) disk quota.

Its limits are those of the CT's configuration; ``setlimit`` changes the ones in force, until the next mount.
"""

from __future__ import annotations

import os

from vz.cli.context import locked, prepare
from vz.cli.main import Globals
from vz.config.nodeconfig import load_node
from vz.container.ct import Container, find, load, printable
from vz.disk import project, quota
from vz.errors import VzError
from vz.kernel import quota as calls
from vz.ops import diskquota

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

OK, FAILED, USAGE_ERROR, ALREADY_ON, NOT_ON, NO_QUOTA = 0, 1, 2, 5, 6, 11
USAGE = """\
Usage: vzquota on|off|init|drop CTID|NAME
       vzquota setlimit CTID|NAME [-b SOFT] [-B HARD] [-i SOFT] [-I HARD]
       vzquota stat|show [CTID|NAME ...]

  -b, -B  space in KiB
  -i, -I  files"""
HEADER = f"{'qid: path':<11} {'usage':>14} {'softlimit':>14} {'hardlimit':>14} {'time':>10} {'expire':>10}\n"
LIMITS = {"-b": 0, "-B": 1, "-i": 2, "-I": 3}


def run(argv: list[str], options: Globals) -> int:
    """vzquota VERB CTID …; 5: it is on already, 6: it is not on, 11: the CT has none, 2: wrong usage."""
    if argv == ["--help"]:
        os.write(1, (USAGE + "\n").encode())
        return OK
    verb, words = argv[0] if argv else "", argv[1:]
    try:
        wanted = _limits(words[1:]) if verb == "setlimit" and words else {}
    except ValueError:
        verb = ""
    single = verb in ("on", "off", "init", "drop") and len(words) == 1
    if not single and not wanted and verb not in ("stat", "show"):
        os.write(2, (USAGE + "\n").encode())
        return USAGE_ERROR
    if os.geteuid() != 0:
        os.write(2, b"vzquota: this needs root\n")
        return FAILED
    try:
        if verb in ("stat", "show"):
            return _stat(words)
        node, ctid = prepare(options, words[0])
        action: Callable[[Container], int] = {"on": _on, "off": _off, "drop": _off, "init": _init}.get(
            verb, lambda ct: _set_limits(ct, wanted)
        )
        return locked(options, node, ctid, action)
    except VzError as exc:
        os.write(2, f"vzquota: {printable(str(exc))}\n".encode("utf-8", "surrogateescape"))
        return FAILED


def _limits(words: list[str]) -> dict[int, int]:
    """Return {place in the four limits: value} of ``-b 100 -B200``; ValueError."""
    found = {}
    left = list(words)
    while left:
        word = left.pop(0)
        text = word[2:] or (left.pop(0) if left else "")
        if word[:2] not in LIMITS or not (text.isascii() and text.isdigit()) or len(text) > 15:
            raise ValueError(word)
        found[LIMITS[word[:2]]] = int(text)
    return found


def _say(text: str, code: int) -> int:
    os.write(2, f"vzquota: {text}\n".encode("utf-8", "surrogateescape"))
    return code


def _unfit(ct: Container) -> str:
    """Return why the CT has no quota; "" where it has."""
    if not os.path.isdir(ct.private):
        return f"Container private area {printable(ct.private)} does not exist"
    fd = quota.open_area(ct.private)
    try:
        return quota.problem(fd, ct.private)
    finally:
        os.close(fd)


def _is_on(ct: Container) -> bool:
    usage = quota.usage(ct)
    return usage is not None and any((*usage.kib_limits, *usage.inodes_limits))


def _on(ct: Container) -> int:
    why = _unfit(ct)
    if why:
        return _say(why, NO_QUOTA)
    if _is_on(ct):
        return _say(f"Quota is already on for container {ct.ctid}", ALREADY_ON)
    diskquota.quota_on(ct)
    return OK


def _off(ct: Container) -> int:
    if not _is_on(ct):
        return _say(f"Quota is not on for container {ct.ctid}", NOT_ON)
    diskquota.quota_off(ct)
    return OK


def _init(ct: Container) -> int:
    why = _unfit(ct)
    if why:
        return _say(why, NO_QUOTA)
    diskquota.quota_init(ct)
    return OK


def _set_limits(ct: Container, wanted: dict[int, int]) -> int:
    why = _unfit(ct)
    if why:
        return _say(why, NO_QUOTA)
    fd = quota.open_area(ct.private)
    try:
        number = project.project_of(fd, ct.ctid)
        if not number:
            return _say(f"Quota is not initialised for container {ct.ctid}", NO_QUOTA)
        limits = list(calls.get_project_quota(fd, number).limits())
        for place, value in wanted.items():
            limits[place] = value
        if any(soft and hard and soft > hard for soft, hard in (limits[:2], limits[2:])):
            return _say("the soft limit is above the hard one", USAGE_ERROR)
        calls.set_project_quota(fd, number, *limits)
    except OSError as exc:
        return _say(f"Unable to set the limits: {exc.strerror}", FAILED)
    finally:
        os.close(fd)
    return OK


def _stat(words: list[str]) -> int:
    """Print what the CTs named, or all that are counted, have and may have, as /proc/vz/vzquota had it."""
    from vz.cli.vzlist import all_ids

    node = load_node()
    status, blocks = OK, []
    for ctid in [find(word) for word in words] or all_ids():
        ct = load(ctid, node, must_exist=bool(words))
        usage = quota.usage(ct)
        if usage is None:
            if words:
                status = _say(_unfit(ct) or f"Quota is not initialised for container {ctid}", NO_QUOTA)
            continue
        grace = ct.conf.quotatime or 0
        block = f"{ctid}: {printable(ct.private)}\n"
        for name, held, (soft, hard), expire in (
            ("1k-blocks", usage.kib, usage.kib_limits, usage.kib_expire),
            ("inodes", usage.inodes, usage.inodes_limits, usage.inodes_expire),
        ):
            block += f"{name:>11} {held:14d} {soft:14d} {hard:14d} {grace:10d} {expire:10d}\n"
        blocks.append(block)
    if blocks:
        os.write(1, (HEADER + "".join(blocks)).encode("utf-8", "surrogateescape"))
    return status
