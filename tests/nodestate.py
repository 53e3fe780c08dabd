"""Everything that commands leave on a test node, as a flat table that can be compared: one key per file, mount, group,
device, route, filter element and process, with what changes from run to run (pids, times, counters) levelled."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import testnode
from testnode import Node, cgroup_dirs

# made once per node and kept
KEPT = re.compile(
    r"/run/vz/(hostcheck|cgroups|nft\.\w+)|/var/lib/vzctl/(ids/\.lock|vzctl\.log|traffic/\d+|events(/\d+(\.seen|\.old)?)?)|/vz/vztmp(/rm\.lck)?|.*\.destroyed"
    r"|/run/vz/ip|/run/vz/ip/\.lock|/etc/vz/names/\.lock|/var/lib/vzctl/[a-z]+"
)
TOPS = ("/etc/vz/conf", "/etc/vz/names", "/run/vz", "/run/netns", "/var/lib/vzctl", "/vz/lock", "/vz/dump", "/vz/vztmp")
SCRIPT = """
ip -o link; ip -o addr; ip route show table all; ip -6 route show table all; ip neigh show proxy; ip -6 neigh show proxy
nft list ruleset 2>/dev/null
"""
INSIDE = """
echo inside: hostname $(nsenter -t {pid} -u hostname)
nsenter -t {pid} -n ip -o link | sed 's/^/inside: /'
nsenter -t {pid} -n ip -o addr | sed 's/^/inside: /'
nsenter -t {pid} -n ip route | sed 's/^/inside: /'
"""
STATS = re.compile(
    r"^\d+: | state \S+| qlen \d+|<[^>]*>|@\S+| (valid|preferred)_lft \S+|\\|packets \d+ bytes \d+| tentative|"
    r"mode \S+|group \S+|linkdown|dadfailed|pref medium|brd \S+"
)
IDS = re.compile(r"\b[0-9]{9,10}\b")
LIMITS = (
    *("cpu.shares", "cpu.cfs_quota_us", "memory.limit_in_bytes", "pids.max", "devices.list"),
    *("cpu.weight", "cpu.max", "memory.max"),
)


def snapshot(node: Node) -> dict[str, str]:
    """Return the state of *node* now; ids of the node's pool are levelled, however many times a range was taken."""
    levelled: dict[str, str] = {}
    for key, value in _snapshot(node).items():
        name = IDS.sub(lambda m: "BASE" if int(m[0]) % 65536 in (0, 65535) else m[0], key)
        name = re.sub(r"(/ids/)\d+$", r"\1SLOT", name)
        text = IDS.sub(lambda m: "BASE" if int(m[0]) % 65536 in (0, 65535) else m[0], value)
        levelled[name] = levelled[name] + " and " + text if name in levelled else text
    return levelled


def _snapshot(node: Node) -> dict[str, str]:
    found: dict[str, str] = {}
    for top in TOPS:
        for folder, folders, names in os.walk(node.path(top)):
            shown = top + folder[len(str(node.path(top))) :]
            for name in names + folders:
                if not KEPT.fullmatch(f"{shown}/{name}"):
                    found[f"{shown}/{name}"] = _content(Path(folder, name), f"{shown}/{name}")
    for top, deep in (("/vz/private", ("up", "wk", "lower")), ("/vz/root", ())):
        for entry in sorted(os.listdir(node.path(top))):
            found[f"{top}/{entry}"] = " ".join(
                name for name in deep if os.path.lexists(node.path(f"{top}/{entry}/{name}"))
            )
            for folder, _, names in os.walk(node.path(f"{top}/{entry}/up/etc")):
                for name in names:
                    text = "" if ".vz-new" not in name and name not in ("hostname", "resolv.conf") else None
                    if text is None:
                        path = os.path.join(folder, name)
                        found[f"{top}/{entry}{path.rpartition('/up')[2]}"] = _content(Path(path), "")
    found |= _cgroups(node)
    found |= _mounts(node)
    found |= _network(node, found)
    return found


