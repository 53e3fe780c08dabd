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
from vz.kernel.mountinfo import is_mount_point, keeps_project_quota
from vz.ops import journal, mend, names, scripts
from vz.ops.report import say, warn
from vz.ops.undo import check_interrupt
from vz.requests import Change

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

OSNAME = "/usr/bin/vzosname"  # a program of the admin's: short name of a template to its full one


def create(ct: Container, change: Change, fetch: Callable[[str], None]) -> None:
    """Create CT *ct* as *change* and the sample that it names say.

    *fetch* gets a template that is not there, or does nothing.

    Raises:
        VzError: the documented status of the step that failed, with everything undone: 82 sample, 22-24 unset
            paths, 44 private area exists, 99 ploop, 131 name, 29 and 91 template, 48 and 46 unpacking, 139 conf,
            79 the vps.create script.
    """
    try:
        _create(ct, change, fetch)
    except Exception as exc:
        check_interrupt()  # a program that the same ^C killed is no failure of its own
        what, code = str(exc), getattr(exc, "code", None)
        if isinstance(exc, OSError):
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            code = ExitCode.FS_NO_DISK_SPACE if full else ExitCode.FS_NEW_VE_PRVT
            what = f"{exc.filename or ct.private}: {exc.strerror}"
        if not isinstance(code, int):
            raise
        raise VzError(f"Creation of container private area failed: {what}", code) from exc
    say("Container private area was created")


def _create(ct: Container, change: Change, fetch: Callable[[str], None]) -> None:
    conf_path = ct.conf_path
    fresh = not os.path.exists(conf_path)
    values = dict(change.values)
    if change.ip_add:
        values["ip_addr"] = change.ip_add
    sample = samples.for_create(ct.ctid, ct.node, change.config or None)
    for text in sample.warnings:
        warn(text)
    ct = with_values(ct, sample, values)
    check(ct, values)
    template = find_template(ct, fetch)
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
        build(ct, sample, values, template, facts)
    except BaseException:
        mend.undo_create(ct, {key: str(value) for key, value in facts.items()})
        journal.end(ct.ctid)
        raise
    journal.end(ct.ctid)
    remove(journal.backup_path(ct.ctid))
    remove_destroyed(ct.conf_path)


def build(ct: Container, sample: Any, values: dict[str, Any], template: str, facts: dict[str, str | int]) -> None:
    """Do the steps; *facts* is what the journal says, kept up to date, for whoever has to undo them."""
    area = str(facts["area"])
    remove(journal.backup_path(ct.ctid))
    journal.begin(ct.ctid, "create", **facts)
    if facts["fresh"] == "no":
        write_atomically(journal.backup_path(ct.ctid), read_bytes(ct.conf_path), 0o600, durable=False)
    facts["inode"] = new_area(area)
    if keeps_project_quota(area):
        from vz.disk import project

        project.begin_area(area, ct.ctid)

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
    if layout.layout_name(ct) == "ploop":
        from vz.ops import image

        image.check_space(ct)
    say("Performing postcreate actions")
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
    kind = layout.by_name(ct.conf.ve_layout or layout.DEFAULT)
    if kind.NAME == "ploop":
        kind.size_bytes(ct)
    layout.check_closed(kind, ct.private, ExitCode.FS_NEW_VE_PRVT)
    if ct.conf.name:
        names.check_free(ct.ctid, ct.conf.name)
    if not ct.conf.ostemplate:
        ct.conf.ostemplate = node.def_ostemplate
    if not ct.conf.ostemplate:
        raise VzError(
            "No OS template: use --ostemplate, or set DEF_OSTEMPLATE in /etc/vz/vz.conf", ExitCode.VE_OSTEMPLATE_NOTSET
        )


def find_template(ct: Container, fetch: Callable[[str], None]) -> str:
    """Return the full name of the CT's template, which is in the cache, after *fetch* perhaps.

    Raises:
        VzError: it is not there and cannot be had (91); the private area is a mount point (48).
    """
    name = full_name(ct.conf.ostemplate)
    ct.conf.ostemplate = name
    if templates.find_tarball(ct.node, name) is None:
        fetch(name)
    templates.lookup(ct.node, name)
    if os.path.lexists(ct.private) and is_mount_point(ct.private):
        raise VzError(
            f"Private area {ct.private} is a mount point: use --private {ct.private}/private", ExitCode.FS_NEW_VE_PRVT
        )
    return name


def full_name(name: str) -> str:
    """Return what OSNAME makes of template *name*: its last line of output; *name* where there is no such program."""
    if not os.access(OSNAME, os.X_OK):
        return name
    from vz.config.units import parse_word
    from vz.kernel.process import spawn

    result = spawn([OSNAME, name])
    lines = result.stdout.decode("utf-8", "surrogateescape").splitlines()
    try:
        if result.status:
            raise ValueError(f"status {result.status}")
        return parse_word(lines[-1].strip() if lines else "")
    except ValueError as exc:
        warn(f"WARNING: {OSNAME} has no full name for {printable(name)} ({printable(str(exc))})")
        return name


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
