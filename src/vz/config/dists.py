"""Distribution files: ``/etc/vz/dists/NAME.conf``, chosen by OSTEMPLATE, and the admin's scripts that they name.

What OpenVZ did by shell scripts is built in here, for the family that FAMILY names or the CT's files show.  A key such
as ``ADD_IP=my-add_ip.sh`` puts a script from ``dists/scripts/`` in its place, in the form that OpenVZ's had: run in
the CT by its shell, ``functions`` prepended, its input in the environment.
"""

from __future__ import annotations

import os

from vz.config.conffile import ConfFile
from vz.config.paths import DISTS_DIR
from vz.errors import ExitCode, InvalidConfig, VzError
from vz.kernel.files import read_bytes

SCRIPTS_DIR = f"{DISTS_DIR}/scripts"
# action -> the status when its script fails
ACTIONS = {
    "ADD_IP": ExitCode.CANT_ADDIP,
    "DEL_IP": ExitCode.CANT_ADDIP,
    "SET_HOSTNAME": ExitCode.BADHOSTNAME,
    "SET_DNS": ExitCode.BADDNSSRV,
    "SET_USERPASS": ExitCode.CHANGEPASS,
    "SET_UGID_QUOTA": ExitCode.ERROR_SET_USER_QUOTA,
    "PRE_START": ExitCode.ACTIONSCRIPT_ERROR,
    "SET_CONSOLE": ExitCode.ACTIONSCRIPT_ERROR,
    "POST_CREATE": ExitCode.FS_NEW_VE_PRVT,
}
FAMILIES = ("debian", "redhat", "other")
LIMIT_S = 300
# runs the script on its standard input; bash where there is one: OpenVZ's scripts were written for it
SHELL = ["/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash -s; else exec /bin/sh -s; fi"]
_NO_SCRIPT = ("", "no", "none", "builtin")


class Dist:
    """One distribution file: its path, the built-in family it asks for ("": what the CT's files show), its scripts."""

    __slots__ = ("family", "path", "scripts", "warning")

    def __init__(self, path: str) -> None:
        self.path = path
        self.family = ""
        self.scripts: dict[str, str] = {}  # action -> file name in dists/scripts
        self.warning = ""

    def script_text(self, action: str) -> bytes:
        """Return the script of *action* with ``functions`` before it.

        Raises:
            VzError: 108: it cannot be read.
        """
        name = self.scripts[action]
        return _read_script("functions", self.path, required=False) + _read_script(name, self.path)


def candidates(ostemplate: str | None) -> list[str]:
    """Return the file names to try for *ostemplate*, best first: ``a-b-c.conf``, ``a-b.conf``, ``a.conf``."""
    name = os.path.basename((ostemplate or "").rstrip("/"))
    if not name or not name.isprintable() or name.startswith("."):
        return []
    words = name.split("-")
    return ["-".join(words[:count]) + ".conf" for count in range(len(words), 0, -1) if words[0]]


def lookup(ostemplate: str | None) -> Dist:
    """Return the distribution file for *ostemplate*, with a warning in it where only the default one fits.

    Raises:
        VzError: 107: there is no file for it, no default one either, or it cannot be used.
    """
    for name in candidates(ostemplate):
        dist = _read(f"{DISTS_DIR}/{name}")
        if dist is not None:
            return dist
    for name in ("default", "default.conf"):
        dist = _read(f"{DISTS_DIR}/{name}")
        if dist is not None:
            shown = ostemplate if ostemplate and ostemplate.isprintable() else "this container"
            dist.warning = f"WARNING: there is no distribution file for {shown}: {dist.path} is used"
            return dist
    raise VzError(f"There is no distribution file in {DISTS_DIR}: not even a default one", ExitCode.NO_DISTR_CONF)


def _read(path: str) -> Dist | None:
    try:
        conf = ConfFile.read(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise VzError(f"Unable to read {path}: {exc.strerror}", ExitCode.NO_DISTR_CONF) from exc
    except InvalidConfig as exc:
        raise VzError(str(exc), ExitCode.NO_DISTR_CONF) from exc
    dist = Dist(path)
    family = conf.get("FAMILY") or "auto"
    if family not in (*FAMILIES, "auto"):
        text = f"{path}: FAMILY is one of auto {' '.join(FAMILIES)}, not {family!r}"
        raise VzError(text, ExitCode.NO_DISTR_CONF)
    dist.family = "" if family == "auto" else family
    for action in ACTIONS:
        script = conf.get(action) or ""
        if script not in _NO_SCRIPT:
            dist.scripts[action] = script
    return dist


def _read_script(name: str, dist_path: str, *, required: bool = True) -> bytes:
    if "/" in name or name.startswith(".") or not name.isprintable():
        text = f"{dist_path}: {name!r} is not the name of a file in {SCRIPTS_DIR}"
        raise VzError(text, ExitCode.NO_DISTR_ACTION_SCRIPT)
    path = f"{SCRIPTS_DIR}/{name}"
    if not os.path.isfile(path):  # a fifo would hold us up
        if not required and not os.path.lexists(path):
            return b""
        raise VzError(f"Distribution script {path} is not there", ExitCode.NO_DISTR_ACTION_SCRIPT)
    try:
        return read_bytes(path).rstrip(b"\n") + b"\n"
    except OSError as exc:
        raise VzError(f"Unable to read {path}: {exc.strerror}", ExitCode.NO_DISTR_ACTION_SCRIPT) from exc


def exports(environment: dict[str, str]) -> bytes:
    """Return shell lines that export *environment*, quoted so that no value is more than text.

    They go before the script on the shell's standard input: a password is in no process's argument list.
    """
    lines = []
    for key, value in environment.items():
        quoted = value.replace("'", "'\\''")
        lines.append(f"export {key}='{quoted}'\n")
    return "".join(lines).encode("utf-8", "surrogateescape")
