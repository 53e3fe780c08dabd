"""start: boot a stopped CT.  The list of steps is the page to read first; architecture.md follows it down."""

from __future__ import annotations

import os
import time

from vz import guest
from vz.config import ubc
from vz.config.paths import STATE
from vz.container import record as records
from vz.container.ct import Container, need_paths
from vz.container.record import Record
from vz.disk import layout
from vz.errors import AlreadyRunning, ExitCode, VzError
from vz.kernel.files import make_dirs, remove, write_atomically
from vz.kernel.process import starttime
from vz.ops import distscripts, guestfiles, hostcheck, inside, mount, scripts, systemd
from vz.ops.launch import Launch, launch
from vz.ops.report import say, say_started, warn
from vz.ops.undo import Undo, interrupted
from vz.resources import cgroups, devices, limits, ubc_limits
from vz.resources.policy import dropped_capabilities, seccomp_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.net.neighbours import Probe

WAIT_LIMIT_S = 3600
LAUNCHER_LIMIT_S = 10.0


def start(ct: Container, *, wait: bool = False, force: bool = False, skip_remount: bool = False) -> None:
    """Boot the CT, or bring it back from its dump; on failure leave it stopped and unmounted.

    Raises:
        AlreadyRunning: 32.  VzError: disabled (105), no private area (43), the documented status of each step;
            a CT without /sbin/init (47), ``--wait`` past an hour (133).
    """
    check(ct, force=force)
    if ct.is_suspended():
        from vz.ops.restore import instead_of_start

        if instead_of_start(ct, skip_remount=skip_remount):
            return
    say("Starting container...")
    for text in ct.node.warnings + ct.conf.check() + hostcheck.warnings() + limits.warnings(ct):
        warn(text)
    try:
        boot(ct, begin_probe(ct), wait=wait, skip_remount=skip_remount)
    except (VzError, OSError) as exc:
        if not interrupted():
            warn('Container start failed (try to check kernel messages, e.g. "dmesg | tail")')
        if isinstance(exc, OSError):
            what = f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
            raise VzError(f"Unable to start the container: {what}", ExitCode.ENVCREATE_ERROR) from exc
        raise
    if not wait:
        say("Container start in progress...")
        return
    say("Container start in progress, waiting ...")
    guestfiles.wait_booted(ct, WAIT_LIMIT_S)
    say("Container started successfully")


def check(ct: Container, *, force: bool) -> None:
    """Refuse what can be refused before anything changes."""
    check_enabled(ct, force=force)
    ubc.check_complete(ct.conf)
    need_paths(ct)
    if ct.is_running():
        raise AlreadyRunning
    if not os.path.isdir(ct.private):
        raise VzError(f"Container private area {ct.private} does not exist", ExitCode.FS_NOPRVT)
    if layout.layout_of(ct).NAME == "ploop":
        from vz.ops import image

        image.check_space(ct)


def check_enabled(ct: Container, *, force: bool) -> None:
    if ct.conf.disabled and not force:
        raise VzError("Container start disabled", ExitCode.VE_START_DISABLED)


def boot(ct: Container, probe: Probe | None = None, *, wait: bool = False, skip_remount: bool = False) -> None:
    """Mount, make, launch, attach, release: everything between a checked request and a running init.

    The answers to *probe*, which asks the neighbours for the CT's addresses, come in while the CT is made.
    """
    with Undo(warn) as undo:
        limits.before_user_namespace(ct)
        mount.ensure_ids(ct)
        if ct.is_mounted() and not skip_remount:
            mount.umount_with_scripts(ct)
        mounted = ct.is_mounted()
        if not mounted:
            store_layout(ct)
        record = new_record(ct, records.STARTING)
        if mounted:
            record.root = ""  # somebody else's mount stays where it is
        undo.add(forget, ct)
        record.save()  # init_pid=0: a trace for whoever finds this start killed
        ct.forget_record()
        record.root = ct.root
        if not mounted:
            mount.mount_with_scripts(ct)
            undo.add(mount.umount_with_scripts, ct)
            say("Container is mounted")
        undo.add(cgroups.remove, ct)
        undo.add(cgroups.kill_all, ct)
        cgroups.create(ct)
        plan = make_plan(ct, record, wait)
        born = launch(plan, (record.idmap_base, record.idmap_count), lambda: cgroups.fork_into(ct))
        undo.add(born.abandon)
        record.init_pid = born.init_pid
        record.init_start = starttime(born.init_pid)
        ubc_limits.begin(ct, born.init_pid)
        try:
            connect(ct, born.init_pid, record, undo, probe)
        except (VzError, OSError):
            born.check()  # an init that has died already has no network to be reached
            raise
        record.save()
        say_started(ct)
        undo.add(kill, ct)
        release(ct, born, record)
        finish(ct, record, probe)


def begin_probe(ct: Container) -> Probe | None:
    """Ask the neighbours for the CT's addresses; None where there is nothing to ask."""
    if not ct.conf.ip_addr:
        return None
    from vz import net

    return net.begin_probe(ct, ct.addresses())


