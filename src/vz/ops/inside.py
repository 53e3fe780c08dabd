"""What the future init of a CT does between its birth and execve: mounts, devices, masks, limits, filter.

All of it runs in one forked child that is in its new namespaces already and owns them (root of the CT's user
namespace).  proc and sysfs come before the old root goes: a user namespace may mount them only while it sees
whole ones.  Source of the sequence: user_namespaces(7), pivot_root(2), and CRIU's needs (one key per host mount).
"""

from __future__ import annotations

import os

from vz.container.record import External
from vz.kernel import capabilities, handover, inherited, libc, mounts, namespaces, seccomp
from vz.kernel.process import default_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SAFE = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
# a fs/ directory of the host's own stays readable otherwise: looks, addresses of kernel objects
# Not /proc/kmsg: the kernel refuses to open it (its owner is no user of the CT, and it wants the host's CAP_SYSLOG).
# rsyslogd takes that for an answer, while it reads an empty file in its place for ever, with a whole CPU.
MASKED = (
    "/proc/kcore /proc/keys /proc/key-users /proc/timer_list /proc/sched_debug /proc/kpagecount "
    "/proc/kpagecgroup /proc/kpageflags /proc/vmallocinfo /proc/slabinfo /proc/sysrq-trigger /proc/acpi /proc/scsi "
    "/sys/firmware /sys/kernel"
).split()
# namespaced, hence writable by the CT's root, but they are the limits that we set
READ_ONLY = (
    "kernel/shmmax kernel/shmall kernel/shmmni kernel/msgmax kernel/msgmnb kernel/msgmni kernel/sem user "
    "net/ipv4/tcp_mem net/ipv4/tcp_rmem net/ipv4/tcp_wmem net/ipv4/udp_mem"
).split()
MASKED_UNITS = (
    "sys-kernel-debug.mount dev-hugepages.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount "
    "systemd-udevd.service proc-sys-fs-binfmt_misc.automount"
).split()
# systemd ends a service whose user namespace is refused (status 217/USER; redis-server's unit asks for one), while it
# goes on without the other namespaces.  A drop-in for all services is weaker than one for the service itself.
NO_PRIVATE_USERS = b"""\
# By vz: containers that can be checkpointed have no user namespaces inside (features nesting:on allows them).
[Service]
PrivateUsers=no
"""


class Plan:
    """What init is to be, decided before anything is made."""

    __slots__ = (
        "argv",
        "ctid",
        "devices",
        "dropped",
        "env",
        "hostname",
        "last_step",
        "nesting",
        "network",
        "proc_files",
        "program",
        "pty_max",
        "rlimits",
        "root",
        "shm_bytes",
        "user_limits",
    )

    def __init__(self, ctid: int, root: str) -> None:
        self.ctid = ctid
        self.root = root
        self.hostname = ""
        self.argv = ["/sbin/init"]
        self.env: dict[str, str] = {}
        self.devices: list[External] = []
        self.proc_files: list[External] = []  # of the node's /proc server
        self.pty_max = 1024
        self.rlimits: dict[int, int] = {}  # RLIMIT_ number: hard limit
        self.shm_bytes = 0  # 0: the kernel's default
        self.program = b""
        self.dropped: frozenset[int] = frozenset()
        self.nesting = False
        self.user_limits: dict[str, int] = {}  # by name in /proc/sys/user
        self.network: Callable[[], None] = lambda: None  # when the node's side of the network is made
        self.last_step: Callable[[], None] = lambda: None  # the CT's own files, as its root, in its root


def device_externals(nodes: list[tuple[str, str]]) -> list[External]:
    """Return the mounts that make a CT's /dev: its *nodes* as (name below /dev, source on the host)."""
    return [External("dev" + name.replace("/", "_"), source, f"/dev/{name}") for name, source in nodes]


def build(plan: Plan) -> None:
    """Make the CT's view of the system and enter it; the working directory is VE_ROOT, and at the end its ``/``."""
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_SLAVE)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    # The copy that came from the host is locked in this namespace; a bind of it is ours, with what
    # the mount scripts have put into it.  Not by its path: the directories above may be for the node's root alone, as
    # /vz/root is.
    tree_fd = mounts.open_tree(".", mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC | mounts.AT_RECURSIVE)
    mounts.move_mount(tree_fd, ".")
    os.fchdir(tree_fd)
    os.close(tree_fd)
    _mount_kernel_views()
    _mount_dev(plan)
    _mount_rest(plan)
    for item in plan.proc_files:
        if os.path.exists("." + item.target):
            mounts.mount(item.source, "." + item.target, None, mounts.MS_BIND)
    libc.pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)
    os.chdir("/")
    _prepare_systemd(plan)
    _limit_user_namespace(plan.user_limits)
    _limit_and_mask()
    if plan.hostname:
        namespaces.sethostname(plan.hostname.encode("utf-8", "surrogateescape"))


