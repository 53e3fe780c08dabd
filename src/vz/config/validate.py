"""Whether a CT's configuration makes sense: syntax, values, and the relations that vzcfgvalidate(8) knows.

The relations are OpenVZ's own (UBC consistency rules); a value that would break one carries what repairs it.
"""

from __future__ import annotations

from vz.config.conffile import ConfFile
from vz.config.ctconfig import CTConfig
from vz.config.nodeconfig import NODE_KEYS, OLD_KEYS
from vz.config.options import BY_ATTR, BY_KEY, OTHER_KEYS, UBC_KINDS
from vz.config.units import PAGE, UNLIMITED, format_ubc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ERROR, WARNING, RECOMMENDATION = "Error", "Warning", "Recommendation"
EQUAL = "numproc numtcpsock numothersock numfile numpty numsiginfo numiptent avnumproc".split()  # numflock may differ
PER_PROCESS_BYTES = 40 << 10
PER_FILE_BYTES = 384
PER_SOCKET_BYTES = 2560
VSWAP_ONLY = frozenset(("physpages", "swappages"))


class Finding:
    """One thing to say about a configuration; *attr* and *value* are what would repair it, where anything would."""

    __slots__ = ("attr", "level", "text", "value")

    def __init__(self, level: str, text: str, attr: str = "", value: tuple[int, int] | None = None) -> None:
        self.level = level
        self.text = text
        self.attr = attr
        self.value = value

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"

    def __repr__(self) -> str:
        return f"Finding({self})"


def check_file(conf: ConfFile, *, vswap: bool | None = None, ram_bytes: int = 0, swap_bytes: int = 0) -> list[Finding]:
    """Return everything there is to say about a CT's *conf*; valid is what has no finding of level Error.

    *vswap* forces the kind of memory management; None: by what PHYSPAGES says.  *ram_bytes* and *swap_bytes* are the
    host's, 0 where they are not known.
    """
    findings = check_keys(conf)
    config = CTConfig(dict(conf.items()), conf)
    ubc = {attr: getattr(config, attr) for attr in UBC_KINDS}
    if vswap is None:
        vswap = is_vswap(config)
    rules = _Rules(ubc)
    if conf.path.rpartition("/")[2] == "0.conf":  # the node itself: what it does not say is unlimited
        pass
    elif vswap:
        rules.check_vswap(ram_bytes, swap_bytes)
    else:
        rules.check_ubc()
    findings += rules.findings
    for attr in ("diskspace", "diskinodes"):
        value = getattr(config, attr)
        if value is not None and value[0] > value[1]:
            findings.append(Finding(ERROR, f"{attr}: the soft limit is above the hard one", attr, (value[0], value[0])))
    return findings


def is_vswap(config: CTConfig) -> bool:
    """A configuration counts as VSwap when it limits physpages."""
    return config.physpages is not None and config.physpages[1] < UNLIMITED


def check_keys(conf: ConfFile) -> list[Finding]:
    """Return the findings about single lines and keys: syntax, unknown keys, values, what a shell would run."""
    findings = [Finding(WARNING, text.removeprefix("Warning at ")) for text in conf.warnings]
    known = {row[0] for row in NODE_KEYS} | OTHER_KEYS | OLD_KEYS
    for key, text in conf.items():
        where = f"{conf.path}:{conf.line_of(key)}"
        option = BY_KEY.get(key)
        if option is None:
            if key not in known:
                findings.append(Finding(WARNING, f"{where}: unknown parameter {key}"))
            continue
        if text == "":
            continue
        try:
            option.parse(text)
        except ValueError as exc:
            findings.append(Finding(ERROR, f"{where}: {key}: {exc}"))
    for key in conf.would_run():
        text = "a program that sources this file would expand or run what is in it"
        findings.append(Finding(WARNING, f"{conf.path}:{conf.line_of(key)}: {key}: {text}"))
    return findings


