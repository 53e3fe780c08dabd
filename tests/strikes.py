"""Commands struck at every system call that changes something; see killat.py, and nodestate.py for what is compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from nodestate import changes, processes, settled, snapshot
from testnode import TREE, Node

NAMING = (
    "was interrupted",
    "clearing what is left of it",
)
BRIDGE, NETDEV = "br0", "nd0"


class Case:
    """A command, the state it starts from, and what may follow: *again* says what doing it again may answer."""

    def __init__(
        self,
        name: str,
        before: str,
        words: tuple[object, ...],
        again: tuple[int, ...],
        others: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.before = before
        self.words = words
        self.again = again
        self.others = others  # states that a command which stopped half-way may leave for good


class Rig:
    """One CT with addresses, a bridged interface, a device and a name, on a node of its own."""

    def __init__(self, node: Node, ctid: int, template: str, layout: str = "overlay", netdev: bool = False) -> None:
        self.node = node
        self.ctid = ctid
        self.template = template
        self.layout = layout
        self.netdev = netdev
        self.report = f"{node.home}/killat.json"
        self.states: dict[str, dict[str, str]] = {}
        node.run("ip", "link", "add", BRIDGE, "address", "02:00:00:00:00:01", "type", "bridge")
        self.do("create", 9, "--ostemplate", template)  # unpacks it, makes the filter's tables and the groups
        self.do("set", 9, "--ipadd", "203.0.113.9", "--netif_add", "eth0", "--save")
        self.do("start", 9)
        self.do("stop", 9, "--fast")
        self.do("destroy", 9)
        self.create_words = (
            "create",
            ctid,
            "--ostemplate",
            template,
            "--layout",
            layout,
            "--name",
            "one",
            "--hostname",
            "one.example.com",
        )
        self.set_words: tuple[object, ...] = (
            *("set", ctid, "--ipadd", "198.51.100.1", "--ipadd", "2001:db8::11", "--netif_add"),
            *(f"eth0,00:18:51:00:00:01,veth{ctid}.0,00:18:51:00:00:02,{BRIDGE}", "--devnodes", "loop-control:rw"),
            *("--onboot", "no", *(("--netdev_add", NETDEV) if netdev else ()), "--save"),
        )  # fmt: skip

    def vz(self, *words: object) -> tuple[int, str, str]:
        done = self.node.run("vzctl", *map(str, words))
        return done.returncode, done.stdout, done.stderr

    def do(self, *words: object) -> None:
        status, out, err = self.vz(*words)
        assert status == 0, (words, status, out, err)

    def to(self, state: str) -> None:
        """Bring the CT to *state* from whatever it is in."""
        if state == "absent":
            for words in (("stop", self.ctid, "--fast"), ("umount", self.ctid), ("destroy", self.ctid)):
                self.vz(*words)
            return
        if self.netdev:
            self.node.run("ip", "link", "add", NETDEV, "type", "veth", "peer", "name", "nd1")
        if "exist" not in self.vz("status", self.ctid)[1]:
            self.do(*self.create_words)
            self.do(*self.set_words)
            self.do("start", self.ctid)
            self.do("stop", self.ctid, "--fast")
        now = self.vz("status", self.ctid)[1].split()[3:5]
        wanted = {"stopped": ["unmounted", "down"], "mounted": ["mounted", "down"], "running": ["mounted", "running"]}[
            state
        ]
        if now == wanted:
            return
        if "running" in now:
            self.do("stop", self.ctid, "--fast")
        elif "mounted" in now:
            self.do("umount", self.ctid)
        if state != "stopped":
            self.do("start" if state == "running" else "mount", self.ctid)

    def strike(self, case: Case, at: int, how: str) -> tuple[dict[str, object], str, str]:
        """Run the case's command and strike at its call number *at*; return the report and what it printed."""
        done = self.node.run(
            "/usr/bin/python3", str(TREE / "tests/killat.py"), self.report, str(at), how, "vzctl", *map(str, case.words)
        )
        with open(self.report) as file:
            return json.load(file), done.stdout, done.stderr

    def known(self, case: Case) -> tuple[int, list[str]]:
        """Learn the states of *case* and return how many calls its command makes, and which."""
        for state in (case.before, *case.others):
            if state not in self.states:
                self.to(state)
                self.states[state] = snapshot(self.node)
        self.to(case.before)
        report, out, err = self.strike(case, 0, "main")
        assert report["status"] == 0, (case.name, report["status"], out, err)
        while processes(self.node):
            time.sleep(0.02)
        self.states[f"after {case.name}"] = snapshot(self.node)
        return int(str(report["count"])), list(report["calls"])  # type: ignore[call-overload]

    def back(self, case: Case) -> list[str]:
        """Bring the CT back to where *case* starts; return how that differs from how it was at first."""
        if self.changed(case) and case.before != "absent":
            self.to("absent")
        self.to(case.before)
        return settled(self.node, [self.states[case.before]])

    def changed(self, case: Case) -> bool:
        """Tell whether the case leaves another configuration behind."""
        return case.words[0] in ("set", "create", "destroy")

    def round(self, case: Case, at: int, how: str, again: bool) -> list[str]:
        """Strike once, let one next command follow, and return what is wrong then."""
        report, out, err = self.strike(case, at, how)
        if not report["struck"]:
            return []
        where = f"{case.name}: {how} at {at} {report['call']}"
        before, after = self.states[case.before], self.states[f"after {case.name}"]
        sound = [before, after, *(self.states[name] for name in case.others)]
        wrong: list[str] = []
        if how not in ("main", "all"):
            wrong += self.unwound(report, out, err, sound, after)
        else:
            wrong += self.mended(case, again, sound, after)
        return [where, *(f"    {line}" for line in wrong)] if wrong else []

    def unwound(
        self, report: dict[str, object], out: str, err: str, sound: list[dict[str, str]], after: dict[str, str]
    ) -> list[str]:
        """Check a command that met a failure: done whole, or undone whole with few words (a restart: stopped)."""
        wrong = []
        if "Traceback" in err:
            wrong += ["a traceback", *err.splitlines()]
        status = report["status"]
        left = settled(self.node, [after] if status == 0 else sound)
        if left:
            wrong += [f"status {status}, and then:", *left, "it said:", *out.splitlines(), *err.splitlines()]
        if status != 0 and len(err.splitlines()) > 3:
            wrong += ["too many words:", *err.splitlines()]
        return wrong

    def mended(self, case: Case, again: bool, sound: list[dict[str, str]], after: dict[str, str]) -> list[str]:
        """Check that one next command brings a sound state and names what it mended."""
        wrong = []
        at_work = processes(self.node)
        found = snapshot(self.node)
        if at_work:  # the deleter of a destroy that was killed: what it is about to remove is nobody's to name
            found = {
                path: what
                for path, what in found.items()
                if not path.startswith("/vz/vztmp/") and not what.endswith("destroyed\n")
            }
        lock = f"/vz/lock/{self.ctid}.lck"
        found.pop(lock, None)
        broken = min((changes(state, found) for state in sound), key=len)
        words = (
            case.words
            if again
            else ("umount", self.ctid)
            if case.before == "absent" or case.name == "destroy"
            else ("set", self.ctid, "--onboot", "no", "--save")
        )
        status, out, err = self.vz(*words)
        if again and status not in case.again:
            wrong.append(f"done again: status {status}")
        if "Traceback" in err:
            wrong.append("a traceback")
        left = settled(self.node, [after] if again else sound)
        if left:
            wrong += ["after the next command:", *left]
        if broken and not any(text in out + err for text in NAMING):
            wrong += ["nothing was named, but there was:", *broken]
        if wrong:
            wrong += ["the next command said:", f"{words[0]}: {status}", *out.splitlines(), *err.splitlines()]
        return wrong


