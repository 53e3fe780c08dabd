"""vztmpl-dl: fetch OS templates from a mirror or a directory, which /etc/vz/download.conf names; no mirror is built in.

Statuses are its own: 1 download, 2 already there, 3 usage, 4 no wget, 5 signature.  An archive is written under a
hidden name, its signature verified, then looked through and unpacked, and only then a template.
"""

from __future__ import annotations

import os

from vz.cli import vztmpl
from vz.cli.main import Globals, complain
from vz.config.conffile import ConfFile
from vz.config.nodeconfig import NodeConfig, load_node
from vz.config.paths import ETC
from vz.disk import templates
from vz.errors import VzError
from vz.kernel.process import TOOL_ENV, spawn, which

DOWNLOAD, PRESENT, WRONG_USAGE, NO_WGET, BAD_SIGNATURE = 1, 2, 3, 4, 5
CONFIG = f"{ETC}/download.conf"
NETWORK = ("http://", "https://", "ftp://")
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")
# what is asked for when a mirror lists nothing: OpenVZ's own first
GUESSES = (".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tar")
USAGE = """\
Usage: vztmpl-dl [OPTION]... TEMPLATE...
  --update, --no-update         fetch a template anew that is here already, or do not (status 2)
  --update-all                  do so for all that are here
  --gpg-check, --no-gpg-check   verify signatures, or do not
  --ignore-errors               go on with the next template after an error
  --quiet, --no-quiet           say nothing but errors
  --list-local, --list-remote, --list-all, --list-orphans
                                templates that are here, on the mirror, either, here only
  --config FILE                 instead of /etc/vz/download.conf
  --help
Status: 0 done, 1 download failed, 2 already there, 3 usage, 4 no wget, 5 bad signature"""
LISTS = ("--list-local", "--list-remote", "--list-all", "--list-orphans")


class Settings:
    """What download.conf and the command line say."""

    __slots__ = ("ignore_errors", "keyring", "prefix", "quiet", "repositories", "update", "verify")

    def __init__(self, conf: ConfFile) -> None:
        self.prefix = (conf.get("TMPL_REPO_PREFIX") or "").rstrip("/").removeprefix("file://")
        self.repositories = (conf.get("TEMPLATE_REPOS") or ".").split()
        self.update = _is_yes(conf.get("UPDATE_TEMPLATE"), False)
        self.verify = _is_yes(conf.get("CHECK_TEMPLATE_SIG"), True)
        self.keyring = conf.get("TEMPLATE_KEYRING") or f"{ETC}/download.gpg"
        self.quiet = _is_yes(conf.get("QUIET"), False)
        self.ignore_errors = False

    def places(self) -> list[str]:
        """Return the repositories as URLs or directories; VzError (1) when there is no usable one."""
        if not self.prefix:
            raise VzError(f"TMPL_REPO_PREFIX is not set in {CONFIG}: no mirror is built in", DOWNLOAD)
        if not self.prefix.startswith(("/", *NETWORK)) or not self.prefix.isprintable() or " " in self.prefix:
            raise VzError(f"TMPL_REPO_PREFIX in {CONFIG} is neither an URL nor a directory", DOWNLOAD)
        for name in self.repositories:
            if ".." in name.split("/") or not name.isprintable():
                raise VzError(f"TEMPLATE_REPOS in {CONFIG}: a repository is a directory below the prefix", DOWNLOAD)
        return [self.prefix if name == "." else f"{self.prefix}/{name}" for name in self.repositories]


