"""vztmpl: build, import, list, verify and remove OS templates."""

from __future__ import annotations

import os
import stat
import sys

from vz.cli.main import Globals
from vz.config.nodeconfig import NodeConfig, load_node
from vz.disk import templates
from vz.errors import BadSyntax, ExitCode, VzError
from vz.kernel.files import make_dirs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile

USAGE = """\
Usage: vztmpl build NAME...           make a template (vztmpl build --list: which)
       vztmpl import TARBALL NAME     take a tar, tar.gz, tar.bz2, tar.xz or tar.zst
       vztmpl list [-H]               name, distribution, init, size, digest, date
       vztmpl verify [NAME...]        compare with what was recorded
       vztmpl remove NAME...          refused while a container stands on it"""


def run(argv: list[str], options: Globals) -> int:
    """vztmpl COMMAND [ARGS]"""
    if not argv or argv[0] in ("--help", "-h"):
        print(USAGE)
        return ExitCode.OK if argv else ExitCode.INVALID_PARAMETER_SYNTAX
    commands = {"build": build, "import": import_, "list": list_, "verify": verify, "remove": remove, "delete": remove}
    command = commands.get(argv[0])
    if command is None:
        raise BadSyntax(f"Bad command: {_shown(argv[0])}\n{USAGE}")
    return command(load_node(), argv[1:])


def build(node: NodeConfig, names: list[str]) -> int:
    """Build the templates *names*; one that is there is left as it is."""
    from vz.disk import recipes

    known = recipes.known()
    if names == ["--list"]:
        print("\n".join(known))
        return ExitCode.OK
    force = "--force" in names
    names = [name for name in names if name != "--force"]
    if not names:
        raise BadSyntax(f"vztmpl build: a name is missing, one of {' '.join(known)}")
    for name in names:
        if name not in known:
            raise VzError(f"No recipe for {_shown(name)}: there are {' '.join(known)}", ExitCode.OSTEMPLATE_NOT_FOUND)
    for name in names:
        if templates.find_tarball(node, name) and not force:
            print(f"Template {name} is there already (--force builds it anew)")
            continue
        _progress(f"Building template {name} ...")
        with Scratch(node) as scratch:
            cache = templates.cache_dir(node)
            recipes.build(known[name], f"{cache}/{name}.tar.zst", f"{cache}/{name}.manifest", scratch)
        finish(node, name, "build")
    return ExitCode.OK


def import_(node: NodeConfig, argv: list[str]) -> int:
    """Take the archive of somebody else as template NAME, after a look through it."""
    from vz.disk import archive

    if len(argv) != 2:
        raise BadSyntax("vztmpl import: TARBALL NAME")
    source, name = argv
    _check_name(name)
    if templates.find_tarball(node, name):
        raise VzError(f"Template {name} exists: remove it first", ExitCode.INVALID_PARAMETER_VALUE)
    if not os.path.isfile(source):
        raise VzError(f"{_shown(source)}: no such file", ExitCode.OSTEMPLATE_NOT_FOUND)
    archive.compressor(source)
    suffix = next(s for s in sorted(archive.SUFFIXES, key=len, reverse=True) if source.endswith(s))
    found = archive.look(source)
    suffix = ".tar.gz" if suffix == ".tgz" else suffix
    temporary = new_archive(node, name, suffix)
    try:
        try:
            _copy(source, temporary)
        except OSError as exc:
            raise VzError(f"Unable to copy {_shown(source)}: {exc.strerror}", ExitCode.FS_NO_DISK_SPACE) from exc
        adopt(node, temporary, name, suffix, f"import {os.path.basename(source)}")
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    for device in found.left_out[:3]:
        print(f"device node {_shown(device)} is left out", file=sys.stderr)
    return ExitCode.OK


def new_archive(node: NodeConfig, name: str, suffix: str) -> str:
    """Return where an archive that is to become template *name* can be written: in the cache, under a hidden name.

    What killed commands left under such names is removed.
    """
    cache = templates.cache_dir(node)
    make_dirs(cache, 0o755)
    for file in os.listdir(cache):
        stem = file.removesuffix(".asc")
        for ending in templates.SUFFIXES:
            pid = stem.removesuffix(ending).rpartition(".")[2]
            if (
                file.startswith(".")
                and stem.endswith(ending)
                and pid.isdecimal()
                and not os.path.exists(f"/proc/{pid}")
            ):
                os.unlink(f"{cache}/{file}")
                break
    return f"{cache}/.{name}.{os.getpid()}{suffix}"


