"""The destination's side of a migration, step by step; a killed one is aborted or finished from its journal."""

from __future__ import annotations

import os

from vz.config.conffile import ConfFile
from vz.config.netif import moved_ifname
from vz.config.nodeconfig import NodeConfig
from vz.config.paths import CONF_DIR
from vz.container import events, ids
from vz.container.ct import Container, load, printable
from vz.disk import layout, project, templates
from vz.errors import VzError
from vz.kernel.files import make_dirs, write_atomically
from vz.ops import names
from vz.ops.create import remove_destroyed
from vz.ops.destroy import ACTION_SUFFIXES
from vz.ops.migrate import log
from vz.ops.migrate.errors import CONFIG_FAILED, EXISTS, START_FAILED, MigrateFailed
from vz.ops.migrate.wire import Broken
from vz.ops.report import say, warn
from vz.ops.settle import clear, forget_run, take_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def begin(node: NodeConfig, ctid: int, request: dict[str, Any]) -> log.Log:
    """Note that CT *ctid* is coming and make room for its files.

    Raises:
        MigrateFailed: there is one already (9).
    """
    private, root = paths(node, ctid)
    kept = check_free(node, ctid)
    if request["keep"]:
        kept = True
    entry = log.Log(ctid, log.IN, {})
    entry.at(
        log.RECEIVING,
        id=request["id"],
        source=request["source"],
        was=request["was"],
        online="yes" if request["online"] else "no",
        dump=f"{node_dump(node, ctid)}.in",
        layout=request["layout"],
        private=private,
        root=root,
        keep="yes" if kept else "no",
        had_ids="yes" if ids.ranges_of(ctid) else "no",
        boot=log.boot_id(),
    )
    make_dirs(os.path.dirname(private), 0o700)
    make_dirs(private, 0o700)
    if not os.listdir(private):
        project.begin_area(private, ctid)  # what comes is counted from its first file on
    if request["layout"] == "overlay":
        write_atomically(
            f"{private}/lower", f"digest={request['digest']}\ntemplate={request['template']}\n".encode(), 0o600
        )
        make_dirs(f"{private}/up", 0o755)
    return entry


def node_dump(node: NodeConfig, ctid: int) -> str:
    """Return where this node keeps the dump of CT *ctid*."""
    return load(ctid, node, must_exist=False).dump_path


def paths(node: NodeConfig, ctid: int) -> tuple[str, str]:
    """Return the private area and the root that a CT *ctid* has on this node."""
    return tuple(  # type: ignore[return-value]
        path.replace("${VEID}", str(ctid)).replace("$VEID", str(ctid)) for path in (node.ve_private, node.ve_root)
    )


def check_free(node: NodeConfig, ctid: int) -> bool:
    """Raise MigrateFailed (9) when the place of CT *ctid* is taken; tell whether files of it are there to be reused."""
    if os.path.lexists(f"{CONF_DIR}/{ctid}.conf"):
        raise MigrateFailed(f"CT {ctid} already exists on the destination node", EXISTS)
    private, _ = paths(node, ctid)
    if not os.path.isdir(private) or not os.listdir(private):
        return False
    if os.path.exists(kept_mark(ctid)) or os.path.exists(f"{CONF_DIR}/{ctid}.conf.migrated"):
        return True
    raise MigrateFailed(f"Private area {private} already exists on the destination node", EXISTS)


def kept_mark(ctid: int) -> str:
    """Return the file that says that the private area without a conf is a kept copy (``--keep-dst``)."""
    return f"{log.MIGRATE_DIR}/kept.{ctid}"


def arrive(node: NodeConfig, entry: log.Log, request: dict[str, Any], data: bytes) -> Container:
    """Write the CT's conf, scripts and name, and give it a range of host ids; it is whole now, and still not ours.

    *data* is the conf, then each script in the order of ``request["scripts"]`` (suffix, mode, size), then its events.

    Raises:
        MigrateFailed: something of it cannot be written here (15).
    """
    ctid = entry.ctid
    size = int(request["conf_size"])
    conf = ConfFile(f"{CONF_DIR}/{ctid}.conf", data[:size])
    rest = data[size:]
    scripts = []
    for suffix, mode, length in request["scripts"]:
        if suffix not in ACTION_SUFFIXES or len(rest) < int(length):
            raise MigrateFailed(f"bad action script {suffix!r}", CONFIG_FAILED)
        scripts.append((suffix, int(mode) & 0o777, rest[: int(length)]))
        rest = rest[int(length) :]
    name = conf.get("NAME") or ""
    # before any of it is made: whoever finds us dead knows what to take away
    entry.at(log.RECEIVING, name=name, scripts=" ".join(suffix for suffix, _, _ in scripts))
    base = _ids(node, ctid, conf)
    _localize(conf, node, ctid, int(request["ctid"]), base)
    try:
        for suffix in ACTION_SUFFIXES:  # of a container that was here before
            if os.path.lexists(f"{CONF_DIR}/{ctid}.{suffix}"):
                os.unlink(f"{CONF_DIR}/{ctid}.{suffix}")
        for suffix, mode, text in scripts:
            write_atomically(f"{CONF_DIR}/{ctid}.{suffix}", text, mode)
        conf.save()
        events.load(ctid, rest[: int(request.get("events_size", 0))])
        if name:
            names.check_free(ctid, name)
            names.assign(ctid, name)
    except OSError as exc:
        raise MigrateFailed(
            f"Unable to write the configuration: {exc.filename}: {exc.strerror}", CONFIG_FAILED
        ) from exc
    entry.at(log.ARRIVED)
    return load(ctid, node)


