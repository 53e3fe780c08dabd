"""One migration as its source leads it: the CT, what was asked, the helper over there, the journal, the clock."""

from __future__ import annotations

import os
import time

from vz.config.paths import CONF_DIR, RUN
from vz.container import events
from vz.container.ct import Container
from vz.disk import moved, templates
from vz.kernel.files import make_dirs, read_bytes
from vz.net.claims import read_veip
from vz.net.connect import hand_in
from vz.ops.destroy import ACTION_SUFFIXES
from vz.ops.migrate import log
from vz.ops.migrate.errors import COPY_FAILED, MigrateFailed
from vz.ops.migrate.ssh import Helper, Refused, Route, copy_tree
from vz.ops.report import say, warn
from vz.ops.undo import check_interrupt
from vz.requests import Migrate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vz.net.late import Late
    from vz.ops.migrate.memory import Memory

PROGRESS, DETAIL = -1, 0  # levels for say(): what is always printed, what -v adds


class Session:
    __slots__ = (
        "begun",
        "ct",
        "dump_there",
        "entry",
        "facts",
        "helper",
        "late",
        "memory",
        "migration",
        "newid",
        "request",
        "route",
        "stages",
        "was",
    )

    def __init__(self, ct: Container, request: Migrate, was: str) -> None:
        self.ct = ct
        self.request = request
        self.was = was  # running, mounted, stopped or suspended: what it is to be over there
        self.newid = request.newid or ct.ctid
        # a live one has two copies to make while the CT is frozen: each would set up a connection first
        mux = f"{RUN}/ssh-{os.getpid()}" if request.mux or request.online else ""
        if mux:
            make_dirs(RUN, 0o711)
        self.route = Route(request.host, request.ssh, request.rsync, mux, request.verbosity)
        self.route.prefer_fast_ciphers()
        self.migration = log.new_id()
        self.entry = log.Log(ct.ctid, log.OUT, {})
        self.facts: dict[str, Any] = {}
        self.stages: list[tuple[str, float]] = []
        self.dump_there = ""  # where the images of a live migration go
        self.memory: Memory | None = None  # of a live one
        self.late: Late | None = None  # what comes for it while it is frozen
        self.begun = time.monotonic()
        self.helper = Helper(self.route)

    def tick(self) -> None:
        """Called while something else is waited for: an interrupt counts, and the helper hears that we are there."""
        check_interrupt()
        self.helper.keep_alive()

    def prepare(self) -> str:
        """Make the destination ready, the template that it lacks too; return where the files go over there."""
        say("Preparing remote node", PROGRESS)
        there = self.begin()
        if not self.facts["template_there"]:
            self.stage("Template")
            self.send_template()
        say("Syncing private", PROGRESS)
        self.stage("Copying files")
        return there

    def stage(self, name: str) -> None:
        """Begin the part called *name* of what ``-t`` reports."""
        say(f"   {name}", DETAIL)
        self.stages.append((name, time.monotonic()))

    def ask(
        self, operation: str, data: bytes = b"", *, tick: Callable[[], None] | None = check_interrupt, **fields: Any
    ) -> dict[str, Any]:
        return self.helper.ask(operation, data, tick=tick, ctid_there=self.newid, **fields)

    # -- what comes for the CT meanwhile -------------------------------------------------------------------------------

    def catch_late(self) -> None:
        """Catch what comes for the CT from now on; what was caught before has been sent again since."""
        from vz.net.late import Late

        if self.late is not None:
            self.late.close()
        try:
            self.late = Late(read_veip(self.ct.ctid))
        except OSError as exc:  # a kernel without packet sockets: its peers send again
            say(f"   What comes for it meanwhile is not kept: {exc.strerror}", DETAIL)

    def send_late(self) -> None:
        """Have the destination hand the CT what has come for it; Broken: the connection is."""
        packets = self._caught()
        if packets:
            try:
                self.ask("late", packets, tick=None)
            except Refused:
                pass  # as if they were lost

    def keep_late(self) -> None:
        """Hand the CT, which goes on here, what has come for it."""
        try:
            hand_in(self.ct, self._caught())
        except OSError:
            pass

    def _caught(self) -> bytes:
        if self.late is None:
            return b""
        packets = self.late.take()
        self.late.close()
        self.late = None
        return packets

    # -- what is sent --------------------------------------------------------------------------------------------------

    def begin(self) -> str:
        """Tell both journals that it begins; return where the files go over there."""
        request, ct, facts = self.request, self.ct, self.facts
        self.entry.at(
            log.COPYING,
            id=self.migration,
            host=request.host,
            newid=self.newid,
            ssh=request.ssh,
            was=self.was,
            online="yes" if request.online else "no",
            path="",
            serial="",
            counts="no",
            remove="yes" if request.remove else "no",
            private=ct.private,
            root=ct.root,
            dump=ct.dump_path,
            id_base=ct.idmap[0],
            id_count=ct.idmap[1],
            name=ct.conf.name or "",
        )
        answer = self.ask(
            "begin",
            id=self.migration,
            source=os.uname().nodename,
            was=self.was,
            keep=request.keep,
            online=request.online,
            layout=facts["layout"],
            digest=facts["digest"],
            template=facts["template"],
        )
        self.dump_there = str(answer["dump"])
        return str(answer["path"])

    def send_template(self) -> None:
        """Copy the template that the CT stands on, as its archive where that is still here, else as the tree."""
        digest, name = self.facts["digest"], self.facts["template"]
        tarball = templates.find_tarball(self.ct.node, name) if name else None
        if tarball is not None and templates.lookup(self.ct.node, name).digest != digest:
            tarball = None
        suffix = next((end for end in templates.SUFFIXES[::-1] if tarball and tarball.endswith(end)), "")
        say(f"   Copying template {name}", DETAIL)
        fields = {"digest": digest, "name": name or digest, "suffix": suffix}
        answer = self.ask("template", **fields)
        if answer["have"]:
            return
        source = tarball or f"{templates.tree_of_digest(self.ct.node, digest)}"
        there = answer["path"] if suffix else f"{answer['path']}/fs/"
        argv = self.route.rsync_argv(source if suffix else f"{source}/", f"{self.route.host}:{there}")
        copy_tree(argv, f"template {name}", self.tick)
        self.ask("template_there", **fields)

    def copy_files(self, tree: str, there: str, *, running: bool) -> None:
        """Copy all that is below *tree*, and delete what is not in it over there."""
        # 24: files have vanished meanwhile, as they may in a running system
        copy_tree(self.files_argv(tree, there, running), "the private area", self.tick, (0, 24) if running else (0,))

    def files_argv(self, tree: str, there: str, running: bool) -> list[str]:
        options = ["--delete"]
        if self.facts["layout"] == "overlay":
            options += [f"--filter=-x {name}" for name in moved.XATTRS_LEFT]
        if running:
            options.append("--sparse")
        return self.route.rsync_argv(*options, f"{tree}/", f"{self.route.host}:{there}/")

    def send_configuration(self) -> int:
        """Send conf and action scripts; return the first host id that the CT gets over there."""
        ct = self.ct
        conf = ct.conf.conf.dump() if ct.conf.conf is not None else b""
        scripts, texts = [], []
        for suffix in ACTION_SUFFIXES:
            path = f"{CONF_DIR}/{ct.ctid}.{suffix}"
            try:
                text = read_bytes(path)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise MigrateFailed(f"Unable to read {path}: {exc.strerror}", COPY_FAILED) from exc
            scripts.append([suffix, os.stat(path).st_mode & 0o777, len(text)])
            texts.append(text)
        history = events.dump(ct.ctid)
        data = b"".join([conf, *texts, history])
        answer = self.ask("arrive", data, ctid=ct.ctid, scripts=scripts, conf_size=len(conf), events_size=len(history))
        return int(answer["base"])

    # -- what is said at the end ---------------------------------------------------------------------------------------

    def print_times(self) -> None:
        """Print how long each stage took: ``-t``."""
        now = time.monotonic()
        ends = [begun for _, begun in self.stages[1:]] + [now]
        for (name, begun), end in zip(self.stages, ends, strict=True):
            say(f"  {name:>24}: {end - begun:7.2f}", PROGRESS)
        say(f"  {'Total':>24}: {now - self.begun:7.2f}", PROGRESS)


def complain(problems: list[dict[str, Any]], ignore: frozenset[str]) -> None:
    """Print every problem that a check found, and raise the first that counts as MigrateFailed."""
    serious = [
        item
        for item in problems
        if item["code"] and not (item["about"] and (item["about"] in ignore or "all" in ignore))
    ]
    for item in problems:
        if item in serious[1:]:
            warn(f"Error: {item['text']}")
        elif item not in serious:
            warn(f"Warning: {item['text']}")
    if serious:
        raise MigrateFailed(str(serious[0]["text"]), int(serious[0]["code"]))
