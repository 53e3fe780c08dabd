"""vzeventd: the node daemon; with --boot and --shutdown, the start and stop of the node's containers."""

from __future__ import annotations

import gc
import os
import sys

from vz.cli.main import Globals, answer
from vz.config.nodeconfig import NodeConfig, load_node
from vz.config.paths import EVENTD
from vz.errors import ExitCode, VzError
from vz.ops import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.node.workers import Worker

USAGE_STATUS = 1
USAGE = """\
Usage: vzeventd [-v] [-d | --foreground]
       vzeventd [-v] --boot
       vzeventd [-v] --shutdown [--timeout SECONDS]

  -d, --foreground   stay in the foreground, and tell on stderr too
  -v, --verbose      tell more
      --boot         start the containers that are to run when the node does
      --shutdown     suspend or stop (VE_STOP_MODE) the running containers
      --timeout      seconds until what still runs then is killed (300)
  -h, --help         print this"""
# what a start or restore imports: loaded once, shared by all children of the daemon
PRELOAD = (
    "vz.cli.context vz.cli.start vz.cli.restart vz.cli.restore vz.ops.start vz.ops.restart vz.ops.restore "
    "vz.ops.settle vz.net vz.net.connect vz.net.venet vz.net.veth vz.net.table vz.net.neighbours vz.disk.overlay "
    "vz.disk.simfs vz.guest.debian vz.guest.configure vz.config.options"
).split()


class BadUsage(Exception):
    pass


def run(argv: list[str], options: Globals) -> int:
    """vzeventd [-v] [-d] | --boot | --shutdown; 0, 1 for wrong words or what was not done, 10 without vz.conf"""
    try:
        flags, limit_s = parse(argv)
    except BadUsage as exc:
        os.write(2, f"vzeventd: {exc}\n{USAGE}\n".encode("utf-8", "surrogateescape"))
        return USAGE_STATUS
    if "help" in flags:
        os.write(1, f"{USAGE}\n".encode())
        return ExitCode.OK
    if os.geteuid() != 0:
        raise VzError("vzeventd: this needs root", ExitCode.NO_ACCES)
    node = load_node()
    report.set_up("vzeventd", verbosity=1 if "verbose" in flags else 0)
    report.set_log(node.logfile if node.logging else "", 0, node.log_level)
    gc.enable()
    if "boot" in flags or "shutdown" in flags:
        from vz.node import booting

        if not os.path.exists(EVENTD):
            preload()
        if "boot" in flags:
            return booting.boot(node, answer)
        return booting.shut_down(node, answer, limit_s)
    return daemon(argv, node, foreground="foreground" in flags)


def parse(argv: list[str]) -> tuple[set[str], float]:
    """Return (names of the flags, the limit of --shutdown in seconds); BadUsage."""
    names = {"-d": "foreground", "--foreground": "foreground", "-v": "verbose", "--verbose": "verbose"}
    names |= {"--boot": "boot", "--shutdown": "shutdown", "-h": "help", "--help": "help"}
    flags = set()
    limit_s = 300.0
    words = list(argv)
    while words:
        word, equals, value = words.pop(0).partition("=")
        if word == "--timeout":
            value = value if equals else (words.pop(0) if words else "")
            if not (value.isascii() and value.isdigit() and len(value) < 7):
                raise BadUsage("--timeout wants a number of seconds")
            limit_s = float(value)
            flags.add("timeout")
        elif word in names and not equals:
            flags.add(names[word])
        else:
            raise BadUsage(f"unknown option {word}")
    if len(flags & {"boot", "shutdown", "foreground"}) > 1 or ("timeout" in flags and "shutdown" not in flags):
        raise BadUsage("these options do not go together")
    return flags, limit_s


def preload() -> None:
    for name in PRELOAD:
        __import__(name)


def daemon(argv: list[str], node: NodeConfig, *, foreground: bool) -> int:
    """Be the daemon; in the background, return once it is up."""
    from vz.node.daemon import Daemon, is_carried_on, notify_ready

    program = os.path.abspath(sys.argv[0])
    ready = -1
    if not foreground and not is_carried_on():
        status, ready = to_background()
        if status >= 0:
            return status
    preload()
    os.chdir("/")
    made = Daemon(program, argv, answer, workers(node))
    made.begin()
    notify_ready()
    if ready >= 0:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        os.write(ready, b"+")
        os.close(ready)
    made.run()
    return ExitCode.OK


def workers(node: NodeConfig) -> list[Worker]:
    """Return the daemon's parts that are processes of their own."""
    from vz.kernel import cgroup
    from vz.node import noticing, pacing
    from vz.node.workers import Worker

    found = []
    parent, rate = node.cgroup_parent, node.number("VSWAP_RATE") * pacing.MB
    if rate and cgroup.hierarchies().version("memory"):
        top = f"{cgroup.hierarchies().unified}/{parent}"
        found.append(Worker("pacer", lambda feed: pacing.run(feed, parent, rate), lambda: pacing.thaw_all(top)))
    found.append(Worker("watcher", lambda feed: noticing.run(feed, node)))
    return found


def to_background() -> tuple[int, int]:
    """Fork: the parent returns (exit status, -1) once the child has said how it goes, the child (-1, where to say)."""
    news, teller = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(news)
        os.setsid()
        return -1, teller
    os.close(teller)
    if os.read(news, 1):
        return ExitCode.OK, -1
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), -1