def adopt(node: NodeConfig, temporary: str, name: str, suffix: str, origin: str, quiet: bool = False) -> None:
    """Make the archive *temporary* template *name*; it is unpacked first, so that a bad one takes no place.

    An older archive of that name goes; its unpacked copy stays for the CTs that stand on it.
    """
    templates.unpack(node, templates.Template(name, temporary, templates.digest_of(temporary), {}))
    target = f"{templates.cache_dir(node)}/{name}{suffix}"
    os.rename(temporary, target)
    for other in templates.SUFFIXES:
        path = f"{templates.cache_dir(node)}/{name}{other}"
        if path != target and os.path.exists(path):
            os.unlink(path)
    finish(node, name, origin, quiet)


def finish(node: NodeConfig, name: str, origin: str, quiet: bool = False) -> None:
    """Unpack the new template once and say what it is."""
    templates.unpacked(node, name)
    template = templates.lookup(node, name)
    facts = templates.read_facts(node, name)
    facts["origin"] = origin
    facts["made_as"] = template.digest  # lookup() takes another file for a new version; verify does not
    templates.write_facts(node, name, facts)
    if not quiet:
        print(f"Template {name}: {facts.get('distribution')}, init {facts.get('init')}, digest {template.digest[:16]}")


def list_(node: NodeConfig, argv: list[str]) -> int:
    """One line per template."""
    import time

    if argv not in ([], ["-H"]):
        raise BadSyntax("vztmpl list: no such option")
    if not argv:
        print(f"{'NAME':<32} {'DISTRIBUTION':<16} {'INIT':<9} {'SIZE':>8} {'DIGEST':<16} DATE")
    for name in names(node):
        template = templates.lookup(node, name)
        status = os.stat(template.tarball)
        day = time.strftime("%Y-%m-%d", time.gmtime(status.st_mtime))
        size = f"{status.st_size / (1 << 20):.1f}M"
        facts = template.facts
        print(
            f"{name:<32} {_shown(facts.get('distribution', '-')):<16} {_shown(facts.get('init', '-')):<9} "
            f"{size:>8} {template.digest[:16]} {day}"
        )
    return ExitCode.OK


def names(node: NodeConfig) -> list[str]:
    """Return the names of all templates in the cache."""
    try:
        files = os.listdir(templates.cache_dir(node))
    except OSError:
        return []
    found = set()
    for file in files:
        for suffix in templates.SUFFIXES:
            if file.endswith(suffix) and not file.startswith("."):
                found.add(file.removesuffix(suffix))
    return sorted(found)


def verify(node: NodeConfig, argv: list[str]) -> int:
    """Compare archives with their recorded digests, and each unpacked copy with its archive."""
    from vz.disk import archive

    bad = 0
    for name in argv or names(node):
        template = templates.lookup(node, name)
        problems = []
        recorded = template.facts.get("made_as", template.digest)
        if templates.digest_of(template.tarball) != recorded:
            problems.append("the archive is not what was recorded")
        else:
            try:
                archive.look(template.tarball)
                problems += _tree_problems(node, template)
            except VzError as exc:
                problems.append(str(exc))
        bad += bool(problems)
        print(f"{name}: {'; '.join(problems) if problems else 'ok'}")
    return ExitCode.SYSTEM_ERROR if bad else ExitCode.OK


def _tree_problems(node: NodeConfig, template: templates.Template) -> list[str]:
    """Compare the unpacked copy with the archive: each member's kind, mode, owner and contents, and nothing besides."""
    import tarfile

    from vz.disk import archive

    tree = f"{node.template}/unpacked/{template.digest}/fs"
    if not os.path.isdir(tree):
        return []
    changed: dict[str, str] = {}  # by name: a later member of the same name replaces an earlier one
    seen = {""}
    stream, pid = archive._open_stream(template.tarball)
    with os.fdopen(stream, "rb") as file, tarfile.open(fileobj=file, mode="r|", errors="surrogateescape") as tar:
        for member in tar:
            name = archive._plain(member.name)
            if member.ischr() or member.isblk():
                continue
            parts = name.split("/")
            seen.update("/".join(parts[:index]) for index in range(1, len(parts) + 1))
            problem = _member_problem(tar, member, f"{tree}/{name}")
            if problem:
                changed[name] = problem
            else:
                changed.pop(name, None)
            tar.members = []  # type: ignore[attr-defined]
        while file.read(1 << 16):
            pass
    archive._reap(pid)
    for folder, folders, files in os.walk(tree):
        inside = folder[len(tree) + 1 :]
        for entry in folders + files:
            name = f"{inside}/{entry}" if inside else entry
            if name not in seen:
                changed[name] = "was added"
    found = [f"unpacked copy: {_shown(name)} {problem}" for name, problem in changed.items()]
    return [*found[:5], f"and {len(found) - 5} more"] if len(found) > 5 else found