class _Rules:
    """The relations between beancounters; collects findings."""

    def __init__(self, ubc: dict[str, tuple[int, int] | None]) -> None:
        self.ubc = ubc
        self.findings: list[Finding] = []

    def barrier(self, attr: str) -> int:
        return (self.ubc[attr] or (0, 0))[0]

    def limit(self, attr: str) -> int:
        return (self.ubc[attr] or (0, 0))[1]

    def say(self, level: str, text: str, attr: str = "", value: tuple[int, int] | None = None) -> None:
        self.findings.append(Finding(level, text, attr, value))

    def check_vswap(self, ram_bytes: int, swap_bytes: int) -> None:
        for attr in ("physpages", "swappages"):
            value = self.ubc[attr]
            if value is None:
                self.say(ERROR, f"parameter {attr} not found")
            elif value[0] != 0:
                self.say(ERROR, f"{attr}.bar should be 0 (currently, {value[0]})", attr, (0, value[1]))
        ram_pages, swap_pages = ram_bytes // PAGE, swap_bytes // PAGE
        if ram_pages and ram_pages < self.limit("physpages") < UNLIMITED:
            text = f"physpages.lim is more than the RAM of this node ({ram_pages} pages)"
            self.say(ERROR, text, "physpages", (0, ram_pages))
        if swap_pages < self.limit("swappages") < UNLIMITED and ram_pages:
            self.say(WARNING, f"swappages.lim is more than the swap of this node ({swap_pages} pages)")

    def check_ubc(self) -> None:
        missing = [attr for attr in UBC_KINDS if self.ubc[attr] is None and attr not in VSWAP_ONLY | {"avnumproc"}]
        for attr in missing:
            self.say(ERROR, f"parameter {attr} not found")
        for attr, value in self.ubc.items():
            if value is None:
                continue
            if value[0] > value[1]:
                text = f"{attr}.bar should be <= {attr}.lim (currently, {value[0]}:{value[1]})"
                self.say(ERROR, text, attr, (value[0], value[0]))
            elif attr in EQUAL and value[0] != value[1]:
                text = f"{attr}.bar should be == {attr}.lim (currently, {value[0]}:{value[1]})"
                self.say(ERROR, text, attr, (value[1], value[1]))
        if not missing:
            self.check_memory()
            self.check_buffers()

    def check_memory(self) -> None:
        processes = self.barrier("avnumproc") or self.barrier("numproc") // 2
        self.at_least("dcachesize", 1, PER_FILE_BYTES * self.limit("numfile"), "384 x numfile.lim")
        wanted = PER_PROCESS_BYTES * processes + self.limit("dcachesize")
        self.at_least("kmemsize", 0, wanted, "40K x avnumproc + dcachesize.lim")
        self.at_least("privvmpages", 0, self.barrier("vmguarpages"), "vmguarpages.bar")
        sockets = self.limit("numtcpsock") + self.limit("numothersock") + self.limit("numpty")
        text = "max(32 x avnumproc, numtcpsock + numothersock + numpty)"
        self.at_least("numfile", 0, max(32 * processes, sockets), text)

    def check_buffers(self) -> None:
        for attr, count in (("tcpsndbuf", "numtcpsock"), ("tcprcvbuf", "numtcpsock"), ("othersockbuf", "numothersock")):
            low, high = self.ubc[attr] or (0, 0)
            wanted = PER_SOCKET_BYTES * self.limit(count)
            if low <= high < UNLIMITED and high - low < wanted < UNLIMITED:
                text = f"{attr}.lim - {attr}.bar should be >= {wanted} (2.5K x {count}; currently, {high - low})"
                self.say(ERROR, text, attr, (low, low + wanted))
        for attr in ("tcpsndbuf", "tcprcvbuf"):
            self.at_least(attr, 0, 64 << 10, "64K")
        for attr in ("dgramrcvbuf", "othersockbuf"):
            self.at_least(attr, 0, 32 << 10, "32K")
            if 32 << 10 <= self.barrier(attr) < 129 << 10:
                text = f"{attr}.bar should be >= {129 << 10} (129K; currently, {self.barrier(attr)})"
                self.say(RECOMMENDATION, text, attr, self.raised(attr, 0, 129 << 10))

    def at_least(self, attr: str, which: int, wanted: int, why: str) -> None:
        value = (self.ubc[attr] or (0, 0))[which]
        wanted = min(wanted, UNLIMITED)
        if value < wanted:
            name = f"{attr}.{('bar', 'lim')[which]}"
            text = f"{name} should be >= {wanted} ({why}; currently, {value})"
            self.say(ERROR, text, attr, self.raised(attr, which, wanted))

    def raised(self, attr: str, which: int, wanted: int) -> tuple[int, int]:
        """Return the value with one half raised to *wanted* and the other kept in order."""
        low, high = self.ubc[attr] or (0, 0)
        low, high = (wanted, max(high, wanted)) if which == 0 else (low, wanted)
        return (high, high) if attr in EQUAL else (low, high)


def repair(
    conf: ConfFile, check: Callable[[], list[Finding]], agree: Callable[[Finding, str], bool], rounds: int = 20
) -> list[Finding]:
    """Set in *conf* what repairs its findings, one after the other, where *agree* says so; return what is left.

    One repair may call for the next (a larger dcachesize for a larger kmemsize), hence the *rounds*.
    """
    declined: set[str] = set()
    findings = check()
    for _round in range(rounds):
        todo = next((item for item in findings if item.value is not None and str(item) not in declined), None)
        if todo is None or todo.value is None:
            break
        option = BY_ATTR[todo.attr]
        text = format_ubc(todo.value) if todo.attr in UBC_KINDS else option.format(todo.value)
        if agree(todo, text):
            conf.set(option.key, text)
        else:
            declined.add(str(todo))
        findings = check()
    return findings
