#!/usr/bin/python3
"""create, start, exec, stop and destroy of a busybox system beside runc, crun and lxc, interleaved in one run.

    bench/lifecycle.py [ROUNDS] [--density N]

Every engine gets the same tree as an overlay over one shared copy, no address (and vz once more with one), and a stop
by SIGKILL (busybox' init takes two seconds of its own to halt).  vz is measured as installed, from a staging directory.
"""

import glob
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time

TREE = os.path.normpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
sys.path.insert(0, f"{TREE}/tests")
sys.dont_write_bytecode = True
from testnode import Node  # noqa: E402

TEMPLATE = f"busybox-{os.uname().machine}"
STEPS = ("create", "start", "exec", "stop", "destroy")
ENV = {
    # what users have: an installed tree (main makes it)
    "PATH": "/vz/installed/usr/local/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}


class Engine:
    """One container engine; every step is timed around the processes that it starts."""

    name = ""

    def __init__(self, node: Node, base: str) -> None:
        self.node = node
        self.base = base  # the unpacked tree, as the node sees it
        self.home = f"/vz/bench-{self.name}"
        node.path(self.home).mkdir(exist_ok=True)

    def run(self, *argv: str, check: bool = True) -> None:
        # not a pipe: what an engine leaves running would hold it open
        with open(f"{self.home}/errors", "w+b") as errors:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=ENV)
            if check and done.returncode:
                errors.seek(0)
                raise RuntimeError(f"{argv[:4]}: {done.returncode}: {errors.read().decode()[-300:]}")

    def overlay(self, ct: str) -> None:
        for name in ("u", "w", "rootfs"):
            os.makedirs(f"{self.home}/{ct}/{name}")
        options = f"lowerdir={self.base},upperdir={self.home}/{ct}/u,workdir={self.home}/{ct}/w"
        self.run("mount", "-t", "overlay", "overlay", "-o", options, f"{self.home}/{ct}/rootfs")

    def init_pid(self, ct: str) -> int:
        raise NotImplementedError

    def keepers(self) -> list[int]:
        """Return the processes on the node that stay for the engine's CTs."""
        return []

    def remove(self, ct: str) -> None:
        self.run("umount", f"{self.home}/{ct}/rootfs")
        self.run("rm", "-rf", "--one-file-system", f"{self.home}/{ct}")


class Vz(Engine):
    name = "vz"
    address = ""

    def id(self, ct: str) -> str:
        return str(7000 + int(ct.removeprefix("c")))

    def create(self, ct: str) -> None:
        self.run("vzctl", "create", self.id(ct), "--ostemplate", TEMPLATE)
        if self.address:
            self.run("vzctl", "set", self.id(ct), "--ipadd", f"198.51.100.{int(ct[1:]) % 250 + 1}", "--save")

    def start(self, ct: str) -> None:
        self.run("vzctl", "start", self.id(ct))

    def exec(self, ct: str) -> None:
        self.run("vzctl", "exec3", self.id(ct), "/bin/true")

    def stop(self, ct: str) -> None:
        self.run("vzctl", "stop", self.id(ct), "--fast")

    def destroy(self, ct: str) -> None:
        self.run("vzctl", "destroy", self.id(ct))

    def init_pid(self, ct: str) -> int:
        with open(f"/var/lib/vzctl/vepid/{self.id(ct)}") as file:
            return int(file.read())

    def keepers(self) -> list[int]:
        return [int(p) for p in os.listdir("/proc") if p.isdigit() and b"/vz/installed/" in cmdline(p)]


class VzAddress(Vz):
    name = "vz+address"
    address = "yes"

    def id(self, ct: str) -> str:
        return str(8000 + int(ct.removeprefix("c")))


