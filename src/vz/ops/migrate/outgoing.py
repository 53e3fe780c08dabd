"""The source's side of a migration that was interrupted: whose is the CT, and what is to be done here."""

from __future__ import annotations

import os

from vz.config.paths import CONF_DIR
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.ops.migrate import log
from vz.ops.migrate.ssh import Helper, Refused, Route
from vz.ops.migrate.wire import Broken
from vz.ops.report import say, warn

ASK_TIMEOUT_S = 90.0


class Undecided(VzError):
    """Only the destination knows which node has the CT, and it cannot be asked."""

    code = ExitCode.LOCKED


def route_of(facts: dict[str, str]) -> Route:
    return Route(facts["host"], facts.get("ssh", ""))


def is_there(ctid: int, facts: dict[str, str]) -> bool:
    """Ask the destination whether it has taken the CT; after a *no* it cannot take it any more.

    Raises:
        Undecided: it cannot be asked.
    """
    host = facts["host"]
    try:
        helper = Helper(route_of(facts))
        try:
            answer = helper.ask("resolve", ctid_there=int(facts["newid"]), id=facts["id"], timeout_s=ASK_TIMEOUT_S)
        finally:
            helper.close()
    except (Broken, VzError) as exc:
        raise Undecided(
            f"Container {ctid} was being handed over to {host} when the connection broke, and {host} cannot be asked "
            f"now whether it has it ({exc}). Try again when it can be reached; if {host} is gone for good: "
            f"vzmigrate --take-back {ctid}"
        ) from exc
    return bool(answer["here"])


def mend(ct: Container, facts: dict[str, str]) -> None:
    """Bring an interrupted migration of *ct* to an end: the CT has gone, or it stays.

    Raises:
        Undecided: see is_there().
    """
    entry = log.Log(ct.ctid, log.OUT, facts)
    host = facts["host"]
    if entry.stage == log.HANDOVER and is_there(ct.ctid, facts):
        entry.at(log.LEAVING)
    if entry.stage == log.LEAVING:
        say(f"An earlier migration of this container to {host} was interrupted: it has gone there, removing it here")
        leave(ct, entry)
        forget(facts)
        return
    say(f"An earlier migration of this container to {host} was interrupted: it stays here")
    stay(ct, entry)
    if facts["was"] == "running" and not ct.is_running():
        warn(f"It was running and is stopped now: vzctl start {ct.ctid}")


def stay(ct: Container, entry: log.Log) -> None:
    """The CT has not gone: undo what was done to it here, but a stop."""
    go_on(ct, entry)
    entry.end()


def go_on(ct: Container, entry: log.Log) -> None:
    """Let a CT run on here that was frozen, or dumped and held; its dump goes.  One that was being stopped ends."""
    if entry.stage == log.STOPPING:
        from vz.ops import stop

        stop.finish(ct)
        ct.forget_record()
    facts = entry.facts
    if facts.get("online") != "yes":
        return
    from vz.checkpoint import store
    from vz.ops import chkpnt

    if facts.get("pre") and os.path.isdir(facts["pre"]):
        end_precopy(ct, facts["pre"])
    if not facts["path"]:
        return
    dump = {"path": facts["path"], "serial": facts["serial"], "counts": facts["counts"], "keep": "yes"}
    chkpnt.mend(ct, dump, lambda text: None)
    store.remove(facts["path"])
    if ct.is_running() and entry.stage == log.HANDOVER:  # the destination may have told the neighbours of itself
        from vz import net

        net.announce(ct, ct.addresses())


def end_precopy(ct: Container, pre: str) -> None:
    """Undo a first copy of the memory that was interrupted, and remove what it left; the CT runs on."""
    from vz.checkpoint import criu, store
    from vz.ops import chkpnt

    for name in os.listdir(pre):
        if name.isdecimal():
            criu.wait_for_stragglers(f"{pre}/{name}")
    record = ct.record()
    if record is not None and record.is_alive():
        chkpnt.recover(ct, record)
    store.remove(pre)


def bring_back(ct: Container, was: str) -> None:
    """Start or mount the CT, which stays here, as it *was*; a failure is said."""
    from vz.ops import mount, start

    ct.forget_record()
    try:
        if was == "running" and not ct.is_running():
            start.start(ct, force=True)
        elif was == "mounted" and not ct.is_mounted() and not ct.is_running():
            mount.mount(ct)
    except VzError as exc:
        warn(f"The container could not be brought back here ({was}): {exc}")


def leave(ct: Container, entry: log.Log) -> None:
    """The CT has gone: remove what is here, or with ``-r no`` put its conf aside; tell the destination that we know."""
    facts = entry.facts
    ct.forget_record()
    if facts["online"] == "yes":
        from vz.checkpoint import store
        from vz.ops import chkpnt

        chkpnt.end_suspended(ct)
        store.remove(facts["path"])
        if facts.get("pre"):
            store.remove(facts["pre"])
    if ct.record() is not None or ct.is_mounted():
        from vz.disk import layout
        from vz.ops.settle import clear, forget_run

        clear(ct)
        if ct.is_mounted():
            layout.umount_root(ct)
        forget_run(ct)
    if facts["remove"] == "yes":
        from vz.ops.destroy import finish

        finish(ct, {key: facts[key] for key in ("private", "root", "dump", "id_base", "name")})
    else:
        put_aside(ct.ctid, facts)
    entry.end()


def put_aside(ctid: int, facts: dict[str, str]) -> None:
    """Rename the conf, so that the container does not exist here; its files stay, and a migration back reuses them."""
    from vz.ops import names

    if facts.get("name"):
        names.remove_link(ctid, facts["name"])
    conf = f"{CONF_DIR}/{ctid}.conf"
    if os.path.lexists(conf):
        os.replace(conf, f"{conf}.migrated")


def forget(facts: dict[str, str]) -> None:
    """Tell the destination that nobody will ask for this migration again; it does without, should it not hear."""
    try:
        helper = Helper(route_of(facts))
        try:
            helper.ask("forget", id=facts["id"], timeout_s=ASK_TIMEOUT_S)
        finally:
            helper.close()
    except (Broken, Refused, VzError):
        pass