def _content(path: Path, shown: str) -> str:
    try:
        if path.is_symlink():
            return re.sub(r"/proc/\d+/", "/proc/N/", os.readlink(path))
        if path.is_dir():
            return "directory"
        text = path.read_text(errors="replace")
    except OSError as exc:
        return f"gone: {exc.errno}"
    if shown.endswith("/record"):
        text = re.sub(r"(init_pid|init_start|started_at)=(\d+)", lambda m: f"{m[1]}={'N' if int(m[2]) else 0}", text)
    elif "/vepid/" in shown or shown.startswith("/vz/lock"):
        text = re.sub(r"\d+", "N", text)
    return text


def _cgroups(node: Node) -> dict[str, str]:
    found = {}
    for top in cgroup_dirs(node.cgroup_parent):
        for entry in top.iterdir():
            if not entry.is_dir():
                continue
            inner = [name for name in ("ct",) if (entry / name).is_dir()]
            values = inner
            for name in LIMITS:
                for place in (entry, entry / "ct"):
                    try:
                        values.append(f"{name}={(place / name).read_text().strip()}")
                    except OSError:
                        pass
            try:
                values += [line for line in (entry / "cgroup.events").read_text().splitlines() if "populated" in line]
            except OSError:
                pass
            found[f"cgroup {top.parts[4] if len(top.parts) > 4 else top}/{entry.name}"] = "; ".join(values)
    return found


def _mounts(node: Node) -> dict[str, str]:
    assert node.holder is not None
    found: dict[str, str] = {}
    for line in Path(f"/proc/{node.holder.pid}/mountinfo").read_text().splitlines():
        point = line.split()[4]
        if re.match(r"/vz/(root|private)/|/run/vz/|/run/netns/|/dev/vz/", point):
            found[f"mount {point}"] = found.get(f"mount {point}", "") + "+"
    return found


def _network(node: Node, files: dict[str, str]) -> dict[str, str]:
    script = SCRIPT
    running = []
    for path in sorted(files):
        if path.startswith("/run/vz/") and path.endswith("/record"):
            match = re.search(r"^init_pid=(\d+)$", node.path(path).read_text(), re.M)
            if match and int(match[1]) and os.path.exists(f"/proc/{match[1]}/ns/net"):
                running.append(int(match[1]))
                script += INSIDE.format(pid=match[1])
    found: dict[str, str] = {}
    seen: dict[str, int] = {}
    table = ""
    for line in node.run("sh", "-c", script).stdout.splitlines():
        text = " ".join(STATS.sub(" ", line).split())
        if line.startswith("table "):
            table = line.rstrip(" {")
        elif re.match(r"\s+(set|chain) ", line):
            table = f"{table.partition(' /')[0]} /{text.rstrip(' {')}"
        elif table and text not in ("", "}"):
            for element in re.sub(r"elements = \{|\}", "", text).split(","):
                if element.strip():
                    found[f"nft {table} {element.strip()}"] = ""
        elif not table or not line.startswith(("\t", "}")):
            # kernel-made link-local and multicast entries come and go with a device's carrier
            if text and "fe80::" not in text and "ff00::" not in text and "multicast" not in text:
                seen[text] = seen.get(text, 0) + 1
        if line == "}":
            table = ""
    found |= {f"net {text}": str(count) for text, count in seen.items()}
    return found


def processes(node: Node) -> list[str]:
    """Return what runs on *node* beside its holder: nobody, once commands and their helpers end."""
    assert node.holder is not None
    return [f"process {pid} {words}" for pid, words in testnode.processes(node.holder.pid).items()]


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return a line per difference."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old != new:
            lines.append(
                f"- {key}: {old!r}"
                if new is None
                else f"+ {key}: {new!r}"
                if old is None
                else f"! {key}: {old!r} -> {new!r}"
            )
    return lines


def settled(node: Node, expected: list[dict[str, str]], patience_s: float = 5.0) -> list[str]:
    """Wait until the node's state is one of *expected* and nobody is at work; return [] or how the nearest differs."""
    deadline = time.monotonic() + patience_s
    while True:
        now = snapshot(node)
        differences = [changes(state, now) for state in expected]
        nearest = min(differences, key=len)
        busy = processes(node)
        if not nearest and not busy:
            return []
        if time.monotonic() > deadline:
            return nearest + busy
        time.sleep(0.05)
