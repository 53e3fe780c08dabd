"""The words after ``vzctl create CTID`` and ``vzctl set CTID``: checked and parsed, by hand, before any lock is taken.

``--option value`` and ``--option=value``; beancounters have one-letter forms too (``-p 100``, ``-p100``).  An option
given twice: the last one counts, lists add up.
"""

from __future__ import annotations

from vz.config.actions import ACTIONS, ACTIONS_BY_FLAG, NETIF_FIELDS
from vz.config.options import BY_ATTR, BY_FLAG, NEVER, OPTIONS, PLOOP, RESOURCES, Option
from vz.config.units import Refused
from vz.config.values import netfilter_of
from vz.errors import BadSyntax, BadValue, ExitCode, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CREATE = frozenset(
    "ostemplate config ve_layout diskspace diskinodes ve_private ve_root ipadd hostname name description local_uid "
    "local_gid".split()
)
SET = frozenset(
    [option.attr for option in OPTIONS if option.flags and option.applies != "create"]
    + [option.attr for _group, option in ACTIONS if option.attr != "config"]
)
COMMANDS = {"create": CREATE, "set": SET}
_WHY = {
    RESOURCES: "is not available in this version: it belongs to the resource limits still to come",
    PLOOP: "is not available in this version: it belongs to the ploop layout still to come",
    NEVER: "is not available: only a virtual machine can be given a PCI device",
}


def parse_options(
    argv: list[str], allowed: frozenset[str] | set[str] | None, command: str
) -> tuple[dict[str, Any], set[str], list[str]]:
    """Return (values, flags, extras) of *argv*, the words after the CTID.

    *values* maps attributes of options and actions to parsed values: lists and dictionaries for those that may be
    given several times; ``--ram`` and ``--swap`` become ``physpages`` and ``swappages``; ``--ifname`` with its
    sub-options becomes ``netif_edit``, a list of dictionaries.  *flags* has the names of options without a value.
    *allowed* is the set of attributes; None: those of *command*.  *extras* is empty: a stray word is an error.

    Raises:
        BadValue: an unknown option, a missing or bad value, one that this version does not have (21).
        BadSyntax: a stray word (20), or options that do not go together (20).
        VzError: ``--name`` that cannot be one (131).
    """
    if allowed is None:
        allowed = COMMANDS[command]
    values: dict[str, Any] = {}
    flags: set[str] = set()
    stray: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            stray.extend(words)
        elif not word.startswith("-") or word == "-":
            stray.append(word)
        else:
            _take(word, words, allowed, values, flags)
    if stray:
        raise BadSyntax(f"Invalid extra arguments: {' '.join(shown(word) for word in stray)}")
    if command == "set":
        check_together(values, flags)
    elif "local_gid" in values and values.setdefault("local_uid", values["local_gid"]) != values["local_gid"]:
        raise BadValue("Bad parameter for --local_gid: it must be the same as --local_uid")
    return values, flags, []


def _take(word: str, words: Any, allowed: frozenset[str] | set[str], values: dict[str, Any], flags: set[str]) -> None:
    """Parse the option *word*, taking its value from *words* where it has none of its own."""
    name, equals, text = word, "", ""
    if word.startswith("--"):
        name, equals, text = word.partition("=")
    elif len(word) > 2:
        name, equals, text = word[:2], "=", word[2:]
    option = BY_FLAG.get(name) or ACTIONS_BY_FLAG.get(name)
    if option is None or option.attr not in allowed:
        raise BadValue(f"Unknown option {shown(name)}")
    if option.later:
        raise BadValue(f"Option {name} {_WHY[option.later]}")
    if not option.value:
        if equals:
            raise BadValue(f"Option {name} takes no value")
        flags.add(option.attr)
        return
    if not equals:
        following = next(words, None)
        if following is None:
            raise BadValue(f"Option {name} requires a value")
        text = following
    _put(option, parse_value(option, name, text), values)