def become_init(plan: Plan) -> None:
    """Put on what only CT processes wear and execve init: its own refusal is a byte over descriptor 3."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.umask(0o022)
    default_signals()
    capabilities.drop_from_bounding_set(plan.dropped)
    seccomp.install(plan.program)
    inherited.lower(plan.rlimits)
    handover.execute(plan.argv[0], ["init", *plan.argv[1:]], plan.env)


def _at(path: str) -> str:
    """Return *path* below the future root, refusing a link in its last component (the CT may have put one there)."""
    relative = "." + path
    if os.path.islink(relative):
        os.unlink(relative)
    return relative


def _directory(path: str) -> str:
    relative = _at(path)
    if not os.path.isdir(relative):
        try:
            os.unlink(relative)
        except FileNotFoundError:
            pass
        os.mkdir(relative, 0o755)
    return relative


def _mount_kernel_views() -> None:
    mounts.mount("proc", _directory("/proc"), "proc", SAFE)
    mounts.mount("sysfs", _directory("/sys"), "sysfs", SAFE | mounts.MS_RDONLY)
    mounts.mount("cgroup2", "./sys/fs/cgroup", "cgroup2", SAFE)


def _mount_dev(plan: Plan) -> None:
    dev = _directory("/dev")
    mounts.mount("tmpfs", dev, "tmpfs", mounts.MS_NOSUID, "mode=755,size=1m")
    for device in plan.devices:
        target = "." + device.target
        folder = os.path.dirname(target)
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o755)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        mounts.mount(device.source, target, None, mounts.MS_BIND)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{dev}/{name}", 0o755)
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        os.symlink(target, f"{dev}/{name}")


def _mount_rest(plan: Plan) -> None:
    options = f"newinstance,ptmxmode=0666,mode=0620,gid=5,max={plan.pty_max}"
    mounts.mount("devpts", "./dev/pts", "devpts", mounts.MS_NOSUID | mounts.MS_NOEXEC, options)
    size = f",size={plan.shm_bytes}" if plan.shm_bytes else ""
    mounts.mount("tmpfs", "./dev/shm", "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=1777" + size)
    mounts.mount("mqueue", "./dev/mqueue", "mqueue", SAFE)
    run = _directory("/run")
    mounts.mount("tmpfs", run, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=755" + size)
    # First inode of its tmpfs: CRIU compares watched inodes without their device, and systemd watches /run/systemd
    os.mkdir(f"{run}/lock", 0o755)
    os.chmod(f"{run}/lock", 0o1777)


def _prepare_systemd(plan: Plan) -> None:
    """Mask systemd's units, and switch off its settings, that cannot work here; only where init is systemd.

    The directory itself tells programs that systemd runs (sd_booted(3)): with another init, service(8) would be lost.
    """
    if os.path.basename(os.path.realpath("/sbin/init")) != "systemd":
        return
    os.makedirs("/run/systemd/system", 0o755)
    for unit in MASKED_UNITS:
        os.symlink("/dev/null", f"/run/systemd/system/{unit}")
    if not plan.nesting:
        os.mkdir("/run/systemd/system/service.d", 0o755)
        fd = os.open("/run/systemd/system/service.d/vz.conf", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.write(fd, NO_PRIVATE_USERS)
        os.close(fd)


def _limit_user_namespace(values: dict[str, int]) -> None:
    """Set what the CT's user namespace may hold; raising it again takes CAP_SYS_RESOURCE, which the CT loses."""
    for name, value in values.items():
        try:
            fd = os.open(f"/proc/sys/user/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # a kernel without
        os.write(fd, str(value).encode())
        os.close(fd)


def _limit_and_mask() -> None:
    """Hide what is the host's and fix what are our limits; run in the CT's root, where paths are the CT's."""
    for name in READ_ONLY:
        path = f"/proc/sys/{name}"
        try:
            mounts.mount(path, path, None, mounts.MS_BIND)
        except FileNotFoundError:
            continue
        mounts.mount(None, path, None, mounts.MS_REMOUNT | mounts.MS_BIND | mounts.MS_RDONLY | SAFE)
    try:  # ping without set-uid, as Debian 13 has it: for every group that the CT can have
        fd = os.open("/proc/sys/net/ipv4/ping_group_range", os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, b"0 65535")
        os.close(fd)
    except OSError:
        pass  # a kernel without; ping then needs its file capability
    # An empty tmpfs on /proc/pressure: systemd from 254 on would bind memory.pressure files, which CRIU cannot restore
    # in a cgroup namespace.  Its one file and one directory also serve as masks, so a mask is no mount from the host.
    hold = next(
        (path for path in ("/proc/pressure", "/proc/acpi", "/proc/fs", "/sys/firmware") if os.path.isdir(path)), ""
    )
    if not hold:
        return
    mounts.mount("tmpfs", hold, "tmpfs", SAFE, "size=4k,nr_inodes=3,mode=555")
    os.close(os.open(f"{hold}/.file", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o000))
    os.mkdir(f"{hold}/.dir", 0o555)
    mounts.mount(None, hold, None, mounts.MS_REMOUNT | mounts.MS_BIND | mounts.MS_RDONLY | SAFE)
    for path in MASKED:
        if path == hold:
            continue
        try:
            kind = ".dir" if os.path.isdir(path) else ".file"
            mounts.mount(f"{hold}/{kind}", path, None, mounts.MS_BIND)
        except FileNotFoundError:
            pass
