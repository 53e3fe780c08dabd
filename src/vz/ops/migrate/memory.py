"""How the memory of a container goes over, and for how long it is frozen for that; docs/migration.md has the table.

``pages``: all of it while the CT is frozen, straight into files of the destination (page server).
``iterative``: first while it runs, in rounds of what has changed since the last (soft-dirty pages); then as above.
``lazy``: the CT runs on over there at once and fetches its memory as it needs it, the rest in the background.
"""

from __future__ import annotations

import os
import time

from vz.checkpoint import criu, images, store
from vz.checkpoint.options import criu_program, lazy_dump_options, page_server_options, pre_dump_options
from vz.container.ct import Container
from vz.container.record import Record
from vz.kernel.capabilities import is_in_bounding_set, number
from vz.ops.migrate.errors import CHECKPOINT, USAGE, MigrateFailed
from vz.ops.migrate.pages import Stream
from vz.ops.report import say, warn
from vz.resources import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vz.ops.migrate.session import Session

PAGES, ITERATIVE, LAZY = "pages", "iterative", "lazy"
LAZY_FROM_BYTES = 256 << 20  # below, a fetch of all of it is as quick, and has no point of no return
MOST_ROUNDS = 5
SMALL_BYTES = 32 << 20  # a round of less is not worth another
SHRINKS = 0.7  # a round that is not this much smaller than the one before is the last
PIPE_BYTES = 64 << 20
PRE = ".pre"  # beside a dump's path: what the rounds leave here
PROBE_BYTES = 8 << 20
# what a freeze of a Debian CT costs whatever its memory, and what criu dumps and restores in a second by itself:
# measured on two quiet cores (docs/migration.md); a foresight, not a promise
FIXED_S, CRIU_BYTES_S = 0.7, 800e6


class Memory:
    """The memory of one migration: ``kind``, and the stream that is open for it."""

    __slots__ = ("bytes", "kind", "limit_s", "rate", "rounds", "session", "stream")

    def __init__(self, session: Session, obstacles_there: list[str]) -> None:
        request = session.request
        self.session = session
        self.bytes = int(session.facts["live"]["memory"])  # what is to go over while it is frozen, as far as is known
        self.limit_s = request.max_downtime_s
        self.rate = 0.0
        self.rounds = 0
        self.stream: Stream | None = None
        obstacles = lazy_obstacles(source=True) + obstacles_there
        self.kind = choose(request.lazy, self.bytes, tracked=tracks_memory(), obstacles=obstacles)

    # -- before the freeze ---------------------------------------------------------------------------------------------

    def precopy(self, ct: Container, record: Record, path: str) -> None:
        """Copy the memory in rounds while the CT runs, where the kernel can tell what changes meanwhile."""
        if self.kind != ITERATIVE:
            return
        top = path + PRE
        store.remove(top)
        os.mkdir(top, 0o700)
        last = 0
        while self.rounds < MOST_ROUNDS:
            turn = self.rounds + 1
            folder = f"{top}/{turn}"
            os.mkdir(folder, 0o755)
            os.chmod(folder, 0o755)
            begun = time.monotonic()
            try:
                stream = self.open(f"pre{turn}")
                argv = pre_dump_options(record, folder, freezer=cgroups.ct_dir(ct), previous=self._previous(".."))
                criu.run(
                    [criu_program(), *argv],
                    f"{top}/{turn}.log",
                    cgroups.ct_dir(ct),
                    lambda stage, pid: None,
                    tick=self.session.tick,
                    passed=stream.socket,
                )
                self.finish(self.session.tick)
            except criu.CriuFailed as exc:
                self.close()
                warn(f"Warning: the memory cannot be copied while the container runs: {exc}")
                self.kind, self.rounds = PAGES, 0
                store.remove(top)
                return
            written = images.pages_written(folder) * os.sysconf("SC_PAGE_SIZE")
            self.rounds = turn
            self.rate = written / max(0.001, time.monotonic() - begun)
            say(f"   Memory, round {turn}: {written >> 20} MB in {time.monotonic() - begun:.2f} s", 0)
            self.bytes = written
            if written < SMALL_BYTES or (last and written > last * SHRINKS):
                break
            last = written

    def predict(self) -> None:
        """Give up before the freeze when it would be longer than is allowed; MigrateFailed (8)."""
        if not self.limit_s:
            return
        seconds = FIXED_S
        if self.kind != LAZY:
            if not self.rate:
                self.rate = self._probe()
            seconds += self.bytes / self.rate + self.bytes / CRIU_BYTES_S
        if seconds > self.limit_s:
            raise MigrateFailed(
                f"It would be frozen for about {seconds * 1000:.0f} ms ({self.bytes >> 20} MB of memory to copy), "
                f"--max-downtime allows {self.limit_s * 1000:.0f}",
                CHECKPOINT,
            )

    def _probe(self) -> float:
        """Return how many bytes a second the connection takes, by sending some."""
        times = []
        for size in (0, PROBE_BYTES):  # the first costs what any question costs
            data = os.urandom(size)
            begun = time.monotonic()
            self.session.ask("ping", data)
            times.append(time.monotonic() - begun)
        return PROBE_BYTES / max(0.001, times[1] - times[0])

    # -- the stream ----------------------------------------------------------------------------------------------------

    def open(self, folder: str) -> Stream:
        """Open the stream for the pages that go into *folder* of the dump over there."""
        session = self.session
        self.close()
        self.stream = Stream(session.route, session.migration, session.tick)
        previous = f"pre{self.rounds}" if self.rounds else ""
        session.ask("pages", folder=folder, previous=previous, lazy=self.kind == LAZY)
        return self.stream

    def dump_options(self, path: str) -> list[str]:
        """Return what the criu that dumps to ``PATH.new`` has to be told."""
        if self.kind == LAZY:
            return lazy_dump_options()
        return page_server_options(self._previous(f"../../{os.path.basename(path)}{PRE}"))

    def finish(self, tick: Callable[[], None]) -> None:
        """Make sure that all that has been sent is over there; Refused when it is not."""
        self.session.ask("pages_there", tick=tick)
        self.close()

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def _previous(self, above: str) -> str:
        return f"{above}/{self.rounds}" if self.rounds else ""