def run(argv: list[str], options: Globals) -> int:
    """vztmpl-dl [OPTIONS] TEMPLATE..."""
    words = list(argv)
    if "--help" in words or "-h" in words:
        print(USAGE)
        return 0
    settings = Settings(_read_config(_take_config(words)))
    update_all = False
    listing = ""
    names = []
    for word in words:
        if word in LISTS:
            listing = word
        elif word == "--update-all":
            update_all = settings.update = True
        elif word in ("--update", "--no-update"):
            settings.update = word == "--update"
        elif word in ("--gpg-check", "--no-gpg-check"):
            settings.verify = word == "--gpg-check"
        elif word in ("--quiet", "--no-quiet"):
            settings.quiet = word == "--quiet"
        elif word == "--ignore-errors":
            settings.ignore_errors = True
        elif word.startswith("-") or not _is_name(word):
            raise VzError(
                f"vztmpl-dl: bad option or template name {_shown(word)}; --help lists the options", WRONG_USAGE
            )
        else:
            names.append(word)
    node = load_node()
    if listing:
        return _list(node, settings, listing)
    if update_all:
        remote = _remote(settings)
        names += [name for name in vztmpl.names(node) if name in remote and name not in names]
    elif not names:
        raise VzError("vztmpl-dl: a template name is missing; --help lists the options", WRONG_USAGE)
    status = 0
    for name in names:
        try:
            _fetch(node, settings, name)
        except VzError as exc:
            if not settings.ignore_errors:
                raise
            complain(exc, options.program)
            status = status or exc.code
    return status


def has_mirror() -> bool:
    """Tell whether download.conf names a place to fetch from."""
    return bool(Settings(_read_config(CONFIG)).prefix)


def fetch(node: NodeConfig, name: str) -> None:
    """Fetch template *name* as download.conf says, for vzctl create; VzError as the command's statuses."""
    settings = Settings(_read_config(CONFIG))
    settings.quiet = True
    _fetch(node, settings, name)


def _take_config(words: list[str]) -> str:
    """Take ``--config FILE`` or ``--config=FILE`` out of *words* and return FILE, or the usual one."""
    for index, word in enumerate(words):
        if word.startswith("--config="):
            del words[index]
            return word.removeprefix("--config=")
        if word == "--config":
            if index + 1 == len(words):
                raise VzError("vztmpl-dl: --config wants a file", WRONG_USAGE)
            path = words[index + 1]
            del words[index : index + 2]
            return path
    return CONFIG


def _read_config(path: str) -> ConfFile:
    try:
        return ConfFile.read(path)
    except FileNotFoundError:
        if path != CONFIG:
            raise VzError(f"{_shown(path)}: no such file", WRONG_USAGE) from None
        return ConfFile(path)
    except OSError as exc:
        raise VzError(f"Unable to read {_shown(path)}: {exc.strerror}", WRONG_USAGE) from exc


def _list(node: NodeConfig, settings: Settings, what: str) -> int:
    local = set(vztmpl.names(node))
    remote = set() if what == "--list-local" else set(_remote(settings))
    shown = {
        "--list-local": local,
        "--list-remote": remote,
        "--list-all": local | remote,
        "--list-orphans": local - remote,
    }
    for name in sorted(shown[what]):
        print(name)
    return 0


def _remote(settings: Settings) -> dict[str, tuple[str, str]]:
    """Return the templates of all repositories: name -> (place, suffix); the first repository that has one counts.

    Raises:
        VzError: 1 or 4, when a repository cannot be listed.
    """
    found: dict[str, tuple[str, str]] = {}
    for place in settings.places():
        if place.startswith("/"):
            try:
                files = os.listdir(place)
            except OSError as exc:
                raise VzError(f"Unable to list {place}: {exc.strerror}", DOWNLOAD) from exc
        else:
            result = _wget([f"{place}/.listing", "-O", "-"])
            if result is None:
                raise VzError(f"Unable to fetch {place}/.listing", DOWNLOAD)
            files = [line.split()[-1] for line in result.decode("utf-8", "replace").splitlines() if line.split()]
        for file in sorted(files):
            for suffix in templates.SUFFIXES:
                name = file.removesuffix(suffix)
                if name != file and _is_name(name):
                    found.setdefault(name, (place, suffix))
    return found


