"""The VMs in which tests run what this host's kernel lacks: how they are made, started, read and ended.

``uml``: Debian's user-mode Linux, an ordinary program.  Its root is this system's own, read-only; it boots in seconds.
``debian``: the kernel and the userland of Debian 12 under QEMU, both made by tools/vm-system.
Both have cgroup version 2 only, and a disk of their own with the templates.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
HERE = TREE / "tests/vm"
SCRATCH = os.environ.get("VZ_TEST_SCRATCH", "/var/tmp")
PREFIX = "vz-vm-"
ENDED = "vm ended: "
FAILED = "vm failed: "
DISK_MB = 6000  # sparse
MEMORY_MB = {"uml": 1600, "debian": 2048}


class Unavailable(Exception):
    """This kind of VM cannot be had here; the text says what to do."""


class Machine:
    """``with Machine("uml", "make me happy") as vm: for line in vm.lines(): ...``; then ``vm.status``."""

    def __init__(
        self, kind: str, command: str, processor: int | None = None, share: str = "", whole: bool = True
    ) -> None:
        """*processor*: the only one to run on.  *share*: a directory of this host for several VMs, by default its own.

        *whole*: see vm_limits.py.
        """
        self.kind = kind
        self.command = command
        self.processor = processor
        self.share = share
        self.whole = whole
        self.status: int | None = None  # of the command
        self.trouble = ""  # what the VM said of itself
        self.process: subprocess.Popen[bytes] | None = None
        self.scratch = ""
        self.lock = -1
        self.argv: list[str] = []

    def __enter__(self) -> Machine:
        self.prepare()
        self.start()
        return self

    def prepare(self) -> None:
        """Make the disk and all else that the VM needs."""
        clear_stale()
        self.scratch = tempfile.mkdtemp(prefix=PREFIX, dir=SCRATCH)
        try:
            # whoever can take this lock may clear the directory away
            self.lock = os.open(f"{self.scratch}/lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            if not self.share:
                self.share = f"{self.scratch}/share"
                os.mkdir(self.share)
            self.argv = uml(self.scratch) if self.kind == "uml" else debian(self.scratch)
            self._make_disk(f"{self.scratch}/disk")
        except BaseException:
            self.__exit__()
            raise

    def start(self, *, nice: bool = False) -> None:
        """Start it; *nice*: others come first."""
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": "/root", "TMPDIR": memory_directory(self)}
        # A pid namespace: when the VM's first process dies, so do all.  Those of user-mode Linux would otherwise
        # go on without their tracer, that is as processes of this host.
        argv = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--", *self.argv]
        if self.processor is not None:
            argv = ["taskset", "--cpu-list", str(self.processor), *argv]
        if nice:
            argv = ["nice", "-n", "5", *argv]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            preexec_fn=die_with_parent, start_new_session=True,
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self.lock >= 0:
            os.close(self.lock)

    def lines(self) -> Iterator[str]:
        """Yield what the VM prints until it has ended."""
        assert self.process is not None and self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if line.startswith(ENDED):
                self.status = int(line.removeprefix(ENDED))
            elif line.startswith(FAILED):
                self.trouble = line.removeprefix(FAILED)
            else:
                yield line
        self.process.wait()

    def _make_disk(self, disk: str) -> None:
        content = f"{self.scratch}/content"
        for folder in ("", "tmp", "templates", "templates/cache"):
            os.mkdir(f"{content}/{folder}")
            os.chmod(f"{content}/{folder}", 0o755)
        cache = TREE / ".cache/templates/cache"
        for source in sorted(cache.iterdir()) if cache.is_dir() else []:
            if "-services-" in source.name:
                continue  # test_services.py runs in no VM
            place(source, f"{content}/templates/cache/{source.name}")
        shutil.copy(HERE / "init", f"{content}/init")
        Path(content, "command").write_text(self.command + "\n")
        settings = {
            "VM_TREE": quote(TREE),
            "VZ_TEST_VM": self.kind,
            "VZ_TEST_SCRATCH": "/run/vm",
            "VZ_TEST_TEMPLATES": "/run/vm/templates",
            "TMPDIR": "/run/vm/tmp",
            "VM_SHARE": quote(self.share),
        }
        if self.whole:
            settings["VZ_TEST_VM_WHOLE"] = "1"
        Path(content, "environment").write_text("".join(f"export {name}={value}\n" for name, value in settings.items()))
        if self.kind == "debian":
            add_tree(content)
        with open(disk, "wb") as file:
            file.truncate(DISK_MB << 20)
        run(
            [
                "mke2fs",
                "-q",
                "-t",
                "ext4",
                "-m",
                "0",
                "-O",
                "quota,project",
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1",
                "-d",
                content,
                disk,
            ]
        )
        shutil.rmtree(content)


def uml(scratch: str) -> list[str]:
    """Return the command that boots user-mode Linux with the disk in *scratch*."""
    linux = shutil.which("linux.uml") or shutil.which("linux")
    if linux is None:
        raise Unavailable("needs user-mode-linux: make setup installs it")
    shutil.copy(HERE / "boot-uml", f"{scratch}/boot")  # a path without blanks
    os.chmod(f"{scratch}/boot", 0o755)
    argv = [linux, f"ubd0={scratch}/disk", f"mem={MEMORY_MB['uml']}M", "root=/dev/root", "rootfstype=hostfs"]
    return [
        *argv,
        "rootflags=/",
        "ro",
        f"init={scratch}/boot",
        "con=null",
        "con0=fd:0,fd:1",
        "quiet",
        "loglevel=1",
        "panic=-1",
    ]


def debian(scratch: str) -> list[str]:
    """Return the command that boots Debian's own kernel with the disk in *scratch*."""
    made = Path(os.environ.get("VZ_VM_DIR", TREE / ".cache/vm"))
    for name in ("qemu.made", "node.made"):
        if not (made / name).exists():
            raise Unavailable("needs what tools/vm-system makes: make test-vm calls it")
    entries = f"{scratch}/initrd.d"
    shutil.copytree(made / "initrd.d", entries)
    shutil.copy(HERE / "boot-debian", f"{entries}/init")
    os.chmod(f"{entries}/init", 0o755)
    with open(f"{scratch}/initrd", "wb") as file:
        names = "\n".join(os.path.relpath(path, entries) for path in sorted(Path(entries).rglob("*")))
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"], cwd=entries, input=names.encode(), stdout=file, check=True
        )
    libraries = made / "qemu/usr/lib" / f"{os.uname().machine}-linux-gnu"
    argv = [str(made / "qemu/usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
    argv += [str(made / "qemu/usr/bin/qemu-system-x86_64"), "-nodefaults", "-display", "none", "-no-reboot"]
    argv += ["-L", str(made / "qemu/usr/share/seabios"), "-L", str(made / "qemu/usr/share/qemu")]
    # no hardware virtualization: it is not to be had on many machines, and one way is tested better than two
    argv += [
        "-machine",
        "pc",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "Nehalem",
        "-smp",
        "2",
        "-m",
        str(MEMORY_MB["debian"]),
    ]
    argv += ["-serial", "stdio", "-monitor", "none", "-device", "virtio-rng-pci"]
    for file, options in ((made / "node.img", "snapshot=on"), (f"{scratch}/disk", "cache=unsafe")):
        argv += ["-drive", f"file={str(file).replace(',', ',,')},format=raw,if=virtio,{options}"]
    line = "console=ttyS0 quiet loglevel=1 panic=-1 psi=1 mitigations=off nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
    return [*argv, "-kernel", str(made / "vmlinuz"), "-initrd", f"{scratch}/initrd", "-append", line]


def add_tree(content: str) -> None:
    """Put the working tree and its criu on the disk, and a script that brings them to the paths that they have here."""
    for name in ("bin", "etc", "src", "tests", "tools"):
        shutil.copytree(
            TREE / name, f"{content}/tree/{name}", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(TREE / "pyproject.toml", f"{content}/tree/pyproject.toml")
    lines = [f"mkdir -p {quote(TREE)}", f"mount --bind /run/vm/tree {quote(TREE)}"]
    link = TREE / ".prefix/criu"
    if link.is_dir():
        criu = link.resolve()  # its loader's path is in it
        shutil.copytree(criu, f"{content}/criu", symlinks=True)
        lines += [f"mkdir -p {quote(criu)}", f"mount --bind /run/vm/criu {quote(criu)}"]
        if criu != link:
            lines += [f"mkdir -p {quote(link.parent)}", f"ln -s {quote(criu)} {quote(link)}"]
    Path(content, "prepare").write_text("\n".join(lines) + "\n")


def quote(text: object) -> str:
    return "'" + str(text).replace("'", "'\\''") + "'"


def memory_directory(machine: Machine) -> str:
    """Return where user-mode Linux may keep its memory: it is as slow as the file system that this lies on."""
    try:
        found = os.statvfs("/dev/shm")
        if found.f_bavail * found.f_frsize > MEMORY_MB["uml"] << 20 and not found.f_flag & os.ST_NOEXEC:
            return "/dev/shm"
    except OSError:
        pass
    return machine.scratch


def place(source: Path, target: str) -> None:
    """Link a file that nobody changes, or copy it where it lies on another file system."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy(source, target)


def run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{argv[0]}: {done.stderr.strip()}")


def die_with_parent() -> None:
    """In the child: be killed when the process that started it ends, whichever way (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def clear_stale() -> None:
    """Remove the disks of runs that were killed."""
    for folder in Path(SCRATCH).glob(f"{PREFIX}*"):
        try:
            fd = os.open(folder / "lock", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(fd)


def pytest_command(kind: str, arguments: list[str]) -> str:
    """Return the shell line that runs pytest in the VM and reports by the lines of vm_results.py."""
    python = str(TREE / ".venv/bin/python") if kind == "uml" else "/usr/bin/python3"
    words = [
        "env",
        f"PYTHONPATH={HERE}",
        python,
        "-B",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        "--color=no",
        "-rs",
        "-o",
        "console_output_style=classic",
        "-p",
        "vm_results",
        *arguments,
    ]
    return " ".join(map(quote, words))