def choose(lazy: bool | None, size: int, *, tracked: bool, obstacles: list[str]) -> str:
    """Return the best way for *size* bytes.

    *lazy*: wanted, forbidden or None; *tracked*: soft-dirty is to be had; *obstacles*: why LAZY is not.

    Raises:
        MigrateFailed: it is wanted, and is not to be had (1).
    """
    if lazy and obstacles:
        raise MigrateFailed("\n\t".join(["--lazy cannot be done:", *obstacles]), USAGE)
    if lazy:
        return LAZY
    if tracked:
        return ITERATIVE
    if lazy is None and not obstacles and size >= LAZY_FROM_BYTES:
        return LAZY
    return PAGES


def tracks_memory() -> bool:
    """Tell whether this kernel can say which pages have changed (CONFIG_MEM_SOFT_DIRTY)."""
    from vz.kernel.process import spawn

    return spawn([criu_program(), "check", "--feature", "mem_dirty_track"], timeout_s=30).status == 0


def lazy_obstacles(*, source: bool) -> list[str]:
    """Return what on this node, the *source* or the destination, is against memory that follows later; and the way out.

    Source: criu keeps all memory in pipes, which it makes larger than an ordinary pipe; see pipe(7).  Destination: see
    Documentation/admin-guide/sysctl/vm.rst.
    """
    if source:
        if _number("/proc/sys/fs/pipe-max-size") < PIPE_BYTES and not is_in_bounding_set(number("sys_resource")):
            return [f"pipes are too small on this node; as root: sysctl fs.pipe-max-size={PIPE_BYTES}"]
    elif _number("/proc/sys/vm/unprivileged_userfaultfd") != 1:
        words = "the destination node does not let a container's memory be served; there, as root"
        return [
            f"{words}: sysctl vm.unprivileged_userfaultfd=1 (its processes cannot use that: their filter refuses it)"
        ]
    return []


def _number(path: str) -> int:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
