"""The beancounters of all running CTs and of the node itself, and the files below /run/vz/proc that show them."""

from __future__ import annotations

import os

from vz.config import ubc
from vz.config.conffile import ConfFile
from vz.config.ctconfig import load_ct
from vz.config.nodeconfig import NodeConfig
from vz.config.paths import RUN
from vz.container.ct import Container
from vz.errors import InvalidConfig
from vz.kernel.files import make_dirs, write_atomically
from vz.resources import proctext
from vz.resources.beancounters import Reading, node_counters
from vz.resources.proctext import Row

PROC_DIR = f"{RUN}/proc"


def load_or_default(ctid: int, node: NodeConfig) -> Container:
    """Return the CT with its conf, or with the node's defaults where that cannot be used."""
    try:
        return Container(ctid, node, load_ct(ctid, node))
    except InvalidConfig:
        return Container(ctid, node, load_ct(ctid, node, ConfFile("", b"")))


def running(node: NodeConfig) -> list[Container]:
    """Return the running CTs in the order of their ids."""
    try:
        names = os.listdir(RUN)
    except OSError:
        return []
    ids = sorted(int(name) for name in names if name.isascii() and name.isdigit())
    return [ct for ct in (load_or_default(ctid, node) for ctid in ids) if ct.is_running()]


def read(ct: Container) -> dict[str, Row]:
    """Return the rows of one running CT; new maxima are kept."""
    reading = Reading(ct)
    rows = {name: counter.fields() for name, counter in reading.all().items()}
    reading.keep()
    return rows


def read_all(node: NodeConfig, *, host: bool = False) -> dict[int, dict[str, Row]]:
    """Return {ctid: rows} of all running CTs; with *host* first 0, the node without them."""
    cts = {ct.ctid: read(ct) for ct in running(node)}
    return {0: host_rows(node, cts), **cts} if host else cts


def host_rows(node: NodeConfig, cts: dict[int, dict[str, Row]]) -> dict[str, Row]:
    """Return the node's own rows: what all of it holds less what its CTs hold; the limits are those of 0.conf."""
    conf = load_or_default(0, node).conf
    limits = ubc.effective(conf)
    found = {}
    for name, total in node_counters().items():
        held = max(total - sum(rows[name][0] for rows in cts.values()), 0)
        found[name] = (held, held, *limits[name], 0)
    return found


def write_files(blocks: dict[int, dict[str, Row]]) -> None:
    """Write user_beancounters, bc/resources and bc/CTID/resources, readable by root; those of gone CTs are removed."""
    make_dirs(f"{PROC_DIR}/bc", 0o755)
    _put(f"{PROC_DIR}/user_beancounters", proctext.user_beancounters(blocks))
    _put(f"{PROC_DIR}/bc/resources", proctext.bc_resources(blocks))
    for ctid, rows in blocks.items():
        make_dirs(f"{PROC_DIR}/bc/{ctid}", 0o755)
        _put(f"{PROC_DIR}/bc/{ctid}/resources", proctext.bc_ct_resources(rows))
    for name in os.listdir(f"{PROC_DIR}/bc"):
        if name.isdigit() and int(name) not in blocks:
            try:
                os.unlink(f"{PROC_DIR}/bc/{name}/resources")
                os.rmdir(f"{PROC_DIR}/bc/{name}")
            except OSError:
                pass


def _put(path: str, text: str) -> None:
    write_atomically(path, text.encode(), 0o400, durable=False)
