"""Which device numbers a CT may use: a BPF filter on its cgroup2 directory, the v1 controller as a second line."""

from __future__ import annotations

import os
import stat

from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import bpf, cgroup
from vz.kernel.files import make_dirs
from vz.resources.cgroups import ct_dir, v1_dir

ALL = bpf.ACC_READ | bpf.ACC_WRITE
# null zero full random urandom, tty console ptmx, pseudo-terminals
BASIC = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None)]
# those of them that are in every CT's /dev; ptmx and pseudo-terminals are a file system's
NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}


def rules(ct: Container) -> list[bpf.DeviceRule]:
    """Return what the CT may use: the basic devices, DEVICES and the nodes of DEVNODES.

    Raises:
        VzError: a node of DEVNODES is not there or is no device (86).
    """
    found = [bpf.DeviceRule(bpf.DEV_CHAR, major, minor, ALL | bpf.ACC_MKNOD) for major, minor in BASIC]
    for text in ct.conf.devices or ():
        kind, major, minor, mode = text.split(":")
        access = _access(mode)
        if access:
            number = None if minor == "all" else int(minor)
            found.append(bpf.DeviceRule(bpf.DEV_BLOCK if kind == "b" else bpf.DEV_CHAR, int(major), number, access))
    for name, mode in ct.conf.devnodes or ():
        access = _access(mode)
        if not access:
            continue
        status = _device(name)
        kind_bit = bpf.DEV_BLOCK if stat.S_ISBLK(status.st_mode) else bpf.DEV_CHAR
        found.append(bpf.DeviceRule(kind_bit, os.major(status.st_rdev), os.minor(status.st_rdev), access))
    return found


def apply(ct: Container) -> None:
    """Put the CT's device filter in force, in place of the one it has.

    Raises:
        VzError: 86.
    """
    wanted = rules(ct)
    try:
        program = bpf.load(bpf.device_program(wanted))
        try:
            bpf.attach(program, ct_dir(ct))
        finally:
            os.close(program)
        if cgroup.hierarchies().version("devices") == 1:
            _apply_v1(v1_dir(ct, "devices"), wanted)
    except OSError as exc:
        raise VzError(f"Unable to set device permissions: {exc.strerror}", ExitCode.SET_DEVICES) from exc


def node_dir(ct: Container) -> str:
    """Return the directory of the CT's own device nodes: in the node's /dev, since other places may be nodev."""
    return f"/dev/vz/{ct.idmap[0]}"


def node_path(ct: Container, name: str) -> str:
    """Return where the CT's own node of device *name* is."""
    return f"{node_dir(ct)}/{name.replace('/', '_')}"


def node_names(ct: Container) -> list[str]:
    """Return the names below /dev of the CT's nodes: those that every CT has, then those of DEVNODES."""
    return list(dict.fromkeys([*NODES, *(name for name, mode in ct.conf.devnodes or () if _access(mode))]))


def make_nodes(ct: Container) -> list[tuple[str, str]]:
    """Make the CT's own nodes and return [(name below /dev, path of the node)]; VzError (86)."""
    return [(name, make_node(ct, name)) for name in node_names(ct)]


def make_node(ct: Container, name: str) -> str:
    """Make the CT's own node of device *name* and return its path; VzError (86).

    The node's own file belongs to its root, which is nobody inside; and whoever binds it shares its locks and watches
    with everybody else who does.
    """
    base = ct.idmap[0]
    if name in NODES:
        kind, mode, number = stat.S_IFCHR, 0o666, os.makedev(*NODES[name])
    else:
        status = _device(name)
        kind, mode, number = stat.S_IFMT(status.st_mode), 0o660, status.st_rdev
    path = node_path(ct, name)
    try:
        make_dirs(node_dir(ct), 0o711)
        remove_node(path)
        os.mknod(path, kind | 0o600, number)
        os.chown(path, base, base)
        os.chmod(path, mode)
    except OSError as exc:
        raise VzError(f"Unable to make device node {path}: {exc.strerror}", ExitCode.SET_DEVICES) from exc
    return path


def remove_node(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def remove_nodes(ct: Container) -> None:
    """Remove the CT's own device nodes."""
    folder = node_dir(ct)
    try:
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
        os.rmdir(os.path.dirname(folder))
    except OSError:
        pass


def _device(name: str) -> os.stat_result:
    try:
        status = os.stat(f"/dev/{name}")
    except OSError as exc:
        raise VzError(f"Device /dev/{name}: {exc.strerror}", ExitCode.SET_DEVICES) from exc
    if not (stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        raise VzError(f"/dev/{name} is not a device", ExitCode.SET_DEVICES)
    return status


def _access(mode: str) -> int:
    return (bpf.ACC_READ if "r" in mode else 0) | (bpf.ACC_WRITE if "w" in mode else 0)


def _apply_v1(path: str, wanted: list[bpf.DeviceRule]) -> None:
    """Make the version 1 list that of *wanted*: first what is new, then what goes, so that a live CT loses nothing."""
    current: dict[str, str] = {}
    for line in cgroup.read(path, "devices.list").splitlines():
        kind, number, mode = line.split()
        current[f"{kind} {number}"] = mode
    if current.pop("a *:*", None):
        cgroup.write(path, "devices.deny", "a")
    target: dict[str, str] = {}
    for rule in wanted:
        minor = "*" if rule.minor is None else rule.minor
        key = f"{'b' if rule.kind == bpf.DEV_BLOCK else 'c'} {rule.major}:{minor}"
        mode = ("r" if rule.access & bpf.ACC_READ else "") + ("w" if rule.access & bpf.ACC_WRITE else "") + "m"
        target[key] = target.get(key, "") + mode
    for file, changes, base in (("devices.allow", target, current), ("devices.deny", current, target)):
        for key, mode in changes.items():
            letters = "".join(letter for letter in "rwm" if letter in mode and letter not in base.get(key, ""))
            if letters:
                cgroup.write(path, file, f"{key} {letters}")
