"""create: make a CT's private area, its conf and its name; all of it or nothing."""

from __future__ import annotations

import errno
import os

from vz.config import dists, samples
from vz.config.ctconfig import load_ct
from vz.config.nodeconfig import NodeConfig
from vz.container import ids
from vz.container.ct import Container, need_paths, printable
from vz.disk import layout, templates
from vz.errors import ExitCode, VzError
from vz.kernel.files import make_dirs, read_bytes, remove, write_atomically
from vz.kernel.mountinfo import is_mount_point
from vz.ops import journal, mend, names, scripts
from vz.ops.report import say, warn
from vz.ops.undo import check_interrupt
from vz.requests import Change

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def create(ct: Container, change: Change) -> None:
    """Create CT *ct* as *change* and the sample that it names say.

    Raises:
        VzError: the documented status of the step that failed, with everything undone: 82 sample, 22-24 unset
            paths, 44 private area exists, 99 ploop, 131 name, 29 and 91 template, 48 and 46 unpacking, 139 conf,
            79 the vps.create script.
    """
    conf_path = ct.conf_path
    fresh = not os.path.exists(conf_path)
    values = dict(change.values)
    if change.ip_add:
        values["ip_addr"] = change.ip_add
    sample = samples.for_create(ct.ctid, ct.node, change.config or None)
    ct = with_values(ct, sample, values)
    check(ct, values)
    template = ct.conf.ostemplate
    say(f"Creating container private area ({template})")
    facts: dict[str, str | int] = {
        "area": f"{ct.private.rstrip('/')}.tmp",
        "private": ct.private,
        "root": ct.root,
        "inode": 0,
        "fresh": "yes" if fresh else "no",
        "name": ct.conf.name or "",
        "id_base": 0,
    }
    try:
        build(ct, sample, values, facts)
    except BaseException as exc:
        mend.undo_create(ct, {key: str(value) for key, value in facts.items()})
        journal.end(ct.ctid)
        check_interrupt()
        warn("Creation of container private area failed")
        if isinstance(exc, OSError):
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            code = ExitCode.FS_NO_DISK_SPACE if full else ExitCode.FS_NEW_VE_PRVT
            raise VzError(f"{exc.filename or ct.private}: {exc.strerror}", code) from exc
        raise
    journal.end(ct.ctid)
    remove(journal.backup_path(ct.ctid))
    remove_destroyed(conf_path)
    say("Container private area was created")


def build(ct: Container, sample: Any, values: dict[str, Any], facts: dict[str, str | int]) -> None:
    """Do the steps; *facts* is what the journal says, kept up to date, for whoever has to undo them."""
    template = ct.conf.ostemplate
    area = str(facts["area"])
    remove(journal.backup_path(ct.ctid))
    journal.begin(ct.ctid, "create", **facts)
    if facts["fresh"] == "no":
        write_atomically(journal.backup_path(ct.ctid), read_bytes(ct.conf_path), 0o600, durable=False)
    facts["inode"] = new_area(area)

    def note(base: int) -> None:
        facts["id_base"] = base
        journal.begin(ct.ctid, "create", **facts)

    base = ct.idmap[0]
    if base:
        note(base)
        ids.register(ct.ctid, *ct.idmap)
    else:
        base = ids.allocate(ct.node, ct.ctid, ct.idmap[1], note)
    ct.conf.local_uid = ct.conf.local_gid = base
    check_interrupt()
    layout.by_name(ct.conf.ve_layout or layout.DEFAULT).create(ct, area, template)
    check_interrupt()
    if os.path.isdir(ct.private):
        os.rmdir(ct.private)
    os.rename(area, ct.private)
    say("Performing postcreate actions", 1)
    prepare(ct, template)
    check_interrupt()
    save(ct, sample, values, template, base)
    if ct.conf.name:
        lock = names.lock()
        try:
            names.assign(ct.ctid, ct.conf.name)
        finally:
            os.close(lock)
    scripts.run_create(ct)
    check_interrupt()