def connect(ct: Container, init_pid: int, record: Record, undo: Undo, probe: Probe | None) -> None:
    """Make the CT's network; one without interfaces costs nothing."""
    if ct.conf.ip_addr or ct.conf.netif or ct.conf.netdev:
        from vz import net

        undo.add(net.detach, ct, record)
        warnings = net.attach(ct, init_pid, record, probe)
        addresses = ct.addresses()
        if addresses:
            say(f"Adding IP address(es): {' '.join(addresses)}")
        for text in warnings:
            warn(text)


def announce(ct: Container, probe: Probe | None) -> None:
    """Tell the neighbours where the CT's addresses are now."""
    if ct.conf.ip_addr:
        from vz import net

        net.announce(ct, ct.addresses(), probe)


def release(ct: Container, born: Launch, record: Record) -> None:
    """Let init run."""
    record.started_at = int(time.time())
    record.stage = records.RELEASED
    record.save()
    born.release()


def finish(ct: Container, record: Record, probe: Probe | None = None) -> None:
    """Do what a start does once init runs: tell the neighbours where its addresses are, and old clients its pid, run
    the scripts that want a living CT."""
    announce(ct, probe)
    published(ct, record)
    distscripts.at_start(ct)
    scripts.run_in_ct(ct, "start")
    record.stage = ""
    record.save()
    ct.forget_record()


def published(ct: Container, record: Record) -> None:
    """Tell old clients the pid and the network namespace of a CT that runs."""
    for folder in (f"{STATE}/vepid", "/run/netns"):
        if not os.path.isdir(folder):
            make_dirs(folder, 0o755)
    write_atomically(f"{STATE}/vepid/{ct.ctid}", f"{record.init_pid}\n".encode(), durable=False)
    link = f"/run/netns/{ct.ctid}"
    remove(link)
    os.symlink(f"/proc/{record.init_pid}/ns/net", link)
    ct.forget_record()


def wait_for_init(record: Record) -> bool:
    """Tell whether the init of *record*, whose start was killed, came to be; a launcher that nobody lets go ends."""
    ours = os.stat("/proc/self/exe")
    deadline = time.monotonic() + LAUNCHER_LIMIT_S
    while record.is_alive() and time.monotonic() < deadline:
        try:
            runs = os.stat(f"/proc/{record.init_pid}/exe")
        except OSError:
            continue
        if (runs.st_dev, runs.st_ino) != (ours.st_dev, ours.st_ino):
            return record.is_alive()
        time.sleep(0.005)
    return False


def store_layout(ct: Container) -> None:
    """Write into a conf that does not say VE_LAYOUT (OpenVZ 3 and old 4) what its private area shows."""
    conf = ct.conf.conf
    if conf is None or conf.get("VE_LAYOUT"):
        return
    ct.conf.ve_layout = layout.layout_name(ct)  # not the node's default, which has stood there until now
    conf.set("VE_LAYOUT", ct.conf.ve_layout)
    try:
        conf.save(ct.conf_path)
    except OSError as exc:
        raise VzError(f"Unable to save {ct.conf_path}: {exc.strerror}", ExitCode.CONFIG_SAVE_ERROR) from exc


def new_record(ct: Container, stage: str = "") -> Record:
    """Return the record of a CT that is about to start."""
    record = Record(ct.ctid)
    record.stage = stage
    record.idmap_base, record.idmap_count = ct.idmap
    record.root = ct.root
    record.rlimits = ubc_limits.process_limits(ct)
    return record


def make_plan(ct: Container, record: Record, wait: bool) -> inside.Plan:
    """Turn the configuration into what init is to be."""
    plan = inside.Plan(ct.ctid, ct.root)
    plan.hostname = ct.conf.hostname or f"ct{ct.ctid}"
    # -z: vzctl's own argument, which every init ignores; "container" tells systemd where it is
    plan.argv = ["/sbin/init", "-z", "      "]
    plan.env = {"HOME": "/", "TERM": "linux", "PATH": inside_path(), "container": "lxc"}
    plan.devices = inside.device_externals(devices.make_nodes(ct))
    if ct.node.is_yes("PROC_SERVER"):
        from vz.ops import procfiles

        plan.proc_files = procfiles.externals(ct)
    record.externals = plan.devices + plan.proc_files + mount.host_mounts(ct)
    plan.pty_max = limits.pty_limit(ct)
    plan.rlimits = record.rlimits
    plan.shm_bytes = limits.shm_bytes(ct)
    plan.user_limits = limits.user_limits()
    plan.program = seccomp_program(ct.conf, pidfds=not systemd.must_not_see_pidfds(ct.root))
    plan.dropped = dropped_capabilities(ct.conf.capability)
    plan.nesting = bool(ct.conf.features and ct.conf.features.get("nesting"))
    guest_config = guestfiles.guest_config(ct)

    def last_step() -> None:
        guest.configure(guest_config)
        guest.skip_fsck()
        if wait:
            guest.enable_wait()

    plan.last_step = last_step
    if ct.conf.ip_addr:
        from vz import net

        plan.network = net.inside_step(ct)
    return plan


def inside_path() -> str:
    return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def forget(ct: Container) -> None:
    """Remove the run record of a CT that did not come up."""
    from vz.ops.settle import clear, forget_run

    ct.forget_record()
    clear(ct)
    forget_run(ct)


def kill(ct: Container) -> None:
    """End a CT that runs but must not."""
    cgroups.kill_all(ct)
