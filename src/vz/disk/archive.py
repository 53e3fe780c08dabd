"""Unpacking a template archive that may be hostile: looked through first, then unpacked by tar where it can do no harm.

The look refuses absolute and ``..`` names, links that lead out, members below a link, and more files or bytes than
allowed; device nodes are left out.  The unpacking tar sees a file system that is read-only but for the target, and
has no capability to make nodes, so what the look missed still meets a wall.
"""

from __future__ import annotations

import _signal
import errno
import os
import tarfile

from vz.errors import ExitCode, VzError
from vz.kernel import capabilities, libc, mounts, namespaces
from vz.kernel.process import PR_SET_PDEATHSIG, TOOL_ENV, which

SUFFIXES = {".tar": None, ".tar.gz": "gzip", ".tgz": "gzip", ".tar.bz2": "bzip2", ".tar.xz": "xz", ".tar.zst": "zstd"}
MAX_BYTES = 64 << 30
MAX_FILES = 4_000_000
MAX_HEADER_BYTES = 1 << 20  # a long name or an extended header: the look reads those into memory
MAX_PADDING_BYTES = 4 << 20  # after the end mark; tar pads to its record size
_LONG = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_KINDS = (*tarfile.SUPPORTED_TYPES, *_LONG, b"V", b"D")  # a volume's label and an incremental's directory are harmless


class _Header(tarfile.TarInfo):
    """A header that is whole and of a known kind, or an error.

    tarfile takes a broken header for the end, where GNU tar skips to the next good one: members could hide there.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.EmptyHeaderError, tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as exc:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(exc)) from None

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo | None:
        if self.size < 0 or (self.type in _LONG and self.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError("a header of impossible size")
        if self.type not in _KINDS:
            raise tarfile.ReadError("a member of an unknown kind")  # GNU tar would unpack it as a file
        return super()._proc_member(tarfile_)  # type: ignore[misc,no-any-return]


class Contents:
    """What the look through an archive found."""

    __slots__ = ("files", "left_out", "size_bytes")

    def __init__(self) -> None:
        self.files = 0
        self.size_bytes = 0
        self.left_out: list[str] = []  # device nodes


def bad(text: str) -> VzError:
    return VzError(f"Bad archive: {text}", ExitCode.FS_NEW_VE_PRVT)


def compressor(path: str) -> str | None:
    """Return the program that unpacks *path* by its name, None for a plain tar."""
    for suffix, program in sorted(SUFFIXES.items(), key=lambda item: -len(item[0])):
        if path.endswith(suffix):
            return program
    raise bad(f"{path}: not .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst")


def look(path: str, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> Contents:
    """Read all members of the archive *path* and refuse it (48) when one of them is not what a template may hold."""
    found = Contents()
    links: set[str] = set()
    stream, pid = _open_stream(path)
    try:
        with (
            os.fdopen(stream, "rb") as file,
            tarfile.open(fileobj=file, mode="r|", errors="surrogateescape", tarinfo=_Header) as tar,
        ):
            for member in tar:
                _look_at(member, found, links)
                if found.files + len(found.left_out) > max_files:
                    raise bad(f"more than {max_files} files")
                if found.size_bytes > max_bytes:
                    raise bad(f"more than {max_bytes} bytes")
                tar.members = []  # type: ignore[attr-defined]
            padding = 0
            while chunk := file.read(1 << 16):  # the decompressor wants to be read out
                padding += len(chunk)
                if padding > MAX_PADDING_BYTES:
                    raise bad(f"{path}: goes on after its end")
    except (tarfile.TarError, EOFError, ValueError, OSError) as exc:
        _reap(pid)
        said = "".join(char if char.isprintable() else "?" for char in str(exc))[:200]
        raise bad(f"{path}: damaged or cut short ({said})") from exc
    except BaseException:
        _reap(pid)
        raise
    if _reap(pid) != 0:
        raise bad(f"{path}: damaged or cut short")
    if not found.files:
        raise bad(f"{path}: nothing in it")
    return found


def unpack(path: str, target: str, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> Contents:
    """Unpack archive *path* into the empty directory *target* with the ids, modes and attributes it names.

    Raises:
        VzError: 48 for a bad archive, 46 when the disk is full.  What was unpacked by then is the caller's to remove.
    """
    found = look(path, max_bytes, max_files)
    stream, pid = _open_stream(path)
    errors = os.memfd_create("tar")
    excluded = os.memfd_create("exclude")
    os.write(excluded, "".join(f"{name}\n" for name in found.left_out).encode("utf-8", "surrogateescape"))
    ours = os.getpid()
    tar_pid = os.fork()
    if tar_pid == 0:
        libc.prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)  # whoever clears up after a killed command finds no one at work
        if os.getppid() != ours:
            os._exit(1)
        _confined_tar(stream, excluded, errors, target)
    os.close(stream)
    status = os.waitstatus_to_exitcode(os.waitpid(tar_pid, 0)[1])
    _reap(pid)
    words = os.pread(errors, 4096, 0).decode("utf-8", "replace").strip().splitlines()
    os.close(errors)
    os.close(excluded)
    if status:
        line = words[0] if words else f"tar ended with status {status}"
        # "Wrote only N of M bytes" is how tar says that the first write beyond the end was a short one
        if any("No space left" in word or "quota exceeded" in word or "Wrote only" in word for word in words):
            raise VzError(f"Unable to unpack {path}: no space left on the device", ExitCode.FS_NO_DISK_SPACE)
        raise VzError(f"Unable to unpack {path}: {line}", ExitCode.FS_NEW_VE_PRVT)
    return found


def _look_at(member: tarfile.TarInfo, found: Contents, links: set[str]) -> None:
    name = _plain(member.name)
    shown = "".join(char if char.isprintable() else "?" for char in member.name)[:200]
    parts = name.split("/")
    if member.name.startswith("/") or ".." in parts:
        raise bad(f"member {shown} leads outside")
    for index in range(1, len(parts)):
        if "/".join(parts[:index]) in links:
            raise bad(f"member {shown} lies below a link")
    if member.islnk() and (member.linkname.startswith("/") or ".." in member.linkname.split("/")):
        raise bad(f"hard link {shown} leads outside")
    if "\n" in member.name:
        raise bad(f"member {shown} has a line end in its name")
    if member.issym() or (member.islnk() and _plain(member.linkname) in links):
        links.add(name)
    elif name in links:
        links.discard(name)
    if member.ischr() or member.isblk():
        found.left_out.append(member.name)
        return
    found.files += 1
    found.size_bytes += member.size if member.isreg() else 0


def _plain(name: str) -> str:
    """Return *name* without empty and ``.`` components."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _open_stream(path: str) -> tuple[int, int]:
    """Return a descriptor to read the plain tar from, and the pid of its decompressor (0: none)."""
    program = compressor(path)
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise VzError(f"Unable to read {path}: {exc.strerror}", ExitCode.FS_NEW_VE_PRVT) from exc
    if program is None:
        return source, 0
    try:
        tool = which(program)
    except FileNotFoundError:
        raise VzError(f"{program} is needed to unpack {path}: install it", ExitCode.FS_NEW_VE_PRVT) from None
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
    pid = os.posix_spawn(tool, [program, "-dc"], TOOL_ENV, file_actions=actions, setsigdef=(_signal.SIGPIPE,))
    for fd in (source, writer, null):
        os.close(fd)
    return reader, pid