def _fetch(node: NodeConfig, settings: Settings, name: str) -> None:
    """Fetch template *name*, unless it is there and shall not be updated (2)."""
    present = templates.find_tarball(node, name)
    if present and not settings.update:
        raise VzError(f"Template {name} is here already (--update fetches it anew)", PRESENT)
    for place, suffix in _candidates(settings, name):
        temporary = vztmpl.new_archive(node, name, suffix)
        signature = f"{temporary}.asc"
        try:
            if not _get(settings, f"{place}/{name}{suffix}", temporary):
                continue
            if settings.verify:
                if not _get(settings, f"{place}/{name}{suffix}.asc", signature):
                    raise VzError(
                        f"Template {name} has no signature at {place} (--no-gpg-check takes it without)", BAD_SIGNATURE
                    )
                _verify(settings, name, signature, temporary)
            if present and templates.digest_of(temporary) == templates.lookup(node, name).digest:
                _say(settings, f"Template {name} is up to date")
                return
            _adopt(node, settings, temporary, name, suffix, f"{place}/{name}{suffix}")
            return
        finally:
            for path in (temporary, signature):
                if os.path.exists(path):
                    os.unlink(path)
    raise VzError(f"Template {name} could not be fetched from {' '.join(settings.places())}", DOWNLOAD)


def _candidates(settings: Settings, name: str) -> list[tuple[str, str]]:
    """Return (place, suffix) where *name* is, or by a mirror without a list may be."""
    try:
        listed = _remote(settings)
    except VzError as exc:
        if exc.code != DOWNLOAD or settings.prefix.startswith("/"):
            raise
        return [(place, suffix) for place in settings.places() for suffix in GUESSES]
    return [listed[name]] if name in listed else []


def _adopt(node: NodeConfig, settings: Settings, temporary: str, name: str, suffix: str, origin: str) -> None:
    os.chmod(temporary, 0o644)
    try:
        vztmpl.adopt(node, temporary, name, suffix, f"download {origin}", settings.quiet)
    except VzError as exc:  # a bad archive or a full disk: the number is ours, the words are theirs
        raise VzError(str(exc), DOWNLOAD) from exc


def _get(settings: Settings, source: str, target: str) -> bool:
    """Copy *source*, an URL or a path, to the new file *target*; False when it is not there.

    Raises:
        VzError: no wget (4), no space or no access (1).
    """
    if not source.startswith("/"):
        return _wget([source, "-O", target], progress=not settings.quiet and os.isatty(2)) is not None
    if not os.path.isfile(source):
        return False
    try:
        vztmpl._copy(source, target)
    except OSError as exc:
        raise VzError(f"Unable to copy {source}: {exc.strerror}", DOWNLOAD) from exc
    return True


def _wget(words: list[str], progress: bool = False) -> bytes | None:
    """Run wget and return its standard output; None when it failed.

    Raises:
        VzError: there is no wget (4).
    """
    url, *rest = words
    argv = ["wget", "-q", "--tries=3", "--timeout=60", "--max-redirect=5", *rest, "--", url]
    env = {**TOOL_ENV, **{key: os.environ[key] for key in PROXIES if key in os.environ}}
    try:
        if progress:
            pid = os.posix_spawn(which("wget"), [*argv[:2], "--show-progress", *argv[2:]], env)
            return None if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) else b""
        result = spawn(argv, env=env)
    except FileNotFoundError:
        raise VzError("wget is needed to fetch from a mirror: install it", NO_WGET) from None
    return None if result.status else result.stdout


def _verify(settings: Settings, name: str, signature: str, archive: str) -> None:
    if not os.path.isfile(settings.keyring):
        raise VzError(f"No keyring {settings.keyring} to verify template {name} with (TEMPLATE_KEYRING)", BAD_SIGNATURE)
    try:
        result = spawn(["gpgv", "-q", "--keyring", os.path.abspath(settings.keyring), "--", signature, archive])
    except FileNotFoundError:
        raise VzError("gpgv is needed to verify signatures: install it", BAD_SIGNATURE) from None
    if result.status:
        raise VzError(f"Template {name}: the signature is not good", BAD_SIGNATURE)


def _is_name(word: str) -> bool:
    try:
        vztmpl._check_name(word)
    except VzError:
        return False
    return word.isprintable()


def _is_yes(word: str | None, default: bool) -> bool:
    return default if word is None else word.lower() in ("yes", "1", "true", "on")


def _say(settings: Settings, text: str) -> None:
    if not settings.quiet:
        print(text)


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:200]