class Runc(Engine):
    name = program = "runc"

    def create(self, ct: str) -> None:
        self.overlay(ct)
        with open(f"{self.home}/{ct}/config.json", "w") as file:
            json.dump(oci_config(f"{self.home}/{ct}/rootfs", f"/vz/bench/{self.name}-{ct}"), file)

    def cmd(self, *words: str) -> list[str]:
        return [self.program, "--root", f"{self.home}/state", *words]

    def start(self, ct: str) -> None:
        self.run(*self.cmd("--log", "/dev/null", "run", "-d", "--bundle", f"{self.home}/{ct}", ct))

    def exec(self, ct: str) -> None:
        self.run(*self.cmd("exec", ct, "/bin/true"))

    def stop(self, ct: str) -> None:
        self.run(*self.cmd("kill", ct, "KILL"))
        for _ in range(1000):
            try:
                return self.run(*self.cmd("delete", ct))
            except RuntimeError:
                time.sleep(0.002)
        raise RuntimeError(f"{self.name}: {ct} does not go")

    def destroy(self, ct: str) -> None:
        self.remove(ct)

    def init_pid(self, ct: str) -> int:
        for name, key in (("state.json", "init_process_pid"), ("status", "pid")):
            if os.path.exists(f"{self.home}/state/{ct}/{name}"):
                with open(f"{self.home}/state/{ct}/{name}") as file:
                    return int(json.load(file)[key])
        raise RuntimeError(f"{self.name}: {ct} has no state")


class Crun(Runc):
    """crun refuses a host with a cgroup2 tree beside version 1: it runs in a mount namespace without that tree, which
    costs an nsenter(1), about a millisecond, a step."""

    name = program = "crun"

    def __init__(self, node: Node, base: str) -> None:
        super().__init__(node, base)
        hide = "umount /sys/fs/cgroup/unified; mount -t tmpfs none /sys/fs/cgroup/unified; echo; exec sleep 100000"
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide]
        self.holder = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.holder.stdout is not None
        self.holder.stdout.readline()

    def run(self, *argv: str, check: bool = True) -> None:
        super().run("nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", "--", *argv, check=check)


class Lxc(Engine):
    name = "lxc"

    def create(self, ct: str) -> None:
        self.overlay(ct)
        with open(f"{self.home}/{ct}/config", "w") as file:
            file.write(
                "lxc.include = /usr/share/lxc/config/common.conf\nlxc.net.0.type = empty\nlxc.init.cmd = /sbin/init\n"
                f"lxc.console.path = none\nlxc.tty.max = 0\nlxc.rootfs.path = dir:{self.home}/{ct}/rootfs\nlxc.uts.name = {ct}\n"
            )

    def start(self, ct: str) -> None:
        self.run("lxc-start", "-P", self.home, "-n", ct, "-d")

    def exec(self, ct: str) -> None:
        self.run("lxc-attach", "-P", self.home, "-n", ct, "--", "/bin/true")

    def stop(self, ct: str) -> None:
        self.run("lxc-stop", "-P", self.home, "-n", ct, "-k")

    def destroy(self, ct: str) -> None:
        self.remove(ct)

    def init_pid(self, ct: str) -> int:
        shown = subprocess.run(["lxc-info", "-P", self.home, "-n", ct, "-p", "-H"], capture_output=True, env=ENV)
        return int(shown.stdout)

    def keepers(self) -> list[int]:
        return [int(p) for p in os.listdir("/proc") if p.isdigit() and b"[lxc monitor]" in cmdline(p)]


def oci_config(root: str, cgroup: str) -> dict[str, object]:
    """Return a config.json with what runc's own template has, and /sbin/init."""
    safe = ["nosuid", "noexec", "nodev"]
    caps = [
        "CAP_" + c
        for c in "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD SETGID SETPCAP SETUID SYS_CHROOT".split()
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False, "user": {"uid": 0, "gid": 0}, "args": ["/sbin/init"], "cwd": "/",
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "capabilities": {k: caps for k in ("bounding", "effective", "permitted")},
        },
        "root": {"path": root, "readonly": False},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*safe, "mode=1777"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": safe},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*safe, "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": n} for n in ("pid", "network", "ipc", "uts", "mount")], "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }  # fmt: skip