def parse_value(option: Option, flag: str, text: str) -> Any:
    """Return the value of *option* in *text*; BadValue (21) with vzctl's own words, 131 for a name."""
    try:
        return option.set(text)
    except Refused as exc:
        raise BadValue(f"Bad parameter for {flag}: {shown(text)} ({exc})") from None
    except ValueError as exc:
        if option.attr == "userpasswd":  # never show a password
            raise BadValue(f"Bad parameter for {flag}: {exc}") from None
        if option.attr == "name":
            raise VzError(f"Invalid name {shown(str(exc))}", ExitCode.SET_NAME_ERROR) from None
        raise BadValue(f"Bad parameter for {flag}: {shown(text)}") from None


def _put(option: Option, value: Any, values: dict[str, Any]) -> None:
    """Add *value* to *values*, as the kind of option wants it."""
    attr = option.attr
    if attr == "ifname":
        values.setdefault("netif_edit", []).append({"ifname": value})
    elif attr in NETIF_FIELDS:
        if "netif_edit" not in values:
            raise BadSyntax(f"Option {option.flags[0]} is about an interface: --ifname must come before it")
        values["netif_edit"][-1][attr] = value
    elif attr == "ram":
        values["physpages"] = (0, value)
    elif attr == "swap":
        values["swappages"] = (0, value)
    elif attr == "iptables":
        values.setdefault("netfilter", netfilter_of(value))  # --netfilter, before or after, supersedes it
    elif isinstance(value, dict):
        values[attr] = {**values.get(attr, {}), **value}
    elif option.multi:
        # a list that is replaced as a whole still adds up within one command line
        values[attr] = [*values.get(attr, []), *value]
    else:
        values[attr] = value


def check_together(values: dict[str, Any], flags: set[str]) -> None:
    """Refuse what ``set`` cannot do with these options together (cli rules that need no CT).

    Raises:
        BadSyntax: 20.  VzError: ``--name`` without ``--save`` (131).
    """
    save = "save" in flags
    if "reset_ub" in flags and (values or flags != {"reset_ub"}):
        raise BadSyntax("Option --reset_ub must be used alone")
    if "force" in flags and not save:
        raise BadSyntax("Option --force needs --save")
    if "setmode" in values and not save:
        raise BadSyntax("Option --setmode needs --save")
    if "offline_resize" in flags and "diskspace" not in values:
        raise BadSyntax("Option --offline-resize is about --diskspace")
    if "name" in values and not save:
        raise VzError("Option --name needs --save", ExitCode.SET_NAME_ERROR)
    for attr in ("ostemplate", "stop_timeout_s"):
        if attr in values and not save:
            raise BadSyntax(f"Option {BY_ATTR[attr].flags[0]} needs --save")
    if values.get("cpumask") == "auto" and "nodemask" not in values:
        raise BadSyntax("Option --cpumask auto needs --nodemask")
    if "nodemask" in values and "cpumask" not in values:
        raise BadSyntax("Option --nodemask needs --cpumask")
    if "all" in values.get("ipdel", ()) and values["ipdel"] != ["all"]:
        values["ipdel"] = ["all"]
    if "all" in values.get("netif_del", ()):
        values["netif_del"] = ["all"]
    added = [text.partition(",")[0] for text in values.get("netif_add", ())]
    if len(set(added)) < len(added):
        raise BadValue("Bad parameter for --netif_add: one interface twice")
    for edit in values.get("netif_edit", ()):
        if len(edit) == 1:
            raise BadSyntax("Option --ifname needs --mac, --host_ifname, --host_mac, --bridge or --mac_filter")
    nameservers = values.get("nameserver", [])
    if "inherit" in nameservers and len(nameservers) > 1:
        raise BadValue("Bad parameter for --nameserver: inherit and addresses together")


def shown(text: str) -> str:
    """Return *text* safe for a terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
