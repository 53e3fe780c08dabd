"""OS templates: ``$TEMPLATE/cache/NAME.tar.*`` and one unpacked copy per digest in ``$TEMPLATE/unpacked/DIGEST/fs``.

An unpacked copy never changes: it is the lower layer of every overlay CT made from it.  It is made once, under a
lock, beside its place and moved there, so that a killed unpack leaves nothing that counts.
"""

from __future__ import annotations

import fcntl
import os
import time

from vz.config.nodeconfig import NodeConfig
from vz.config.paths import CONF_DIR
from vz.errors import ExitCode, VzError
from vz.kernel.files import make_dirs, read_text, write_atomically

_HEX = frozenset("0123456789abcdef")
SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Template:
    """An archive in the cache and what is known of it without reading it."""

    __slots__ = ("digest", "facts", "name", "tarball")

    def __init__(self, name: str, tarball: str, digest: str, facts: dict[str, str]) -> None:
        self.name = name
        self.tarball = tarball
        self.digest = digest
        self.facts = facts  # distribution, init, size, mtime_ns, built


def cache_dir(node: NodeConfig) -> str:
    return f"{node.template}/cache"


def find_tarball(node: NodeConfig, name: str) -> str | None:
    """Return the archive of template *name*, tried in vzctl's order; None when there is none."""
    for suffix in SUFFIXES:
        path = f"{cache_dir(node)}/{name}{suffix}"
        if os.path.isfile(path):
            return path
    return None


def lookup(node: NodeConfig, name: str) -> Template:
    """Return template *name*.

    Its digest is computed once per version of the file (size, time, inode).

    Raises:
        VzError: there is no such archive (91).
    """
    tarball = find_tarball(node, name) if name and "/" not in name and not name.startswith(".") else None
    if tarball is None:
        shown = "".join(char if char.isprintable() else "?" for char in name)
        raise VzError(
            f"OS template {shown} is not in {cache_dir(node)}: vztmpl build or vztmpl import makes one",
            ExitCode.OSTEMPLATE_NOT_FOUND,
        )
    status = os.stat(tarball)
    stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
    facts = read_facts(node, name)
    if facts.get("stamp") != stamp or not facts.get("digest"):
        facts["stamp"] = stamp
        facts["digest"] = digest_of(tarball)
        write_facts(node, name, facts)
    return Template(name, tarball, facts["digest"], facts)


def digest_of(path: str) -> str:
    """Return the SHA-256 of the file *path*."""
    import hashlib

    state = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()


def facts_path(node: NodeConfig, name: str) -> str:
    return f"{cache_dir(node)}/{name}.info"


def read_facts(node: NodeConfig, name: str) -> dict[str, str]:
    try:
        text = read_text(facts_path(node, name))
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def write_facts(node: NodeConfig, name: str, facts: dict[str, str]) -> None:
    text = "".join(f"{key}={value}\n" for key, value in facts.items())
    try:
        write_atomically(facts_path(node, name), text.encode("utf-8", "surrogateescape"))
    except OSError:
        pass  # a cache that cannot be written is hashed again each time


def tree_of_digest(node: NodeConfig, digest: str) -> str:
    """Return the unpacked copy of the template with *digest*; VzError (91) when it is gone."""
    tree = f"{node.template}/unpacked/{digest}/fs"
    if len(digest) != 64 or not _HEX.issuperset(digest) or not os.path.isdir(tree):
        raise VzError(
            f"The template that this container stands on (digest {digest[:16]}) is gone from {node.template}/unpacked",
            ExitCode.OSTEMPLATE_NOT_FOUND,
        )
    return tree


def unpacked(node: NodeConfig, name: str) -> str:
    """Return the unpacked copy of template *name*, unpacking it when this is the first use.

    Raises:
        VzError: no template (91), no space (46), a bad archive (48).
    """
    return unpack(node, lookup(node, name))


def unpack(node: NodeConfig, template: Template) -> str:
    """Return the unpacked copy of *template*, whose archive need not be in the cache yet; see unpacked()."""
    home = f"{node.template}/unpacked"
    tree = f"{home}/{template.digest}/fs"
    if os.path.isdir(tree):
        return tree
    lock = lock_cache(node)
    try:
        if not os.path.isdir(tree):
            _unpack(node, template, home)
    finally:
        os.close(lock)
    return tree