def timed(argv: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV)
    return (time.perf_counter() - began) * 1000


def lifecycle(engines: list[Engine], rounds: int) -> dict[str, dict[str, list[float]]]:
    times: dict[str, dict[str, list[float]]] = {e.name: {s: [] for s in STEPS} for e in engines}
    for number in range(rounds + 1):  # the first is a warm-up
        for engine in engines:
            for step in STEPS:
                began = time.perf_counter()
                getattr(engine, step)(f"c{number}")
                if number:
                    times[engine.name][step].append((time.perf_counter() - began) * 1000)
    return times


def report(times: dict[str, dict[str, list[float]]]) -> None:
    names = list(times)
    totals = {n: [sum(parts) for parts in zip(*times[n].values(), strict=True)] for n in names}
    for what, pick in (("median", statistics.median), ("best", min)):
        print(f"\n{what} of {len(totals[names[0]])} rounds, milliseconds\n")
        print(f"| engine | {' | '.join(STEPS)} | whole cycle | cycle / runc | start / runc |")
        print("|---" * (len(STEPS) + 4) + "|")
        for name in names:
            cells = [f"{pick(times[name][s]):.1f}" for s in STEPS] + [f"{pick(totals[name]):.1f}"]
            if "runc" in times and what == "median":  # of the ratios within a round, which saw the same machine
                cells += [f"{pick([a / b for a, b in zip(totals[name], totals['runc'], strict=True)]):.2f}"]
                cells += [
                    f"{pick([a / b for a, b in zip(times[name]['start'], times['runc']['start'], strict=True)]):.2f}"
                ]
            elif "runc" in times:
                cells += [f"{pick(totals[name]) / pick(totals['runc']):.2f}"]
                cells += [f"{pick(times[name]['start']) / pick(times['runc']['start']):.2f}"]
            print(f"| {name} | {' | '.join(cells)} |")


def density(engines: list[Engine], count: int) -> None:
    """Memory of *count* idle CTs of each engine: PSS of init and of what watches it, and unreclaimable kernel memory."""
    print(f"\n{count} idle CTs, kB each\n")
    print(
        "| engine | init | its keepers | kernel | in all | started in s | stopped in s |\n|---|---|---|---|---|---|---|"
    )
    listed = ""
    for engine in engines:
        names = [f"c{9000 + i}" for i in range(count)]
        for name in names:
            engine.create(name)
        time.sleep(1)
        before = meminfo()
        began = time.perf_counter()
        for name in names:
            engine.start(name)
        started = time.perf_counter() - began
        time.sleep(3)
        inits = [engine.init_pid(name) for name in names]
        after = meminfo()
        init = sum(map(pss_kb, inits)) / count
        keepers = sum(pss_kb(pid) for pid in engine.keepers()) / count
        kernel = sum(after[k] - before[k] for k in ("SUnreclaim", "KernelStack", "PageTables", "Percpu")) / count
        if isinstance(engine, Vz):
            listed = f"vzlist of {count}: {statistics.median(timed(['vzlist']) for _ in range(7)):.0f} ms"
        began = time.perf_counter()
        for name in names:
            engine.stop(name)
        stopped = time.perf_counter() - began
        for name in names:
            engine.destroy(name)
        cells = [init, keepers, kernel, init + keepers + kernel]
        print(
            f"| {engine.name} | {' | '.join(f'{c:.0f}' for c in cells)} | {started:.1f} | {stopped:.1f} |", flush=True
        )
    print(f"\n{listed}\n")


