"""What both nodes are asked before anything is done: everything that would stop a migration later, all at once."""

from __future__ import annotations

import os
import stat

from vz.config.nodeconfig import NodeConfig
from vz.config.paths import RUN
from vz.container.ct import Container
from vz.disk import layout, overlay, templates
from vz.errors import VzError
from vz.kernel.files import make_dirs, read_text
from vz.kernel.network import device_exists
from vz.kernel.process import which
from vz.kernel.rtnetlink import Route
from vz.net import claims, venet
from vz.ops import names
from vz.ops.migrate import conditions, incoming, log
from vz.ops.migrate.errors import (
    CONFIG_FAILED,
    COPY_FAILED,
    CPU,
    IP_IN_USE,
    NO_PLOOP,
    NOT_RUNNING,
    START_FAILED,
    VERSION,
    MigrateFailed,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SPARE_BYTES = 64 << 20  # left free on the destination
PROTOCOL = 3  # 2: memory by streams of its own; 3: late


def node_facts(nonce: str) -> dict[str, Any]:
    """Return what the destination says of itself at the beginning; *nonce* names the file that leave_mark() made."""
    system = os.uname()
    here = log.is_id(nonce) and os.path.exists(mark_path(nonce))
    return {"protocol": PROTOCOL, "node": system.nodename, "machine": system.machine, "same": here}


def mark_path(nonce: str) -> str:
    """Return the file by which a node that is asked to take its own CT knows itself, however it is called."""
    return f"{RUN}/migrate-{nonce}"


def leave_mark(nonce: str) -> None:
    make_dirs(RUN, 0o711)
    os.close(os.open(mark_path(nonce), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def ct_facts(ct: Container, *, was: str) -> dict[str, Any]:
    """Return what the destination has to know of *ct*; sizes are estimates, of a tree that may be in use.

    Raises:
        MigrateFailed: it cannot be moved at all.
    """
    name = layout.layout_name(ct)
    if name == "ploop":
        raise MigrateFailed("A container with the ploop layout cannot be migrated in this version", NO_PLOOP)
    size, files = used(f"{ct.private}/up" if name == "overlay" else ct.private)
    digest = overlay.lower_digest(ct.private) if name == "overlay" else ""
    template_size, template_files = template_use(ct, digest)
    netifs = ct.conf.netif or []
    return {
        "ctid": ct.ctid,
        "name": ct.conf.name or "",
        "was": was,
        "layout": name,
        "digest": digest,
        "template": ct.conf.ostemplate or "",
        "addresses": ct.addresses(),
        "macs": conditions.own_macs() if ct.addresses() else [],
        "bridges": sorted({netif.bridge for netif in netifs if netif.bridge}),
        "netdevs": list(ct.conf.netdev or []),
        "devnodes": [device for device, mode in ct.conf.devnodes or [] if mode],
        "size": size,
        "files": files,
        "template_size": template_size,
        "template_files": template_files,
    }


def template_use(ct: Container, digest: str) -> tuple[int, int]:
    """Return (bytes, files) that the template of *digest* needs where it is not: its archive, and unpacked."""
    if not digest:
        return 0, 0
    name = ct.conf.ostemplate or ""
    facts = templates.read_facts(ct.node, name) if name and "/" not in name else {}
    if facts.get("digest") == digest and facts.get("unpacked_bytes", "").isdecimal():
        archive = templates.find_tarball(ct.node, name)
        size = int(facts["unpacked_bytes"]) + (os.stat(archive).st_size if archive else 0)
        return size, int(facts.get("files", "0"))
    return used(templates.tree_of_digest(ct.node, digest))


def used(top: str) -> tuple[int, int]:
    """Return (bytes on disk, files) below *top*."""
    from vz.disk.changes import Tree, look

    with Tree(top) as tree:
        found = look(tree.path)
    return found.bytes, len(found.entries)


def answer(node: NodeConfig, ctid: int, facts: dict[str, Any]) -> dict[str, Any]:
    """Look at this node, as the destination of the CT of *facts*: return every problem and what is to come first."""
    problems: list[dict[str, Any]] = []

    def problem(code: int, text: str, about: str = "") -> None:
        problems.append({"code": code, "text": text, "about": about})

    probe = conditions.ask_neighbours(node, facts["addresses"], facts.get("macs", []))  # they answer meanwhile
    if not node.is_yes("VIRTUOZZO"):
        problem(NOT_RUNNING, "VIRTUOZZO is not yes in /etc/vz/vz.conf of the destination node")
    reused = False
    try:
        reused = incoming.check_free(node, ctid)
    except MigrateFailed as exc:
        problem(exc.code, str(exc))
    if facts["name"]:
        try:
            names.check_free(ctid, facts["name"])
        except VzError as exc:
            problem(CONFIG_FAILED, f"on the destination node: {exc}")
    for program in ("rsync", "ip", "nft"):
        try:
            which(program)
        except FileNotFoundError:
            problem(NOT_RUNNING, f"{program} is not installed on the destination node")
    for address in facts["addresses"]:
        owner = claims.owner_of(address, node.lockdir)
        if owner:
            problem(IP_IN_USE, f"address {address} is in use by CT {owner} on the destination node")
        else:
            try:
                with Route() as sock:
                    venet.check_not_local(sock, address)
            except VzError as exc:
                problem(IP_IN_USE, f"on the destination node: {exc}")
        if ":" in address and not node.ipv6:
            problem(NOT_RUNNING, f"IPv6 is off in vz.conf of the destination node: {address} would be lost", "ipv6")
    if facts["was"] == "running":
        for device in [*facts["bridges"], *facts["netdevs"]]:
            if not device_exists(device):
                problem(START_FAILED, f"network device {device} is not on the destination node")
        for device in facts["devnodes"]:
            if not _is_device(f"/dev/{device}"):
                problem(START_FAILED, f"device /dev/{device} is not on the destination node")
    if "live" in facts:
        check_live(node, ctid, facts["live"], problem)
    wanted = incoming.template_wanted(node, facts["digest"])
    check_space(node, ctid, facts, problem, template=wanted, reused=reused)
    conditions.check_neighbours(probe, problem)
    return {"problems": problems, "template": not wanted}


def check_live(node: NodeConfig, ctid: int, live: dict[str, Any], problem: Any) -> None:
    """Look whether this node can restore the images of a CT; *live* is what live.facts() says of it."""
    from vz.checkpoint import criu
    from vz.ops import dumped

    try:
        ours = criu.version()
    except FileNotFoundError:
        problem(NOT_RUNNING, "criu is not installed on the destination node")
        return
    for line in dumped.old_criu(ours):
        problem(VERSION, f"on the destination node: {line}")
    if list(ours) < live["criu"]:
        problem(VERSION, f"criu on the destination node is {_dotted(ours)}, older than {_dotted(live['criu'])} here")
    missing = sorted(set(live["cpu"]) - set(cpu_flags()))
    if missing:
        problem(CPU, f"the processor of the destination node lacks {' '.join(missing)}", "cpu")
    conditions.check_tools(live, problem)
    conditions.check_memory(live, problem)
    folder = _standing(os.path.dirname(incoming.node_dump(node, ctid)))
    room = os.statvfs(folder)
    if live["memory"] > room.f_bavail * room.f_frsize:
        problem(COPY_FAILED, f"{folder} on the destination node has too little space for {live['memory'] >> 20} MB")


def cpu_flags() -> list[str]:
    """Return what this node's processor can do that programs may have found out and count on."""
    for line in read_text("/proc/cpuinfo", 1 << 20).splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return words.split()
    return []


def _dotted(version: Any) -> str:
    return ".".join(map(str, version))


def check_space(
    node: NodeConfig, ctid: int, facts: dict[str, Any], problem: Any, *, template: bool, reused: bool
) -> None:
    """Compare what comes, with the *template* or without, with what is free.

    A kept copy of it may be there already, and then only the copying tells.
    """
    private, _ = incoming.paths(node, ctid)
    place = _standing(private)
    wanted, files = facts["size"], facts["files"]
    if template and os.stat(place).st_dev == os.stat(_standing(f"{node.template}/unpacked")).st_dev:
        wanted, files = wanted + facts["template_size"], files + facts["template_files"]
    free = os.statvfs(place)
    free_bytes = free.f_bavail * free.f_frsize
    if wanted + SPARE_BYTES > free_bytes and not reused:
        problem(
            COPY_FAILED,
            f"{place} on the destination node has {free_bytes >> 20} MB free, the container needs "
            f"{(wanted + SPARE_BYTES) >> 20} MB",
        )
    if free.f_files and files > free.f_favail and not reused:
        problem(COPY_FAILED, f"{place} on the destination node has {free.f_favail} inodes free, not {files}")


def _standing(path: str) -> str:
    """Return *path*, or the nearest directory above that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _is_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