def lock_cache(node: NodeConfig) -> int:
    """Return a descriptor that holds the lock under which the unpacked copies, and what is made of them, are made."""
    home = f"{node.template}/unpacked"
    make_dirs(home, 0o700)  # set-uid files in it are not for the host's users
    lock = os.open(f"{home}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def incoming(node: NodeConfig, digest: str, suffix: str = "") -> str:
    """Return where a copy of the template with *digest* is put on its way from another node: an archive, or (no
    *suffix*) a directory that is made here."""
    path = f"{node.template}/unpacked/.{digest}.in{suffix}"
    make_dirs(os.path.dirname(path) if suffix else path, 0o700)
    return path


def place_archive(node: NodeConfig, digest: str, name: str, suffix: str) -> None:
    """Unpack what has come as incoming(); it goes into the cache too where there is no template *name*.

    Raises:
        VzError: it is not what *digest* says (48), or as unpack().
    """
    path = incoming(node, digest, suffix)
    try:
        if digest_of(path) != digest:
            raise VzError(f"The copy of template {name} is damaged", ExitCode.FS_NEW_VE_PRVT)
        if find_tarball(node, name) is None:
            make_dirs(cache_dir(node), 0o755)
            os.chmod(path, 0o644)
            os.replace(path, f"{cache_dir(node)}/{name}{suffix}")
            unpack(node, lookup(node, name))
        else:  # another version of that name is here, or the same: the name keeps its meaning
            unpack(node, Template("", path, digest, {}))
    finally:
        if os.path.exists(path):
            os.unlink(path)


def place_tree(node: NodeConfig, digest: str) -> None:
    """Take the unpacked tree that has come as incoming() for the template with *digest*."""
    home = f"{node.template}/unpacked"
    lock = lock_cache(node)
    try:
        if os.path.isdir(f"{home}/{digest}/fs"):
            _remove_tree(incoming(node, digest))
        else:
            os.rename(incoming(node, digest), f"{home}/{digest}")
    finally:
        os.close(lock)


def _unpack(node: NodeConfig, template: Template, home: str) -> None:
    from vz.disk import archive

    temporary = f"{home}/.{template.digest}.tmp"
    _remove_tree(temporary)  # a killed unpack's
    os.mkdir(temporary, 0o700)
    os.mkdir(f"{temporary}/fs", 0o755)
    os.chmod(f"{temporary}/fs", 0o755)
    try:
        limit_bytes = node.number("TEMPLATE_MAX_SIZE", archive.MAX_BYTES)
        found = archive.unpack(
            template.tarball, f"{temporary}/fs", limit_bytes, node.number("TEMPLATE_MAX_FILES", archive.MAX_FILES)
        )
        if template.name:
            facts = read_facts(node, template.name)
            facts.update(describe(f"{temporary}/fs"))
            facts["files"] = str(found.files)
            facts["unpacked_bytes"] = str(found.size_bytes)
            write_facts(node, template.name, facts)
        os.rename(temporary, f"{home}/{template.digest}")
    except BaseException:
        _remove_tree(temporary)
        raise


def _remove_tree(path: str) -> None:
    """Remove *path*; again while it comes back: the tar of a killed command needs a moment to die."""
    from vz.kernel.process import spawn

    for _ in range(100):
        spawn(["rm", "-rf", "--one-file-system", "--", path])
        if not os.path.lexists(path):
            return
        time.sleep(0.02)


def describe(tree: str) -> dict[str, str]:
    """Return the distribution and init system of the root *tree* as text."""
    facts = {"distribution": "unknown", "init": "none"}
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            text = read_text(f"{tree}/{name}") if not os.path.islink(f"{tree}/{name}") else ""
        except OSError:
            continue
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if "ID" in fields:
            facts["distribution"] = (
                f"{fields['ID'].strip(chr(34))} {fields.get('VERSION_ID', '').strip(chr(34))}".strip()
            )
            break
    init = f"{tree}/sbin/init"
    usr_init = f"{tree}/usr/sbin/init"
    for path in (init, usr_init):
        if os.path.islink(path):
            target = os.path.basename(os.readlink(path))
            facts["init"] = target if target in ("systemd", "busybox") else "other"
            break
        if os.path.isfile(path):
            facts["init"] = "upstart" if os.path.isdir(f"{tree}/etc/init") else "sysvinit"
            break
    return facts


def users(node: NodeConfig, digest: str) -> list[int]:
    """Return the ids of the CTs whose private area stands on the template with *digest*."""
    from vz.config.ctconfig import load_ct

    found = []
    try:
        names = os.listdir(CONF_DIR)
    except OSError:
        return []
    for name in names:
        stem = name.removesuffix(".conf")
        if name == stem or not stem.isdecimal() or stem == "0":
            continue
        try:
            conf = load_ct(int(stem), node)
        except VzError:
            continue
        private = conf.expand(conf.ve_private or node.ve_private, int(stem))
        try:
            if f"digest={digest}\n" in read_text(f"{private}/lower"):
                found.append(int(stem))
        except OSError:
            continue
    return sorted(found)