def _ids(node: NodeConfig, ctid: int, conf: ConfFile) -> int:
    """Return the first host id that the CT gets here: its old one if that is free and of this node's pool."""
    word, count = conf.get("LOCAL_UID") or "0", _count(conf)
    base = int(word) if word.isascii() and word.isdigit() and len(word) < 11 else 0
    if base and ids.owner_of(base) == ctid and ids.is_free(base, count, ctid):
        return base  # a kept copy's
    pool = range(node.local_uid, node.local_uid + node.local_uid_pool)
    aligned = base in pool and base + count - 1 in pool and (base - pool.start) % ids.RANGE == 0
    if aligned and ids.is_free(base, count, ctid):
        ids.register(ctid, base, count)
        return base
    return ids.allocate(node, ctid, count)


def _count(conf: ConfFile) -> int:
    word = conf.get("LOCAL_UID_COUNT") or ""
    return int(word) if word.isascii() and word.isdigit() and 0 < len(word) < 11 else ids.RANGE


def _localize(conf: ConfFile, node: NodeConfig, ctid: int, old: int, base: int) -> None:
    """Put into *conf* what is this node's to say."""
    conf.set("VE_ROOT", node.values.get("VE_ROOT", "/vz/root/$VEID"))
    conf.set("VE_PRIVATE", node.values.get("VE_PRIVATE", "/vz/private/$VEID"))
    conf.set("LOCAL_UID", str(base))
    conf.set("LOCAL_GID", str(base))
    if conf.get("VEID"):
        conf.set("VEID", str(ctid))
    netif = conf.get("NETIF")

    def moved(word: str) -> str:
        key, equals, value = word.partition("=")
        return f"{key}={moved_ifname(value, old, ctid)}" if equals and key.strip() == "host_ifname" else word

    if ctid != old and netif:
        conf.set("NETIF", ";".join(",".join(moved(word) for word in one.split(",")) for one in netif.split(";")))


def take(ct: Container, entry: log.Log, stream: int = -1) -> None:
    """The CT is ours from here on; bring it into the state that it had there.

    *stream*: a socket to the criu on the source that serves its memory.

    Raises:
        MigrateFailed: that failed (7); it has been given back, and nothing of it is left here.
    """
    entry.at(log.MINE)
    try:
        finish(ct, entry, stream)
    except (VzError, OSError) as exc:
        try:
            abort(ct.node, entry)
        except (VzError, OSError) as also:  # the source must not believe that it is the only one: it asks again
            raise Broken(f"giving it back: {also}") from exc
        raise MigrateFailed(
            f"Failed to {_verb(entry)} the container on the destination node: {exc}", START_FAILED
        ) from exc


def _verb(entry: log.Log) -> str:
    if entry.facts["online"] == "yes":
        return "restore"
    return "mount" if entry.facts["was"] == "mounted" else "start"


def finish(ct: Container, entry: log.Log, stream: int = -1) -> None:
    """Start, restore or mount a CT that is ours, as it was on the source; done already: nothing."""
    lazy = entry.facts.get("lazy") == "yes"
    if entry.facts["online"] == "yes":
        from vz.ops import restore

        path = entry.facts["dump"]
        if not ct.is_running() and os.path.isdir(path):  # else it has run here, and ended by itself
            restore.check(ct, path, any_id=True)
            restore.adopt_ids(ct, path)
            if os.path.lexists(f"{path}/images/parent"):
                # its tasks go through here from one round's memory to the one before; nobody else gets here by its path
                os.chmod(path, 0o711)
            if lazy and stream < 0:
                raise VzError("the connection to its memory broke")
            record = restore.load(ct, path, skip_arpdetect=True, lazy_socket=stream)
            restore.go_on(ct, record, path, keep=lazy)
    elif entry.facts["was"] == "running" and not ct.is_running():
        from vz.ops.start import start

        start(ct, force=True)
    elif entry.facts["was"] == "mounted" and not ct.is_mounted():
        from vz.ops.mount import mount

        mount(ct)


