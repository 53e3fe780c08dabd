"""Sample configurations: ``/etc/vz/conf/ve-NAME.conf-sample``."""

from __future__ import annotations

import os

from vz.config.conffile import ConfFile
from vz.config.nodeconfig import NodeConfig
from vz.config.paths import CONF_DIR
from vz.config.units import parse_word
from vz.errors import ExitCode, InvalidConfig, VzError

# identity of one CT and how its files are kept, never taken over from a sample by ``set --applyconfig``
KEPT = frozenset(
    "HOSTNAME IP_ADDR OSTEMPLATE VE_ROOT VE_PRIVATE VE_LAYOUT DESCRIPTION NAME LOCAL_UID LOCAL_GID "
    "LOCAL_UID_COUNT".split()
)


def read_sample(name: str, code: int) -> ConfFile:
    """Return sample *name*; VzError with *code* when it cannot be had."""
    try:
        parse_word(name)
    except ValueError:
        raise VzError(f"Bad sample name {name!r}", code) from None
    path = f"{CONF_DIR}/ve-{name}.conf-sample"
    try:
        return ConfFile.read(path)
    except OSError as exc:
        raise VzError(f"Unable to read sample configuration {path}: {exc.strerror}", code) from exc
    except InvalidConfig as exc:
        raise VzError(f"Unable to read sample configuration {exc}", code) from exc


def for_create(ctid: int, node: NodeConfig, name: str | None) -> ConfFile:
    """Return what a new CT's conf starts from: sample *name*, else a conf that is there, else the node's CONFIGFILE.

    Raises:
        VzError: 82: *name* given and a conf is there, or the sample cannot be read.
    """
    path = f"{CONF_DIR}/{ctid}.conf"
    if os.path.exists(path):
        if name:
            raise VzError(
                f"Configuration file {path} already exists: remove it, or leave --config out", ExitCode.CP_CONFIG
            )
        kept = ConfFile.read(path).copy(path)
        kept.warnings.append(f"WARNING: {path} exists: its values are kept, no sample is applied")
        return kept
    name = name or node.configfile
    if not name:
        return ConfFile(path)
    conf = read_sample(name, ExitCode.CP_CONFIG).copy(path)
    conf.set("ORIGIN_SAMPLE", name)
    return conf