def _member_problem(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> str:
    """Say what of the file *path* is not as *member* of the open archive *tar* has it; "" when all is."""
    try:
        status = os.lstat(path)
    except OSError:
        return "is missing"
    kind = stat.S_IFMT(status.st_mode)
    if member.issym():
        return "" if kind == stat.S_IFLNK and os.readlink(path) == member.linkname else "was changed"
    wanted = stat.S_IFDIR if member.isdir() else stat.S_IFIFO if member.isfifo() else stat.S_IFREG
    if member.islnk():  # its contents came with the member that it names; a link to a symlink is one
        return "" if kind in (wanted, stat.S_IFLNK, stat.S_IFIFO) and status.st_nlink > 1 else "was changed"
    owner = (member.uid, member.gid, member.mode & 0o7777)
    if kind != wanted or (status.st_uid, status.st_gid, status.st_mode & 0o7777) != owner:
        return "was changed"
    if wanted == stat.S_IFREG:
        contents = tar.extractfile(member)
        with open(path, "rb") as file:
            while contents is not None:
                chunk = contents.read(1 << 20)
                if file.read(len(chunk) or 1) != chunk:
                    return "was changed"
                if not chunk:
                    break
    return ""


def remove(node: NodeConfig, argv: list[str]) -> int:
    """Remove templates that no CT stands on."""
    from vz.kernel.process import spawn

    if not argv:
        raise BadSyntax("vztmpl remove: a name is missing")
    for name in argv:
        template = templates.lookup(node, name)
        used = templates.users(node, template.digest)
        if used:
            shown = " ".join(str(ctid) for ctid in used[:10])
            raise VzError(f"Template {name} is in use by container {shown}", ExitCode.FS_MOUNTED)
        twins = [
            other for other in names(node) if other != name and templates.lookup(node, other).digest == template.digest
        ]
        os.unlink(template.tarball)
        for path in (templates.facts_path(node, name), f"{templates.cache_dir(node)}/{name}.manifest"):
            if os.path.exists(path):
                os.unlink(path)
        if not twins:
            tree = f"{node.template}/unpacked/{template.digest}"
            if os.path.isdir(tree):
                os.rename(tree, f"{node.template}/unpacked/.{template.digest}.gone")
                spawn(["rm", "-rf", "--one-file-system", "--", f"{node.template}/unpacked/.{template.digest}.gone"])
        print(f"Template {name} was removed")
    return ExitCode.OK


class Scratch:
    """A scratch directory in the template area, gone at the end of the block."""

    def __init__(self, node: NodeConfig) -> None:
        self.path = f"{node.template}/.build.{os.getpid()}"
        self.cache = templates.cache_dir(node)

    def __enter__(self) -> str:
        make_dirs(self.cache, 0o755)
        os.mkdir(self.path, 0o755)
        os.chmod(self.path, 0o755)
        return self.path

    def __exit__(self, *_: object) -> None:
        from vz.kernel.process import spawn

        spawn(["rm", "-rf", "--one-file-system", "--", self.path])


def _copy(source: str, target: str) -> None:
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        while os.copy_file_range(reader, writer, 1 << 30):
            pass
        os.fsync(writer)
    except OSError as exc:
        if exc.errno not in (18, 22, 95):  # another file system, or one that cannot
            raise
        while chunk := os.read(reader, 1 << 20):
            os.write(writer, chunk)
    finally:
        os.close(reader)
        os.close(writer)


def _check_name(name: str) -> None:
    from vz.config.units import parse_word

    try:
        parse_word(name)
    except ValueError as exc:
        raise VzError(f"Bad template name: {_shown(str(exc))}", ExitCode.INVALID_PARAMETER_VALUE) from None
    if "/" in name:
        raise VzError("Bad template name: a slash in it", ExitCode.INVALID_PARAMETER_VALUE)


def _progress(text: str) -> None:
    if os.isatty(1):
        print(text, flush=True)


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