def _reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0


def _confined_tar(stream: int, excluded: int, errors: int, target: str) -> None:
    try:
        program = which("tar")
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        mounts.mount(target, target, None, mounts.MS_BIND)
        tree = os.open("/", os.O_PATH | os.O_DIRECTORY)
        try:
            mounts.mount_setattr(tree, attr_set=mounts.MOUNT_ATTR_RDONLY, recursive=True)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
        here = os.open(target, os.O_PATH | os.O_DIRECTORY)
        mounts.mount_setattr(here, attr_clr=mounts.MOUNT_ATTR_RDONLY)
        os.chdir(target)
        capabilities.drop_from_bounding_set(
            frozenset((capabilities.number("mknod"), capabilities.number("sys_module")))
        )
        libc.prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
        os.dup2(stream, 0)
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(errors, 2)
        os.set_inheritable(excluded, True)
        os.execve(
            program,
            ["tar", "-x", "-f", "-", "--numeric-owner", "--same-owner", "--same-permissions",
             "--delay-directory-restore", "--xattrs", "--xattrs-include=*", "--warning=no-timestamp",
             "--no-wildcards", "--anchored", "-X", f"/proc/self/fd/{excluded}"],
            TOOL_ENV,
        )  # fmt: skip
    except BaseException as exc:
        os.write(errors, f"{exc}".encode("utf-8", "surrogateescape"))
    os._exit(1)