def settle(ct: Container, entry: log.Log) -> None:
    """Make safe what has come, and note for good that it has: the source may remove its copy.

    Raises:
        MigrateFailed: its memory has not come (7); it has been given back as it was when it was frozen.
    """
    from vz.disk.changes import Tree

    if entry.facts.get("lazy") == "yes":
        from vz.checkpoint import lazy, store
        from vz.ops.trash import discard

        try:
            lazy.wait(entry.facts["dump"])
        except lazy.NotFetched as exc:
            abort(ct.node, entry)
            raise MigrateFailed(f"The container's memory did not come over: {exc}", START_FAILED) from exc
        if os.path.lexists(entry.facts["dump"] + store.GONE):
            discard(entry.facts["dump"] + store.GONE)
    with Tree(ct.private) as tree:
        tree.settle_dirty()
    log.accept(entry.facts["id"], ct.ctid)
    for path in (kept_mark(ct.ctid), f"{ct.conf_path}.migrated"):
        if os.path.lexists(path):
            os.unlink(path)
    remove_destroyed(ct.conf_path)
    entry.end()


def abort(node: NodeConfig, entry: log.Log) -> None:
    """Take away everything that came; with keep, its files stay for the next try.  Each step can be done again."""
    from vz.ops.trash import discard

    facts, ctid = entry.facts, entry.ctid
    entry.at(log.ABORTING)
    ct = load(ctid, node, must_exist=False)
    private, root = facts["private"], facts["root"]
    if facts["online"] == "yes":
        from vz.checkpoint import criu, store

        criu.kill_stragglers(f"{facts['dump']}/images")
        for path in (facts["dump"], facts["dump"] + store.GONE):
            store.remove(path)
    if ct.record() is not None or ct.is_mounted():
        clear(ct)
        if ct.is_mounted():
            layout.umount_root(ct)
        forget_run(ct)
    if facts.get("name"):
        names.remove_link(ctid, facts["name"])
    for suffix in ["conf", *facts.get("scripts", "").split()]:
        path = f"{CONF_DIR}/{ctid}.{suffix}"
        if os.path.lexists(path):
            os.unlink(path)
    events.forget(ctid)
    if facts["keep"] == "yes":
        write_atomically(kept_mark(ctid), b"", 0o600)
    elif os.path.lexists(private):
        discard(private)
    if facts["had_ids"] == "no":  # nothing has run with them but what was killed above
        for first in ids.ranges_of(ctid):
            ids.release(first, ctid)
    try:
        os.rmdir(root)
    except OSError:
        pass
    entry.end()


def mend(ct: Container, facts: dict[str, str]) -> None:
    """Answer a helper that was killed or cut off: what was not taken is given back, what was is finished."""
    entry = log.Log(ct.ctid, log.IN, facts)
    source = printable(facts.get("source", "?"))
    if entry.stage == log.MINE:
        if facts.get("boot") == log.boot_id():
            say(f"A migration of this container from {source} was interrupted: it has come here, finishing it")
            try:
                if facts["online"] == "yes":
                    mend_restore(ct, facts["dump"])
                elif not ct.is_running() and ct.record() is not None:
                    take_down(ct)  # a start that was killed
                finish(ct, entry)
            except (VzError, OSError) as exc:
                warn(f"It cannot be brought up here: {exc}")
            else:
                ct.forget_record()
                try:
                    return settle(ct, entry)
                except MigrateFailed as exc:
                    return warn(str(exc))
        else:
            warn("This node went down before what came of the container was safe")
    say(f"A migration of this container from {source} was interrupted: it stays there")
    abort(ct.node, entry)
    ct.forget_record()


def mend_restore(ct: Container, path: str) -> None:
    """Finish or undo the restore from *path* that was killed; one that came to its end has left no dump behind."""
    from vz.checkpoint import store
    from vz.ops import restore

    if os.path.lexists(path) or os.path.lexists(path + store.GONE):
        restore.mend(ct, {"path": path}, lambda text: None)
        ct.forget_record()


def template_wanted(node: NodeConfig, digest: str) -> bool:
    """Tell whether the unpacked template with *digest* has to come first."""
    if not digest:
        return False
    try:
        templates.tree_of_digest(node, digest)
    except VzError:
        return True
    return False