def cases(ctid: int, rig: Rig) -> dict[str, Case]:
    """Return the cases by name."""
    live = (
        "--ipadd",
        "198.51.100.2",
        "--ipdel",
        "198.51.100.1",
        "--hostname",
        "two.example.com",
        "--name",
        "two",
        "--cpuunits",
        "500",
    )
    netif = (
        "--netif_add",
        f"eth1,00:18:51:00:00:03,veth{ctid}.1,00:18:51:00:00:04,{BRIDGE}",
        "--netif_del",
        "eth0",
        "--devnodes",
        "loop-control:none",
    )
    edit = ("--ifname", "eth0", "--mac", "00:18:51:00:00:07", "--mac_filter", "off", "--ipdel", "all")
    found = [
        Case("create", "absent", rig.create_words, (0, 44)),
        Case("mount", "stopped", ("mount", ctid), (0,)),
        Case("umount", "mounted", ("umount", ctid), (0, 40)),
        Case("start", "stopped", ("start", ctid), (0, 32)),
        Case("stop", "running", ("stop", ctid, "--fast"), (0,)),
        Case("restart", "running", ("restart", ctid, "--fast"), (0,), ("stopped",)),
        Case("set-save", "stopped", ("set", ctid, *live, *netif, "--save"), (0, 130)),
        Case("set-live", "running", ("set", ctid, *live, *netif, "--save"), (0, 130)),
        Case("set-edit", "running", ("set", ctid, *edit, "--save"), (0,)),
        Case("set-unsaved", "running", ("set", ctid, "--ipadd", "198.51.100.2", "--hostname", "two.example.com"), (0,)),
        Case("destroy", "stopped", ("destroy", ctid), (0, 14)),  # as the others: done already
    ]
    return {case.name: case for case in found}


def sweep(rig: Rig, case: Case, points: Callable[[int], Iterator[tuple[int, str, bool]]]) -> list[str]:
    """Strike the command of *case* at *points* of its calls and return what is wrong, round by round."""
    count, _ = rig.known(case)
    wrong = rig.back(case)
    for at, how, again in points(count):
        wrong += rig.round(case, at, how, again)
        trouble = rig.back(case)
        if trouble:
            wrong += [f"{case.name}: {how} at {at}: not back at {case.before}:", *(f"    {line}" for line in trouble)]
            rig.to("absent")
            rig.back(case)
    return wrong


__all__ = ["Case", "Rig", "cases", "processes", "sweep"]