def stop_delay(rounds: int) -> None:
    """How long after init's exit ``vzctl stop`` returns; busybox' init takes two seconds of its own before."""
    delays = []
    for _ in range(rounds):
        for words in (["create", "6997", "--ostemplate", TEMPLATE], ["start", "6997"]):
            subprocess.run(["vzctl", *words], check=True, env=ENV, stdout=subprocess.DEVNULL)
        pidfd = os.pidfd_open(int(open("/var/lib/vzctl/vepid/6997").read()))
        process = subprocess.Popen(["vzctl", "stop", "6997"], env=ENV, stdout=subprocess.DEVNULL)
        select.select([pidfd], [], [])
        ended = time.perf_counter()
        process.wait()
        delays.append((time.perf_counter() - ended) * 1000)
        os.close(pidfd)
        timed(["vzctl", "destroy", "6997"])
    print(f"stop returns {statistics.median(delays):.1f} ms after init's exit (best {min(delays):.1f})")


def meminfo() -> dict[str, int]:
    with open("/proc/meminfo") as file:
        return {line.split(":")[0]: int(line.split()[1]) for line in file}


def pss_kb(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def cmdline(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def inside(rounds: int, count: int) -> None:
    """The measuring itself; run on the node."""
    node = object.__new__(Node)
    node.path = lambda name: __import__("pathlib").Path(name)  # type: ignore[method-assign]
    subprocess.run(
        ["vzctl", "create", "6999", "--ostemplate", TEMPLATE], check=True, env=ENV, stdout=subprocess.DEVNULL
    )
    base = glob.glob("/vz/template/unpacked/*/fs/etc/inittab")
    tree = next(
        p.removesuffix("/etc/inittab") for p in base if "busybox" in open(p.replace("inittab", "os-release")).read()
    )
    shared = "/vz/bench-base"
    shutil.copytree(tree, shared, symlinks=True, dirs_exist_ok=True)
    timed(["vzctl", "destroy", "6999"])
    classes = [Vz, VzAddress, Runc, Crun, Lxc]
    engines = [
        c(node, shared) for c in classes if c in (Vz, VzAddress) or shutil.which(getattr(c, "program", "lxc-start"))
    ]
    bare = statistics.median(timed(["/usr/bin/python3", "-I", "-S", "-c", "pass"]) for _ in range(11))
    subprocess.run(
        ["vzctl", "create", "6998", "--ostemplate", TEMPLATE], check=True, env=ENV, stdout=subprocess.DEVNULL
    )
    timed(["vzctl", "start", "6998"])
    for words in (["status", "6998"], ["exec3", "6998", "/bin/true"]):
        ratio = statistics.median(
            timed(["vzctl", *words]) / timed(["/usr/bin/python3", "-I", "-S", "-c", "pass"]) for _ in range(15)
        )
        print(f"vzctl {words[0]} / bare interpreter ({bare:.1f} ms): {ratio:.2f}")
    timed(["vzctl", "stop", "6998", "--fast"])
    timed(["vzctl", "destroy", "6998"])
    working = []
    for engine in engines:
        try:
            for step in STEPS:
                getattr(engine, step)("c0")
            working.append(engine)
        except RuntimeError as exc:
            print(f"left out: {engine.name}: {exc}")
    report(lifecycle(working, rounds))
    if count:
        density([engine for engine in working if engine.name != "vz+address"], count)
    stop_delay(3)


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        inside(int(sys.argv[2]), int(sys.argv[3]))
        return 0
    words = sys.argv[1:]
    count = int(words[words.index("--density") + 1]) if "--density" in words else 0
    rounds = next((int(w) for w in words if w.isdigit() and words[words.index(w) - 1] != "--density"), 15)
    with Node() as node:
        installed = f"{node.home}/vz/installed"
        subprocess.run(
            ["make", "-s", "-C", TREE, "install", f"DESTDIR={installed}"], check=True, stdout=subprocess.DEVNULL
        )
        argv = node.argv(
            "/usr/bin/python3", "-I", "-B", os.path.realpath(__file__), "--inside", str(rounds), str(count)
        )
        process = subprocess.Popen(argv, env=node.env)
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            return process.wait()


if __name__ == "__main__":
    sys.exit(main())