def with_values(ct: Container, sample: Any, values: dict[str, Any]) -> Container:
    """Return the CT as the sample and the command line together make it."""
    conf = load_ct(ct.ctid, ct.node, conf=sample)
    for attr, value in values.items():
        setattr(conf, attr, value)
    return Container(ct.ctid, ct.node, conf)


def check(ct: Container, values: dict[str, Any]) -> None:
    """Everything that can be refused before the first change."""
    node: NodeConfig = ct.node
    if not node.template:
        raise VzError("TEMPLATE is not set in /etc/vz/vz.conf", ExitCode.VE_TMPL_NOTSET)
    need_paths(ct)
    if os.path.isdir(ct.private) and os.listdir(ct.private):
        raise VzError(f"Private area already exists in {ct.private}", ExitCode.FS_PRVT_AREA_EXIST)
    layout.by_name(ct.conf.ve_layout or layout.DEFAULT)
    if ct.conf.name:
        names.check_free(ct.ctid, ct.conf.name)
    if not ct.conf.ostemplate:
        ct.conf.ostemplate = node.def_ostemplate
    if not ct.conf.ostemplate:
        raise VzError(
            "No OS template: use --ostemplate, or set DEF_OSTEMPLATE in /etc/vz/vz.conf", ExitCode.VE_OSTEMPLATE_NOTSET
        )
    if os.path.lexists(ct.private) and is_mount_point(ct.private):
        raise VzError(f"Private area {ct.private} is a mount point", ExitCode.FS_NEW_VE_PRVT)
    templates.lookup(node, ct.conf.ostemplate)


def new_area(area: str) -> int:
    """Make the directory *area*, beside the place of the private area that grows in it; return its inode number."""
    from vz.ops.trash import discard

    parent = os.path.dirname(area)
    if not os.path.isdir(parent):
        make_dirs(parent, 0o700)  # files of a CT, set-uid ones included, are not for the host's users
    if os.path.isdir(area):
        discard(area)
    os.mkdir(area, 0o700)
    return os.stat(area).st_ino


def prepare(ct: Container, template: str) -> None:
    """Run the post-create steps; nothing where the template has no ssh server and the distribution file no script.

    The machine id is made at the first start.
    """
    tree = templates.unpacked(ct.node, template)
    if os.path.lexists(f"{tree}/usr/bin/ssh-keygen") or "POST_CREATE" in dists.lookup(ct.conf.ostemplate).scripts:
        from vz.ops import guestfiles

        guestfiles.prepare_new(ct)


def save(ct: Container, sample: Any, values: dict[str, Any], template: str, base: int) -> None:
    """Write CTID.conf: the sample's lines, then what this CT is."""
    from vz.config.options import BY_ATTR

    conf = sample
    for attr, value in values.items():
        option = BY_ATTR[attr]
        conf.set(option.key, option.format(value))
    conf.set("VE_ROOT", values.get("ve_root") or conf.get("VE_ROOT") or ct.node.values.get("VE_ROOT", "/vz/root/$VEID"))
    conf.set(
        "VE_PRIVATE",
        values.get("ve_private") or conf.get("VE_PRIVATE") or ct.node.values.get("VE_PRIVATE", "/vz/private/$VEID"),
    )
    conf.set("OSTEMPLATE", os.path.basename(template))
    conf.set("VE_LAYOUT", (ct.conf.ve_layout or layout.DEFAULT))
    conf.set("LOCAL_UID", str(base))
    conf.set("LOCAL_GID", str(base))
    try:
        make_dirs(os.path.dirname(ct.conf_path), 0o755)
        conf.save(ct.conf_path)
    except OSError as exc:
        raise VzError(f"Unable to save {ct.conf_path}: {exc.strerror}", ExitCode.CONFIG_SAVE_ERROR) from exc
    ct.conf.conf = conf
    say(f"CT configuration saved to {printable(ct.conf_path)}")


def remove_destroyed(conf_path: str) -> None:
    """Remove the ``*.destroyed`` files of an earlier CT of this id."""
    stem = conf_path.removesuffix("conf")
    for suffix in ("conf", "mount", "umount", "premount", "postumount", "start", "stop"):
        remove(f"{stem}{suffix}.destroyed")
