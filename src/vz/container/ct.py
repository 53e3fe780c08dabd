"""A container (CT): its id and names, its paths, and what can be asked of its state."""

from __future__ import annotations

import os

from vz.config.ctconfig import CTConfig, load_ct
from vz.config.nodeconfig import NodeConfig
from vz.config.paths import CONF_DIR, NAMES_DIR, RUN
from vz.container.record import Record, load_record
from vz.errors import BadValue, ExitCode, NoContainerConfig, VzError

DEFAULT_ID_COUNT = 65536
MAX_CTID = 2147483644
KEPT = "left-running"  # in a dump: the CT ran on after it, so it is no place to go on from by itself
NO_ADDRESS = ("0.0.0.0", "::")  # words of old configurations


class Container:
    """One CT as its files describe it; run state is asked anew at each call."""

    __slots__ = ("_record", "_record_read", "conf", "ctid", "mended", "node", "private", "root")

    def __init__(self, ctid: int, node: NodeConfig, conf: CTConfig) -> None:
        self.ctid = ctid
        self.node = node
        self.conf = conf
        self.root = conf.expand(conf.ve_root or node.ve_root or "", ctid)
        self.private = conf.expand(conf.ve_private or node.ve_private or "", ctid)
        self._record: Record | None = None
        self._record_read = False
        self.mended = ""  # what settling it has done, where that is what the command was to do

    @property
    def conf_path(self) -> str:
        return f"{CONF_DIR}/{self.ctid}.conf"

    @property
    def run_dir(self) -> str:
        return f"{RUN}/{self.ctid}"

    @property
    def dump_path(self) -> str:
        return f"{self.node.dumpdir}/Dump.{self.ctid}"

    @property
    def idmap(self) -> tuple[int, int]:
        """The CT's own range of host ids as (first, count); (0, count) while it has none yet."""
        return (self.conf.local_uid or 0, self.conf.local_uid_count or DEFAULT_ID_COUNT)

    def record(self) -> Record | None:
        """Return the run record, read once; None when there is none."""
        if not self._record_read:
            self._record = load_record(self.ctid)
            self._record_read = True
        return self._record

    def forget_record(self) -> None:
        """Read the record anew at the next question."""
        self._record_read = False

    def init_pid(self) -> int:
        """Return the pid of the CT's init as the host sees it; 0 when the CT does not run."""
        record = self.record()
        return record.init_pid if record is not None and record.is_alive() else 0

    def is_running(self) -> bool:
        return self.init_pid() != 0

    def is_mounted(self) -> bool:
        """Tell whether the root is attached: another device than its parent's, or the private area itself."""
        return is_mounted(self.root, self.private)

    def is_suspended(self) -> bool:
        """Tell whether a dump waits for the CT to go on from it."""
        return os.path.exists(self.dump_path) and not os.path.exists(f"{self.dump_path}/{KEPT}")

    def addresses(self) -> list[str]:
        """Return the CT's addresses without masks; IPv6 ones only where the node has it on."""
        plain = [address.partition("/")[0] for address in self.conf.ip_addr or []]
        return [a for a in dict.fromkeys(plain) if a not in NO_ADDRESS and (self.node.ipv6 or ":" not in a)]

    def exists(self) -> bool:
        return os.path.isdir(self.private) and os.path.exists(self.conf_path)


def is_mounted(root: str, private: str) -> bool:
    """The rule of vzctl(8) status: st_dev(root) is not st_dev(root/..), or root and private are one directory."""
    try:
        here = os.stat(root)
        above = os.stat(root + "/..")
    except OSError:
        return False
    if here.st_dev != above.st_dev:
        return True
    try:
        area = os.stat(private)
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (area.st_dev, area.st_ino)


def parse_ctid(word: str) -> int:
    """Return the number in *word*; BadValue unless it is ASCII ``[1-9][0-9]*`` in range."""
    if word.isascii() and word.isdigit() and word[0] != "0" and len(word) <= 10 and int(word) <= MAX_CTID:
        return int(word)
    raise BadValue(f"Bad CT ID {printable(word)}")


def find(word: str) -> int:
    """Return the id that *word* stands for: a number, or a name whose link and conf agree.

    Raises:
        BadValue: neither (status 21).
    """
    if word.isascii() and word.isdigit():
        return parse_ctid(word)
    bad = BadValue(f"Bad CT ID {printable(word)}")
    if not word or "/" in word or "\0" in word or word in (".", ".."):
        raise bad
    try:
        target = os.readlink(f"{NAMES_DIR}/{word}")
    except OSError:
        raise bad from None
    stem = os.path.basename(target).removesuffix(".conf")
    if not (stem.isascii() and stem.isdigit()):
        raise bad
    ctid = parse_ctid(stem)
    from vz.config.conffile import ConfFile

    try:
        name = ConfFile.read(f"{CONF_DIR}/{ctid}.conf").get("NAME")
    except (OSError, VzError):
        name = None
    if name != word:
        raise bad
    return ctid


def load(ctid: int, node: NodeConfig, *, must_exist: bool = True) -> Container:
    """Return CT *ctid* with its configuration merged over the node's.

    Raises:
        NoContainerConfig: there is no conf and *must_exist* (status 14).
        InvalidConfig: the conf cannot be used at all (status 85).
    """
    if must_exist and not os.path.exists(f"{CONF_DIR}/{ctid}.conf"):
        raise NoContainerConfig("Container config file does not exist")
    return Container(ctid, node, load_ct(ctid, node))


def need_paths(ct: Container) -> None:
    """Raise with the documented status when VE_ROOT or VE_PRIVATE is not set."""
    if not ct.private:
        raise VzError("VE_PRIVATE is not set", ExitCode.VE_PRIVATE_NOTSET)
    if not ct.root:
        raise VzError("VE_ROOT is not set", ExitCode.VE_ROOT_NOTSET)
    for path in (ct.private, ct.root):
        if not path.startswith("/") or "\n" in path:
            raise VzError(
                f"VE_ROOT and VE_PRIVATE must be absolute paths, not {printable(path)}", ExitCode.INVALID_CONFIG
            )


def printable(text: str) -> str:
    """Return *text* safe for a terminal or a log line: what cannot be printed becomes ``\\xNN``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
