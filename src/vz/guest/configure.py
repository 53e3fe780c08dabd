"""What the CT's own files must say: host name, name servers, its interfaces, its machine id; and for ``start --wait``.

The addresses are on the interfaces before init starts; the files only keep the distribution's own network service
of the same mind.  Each step fails by itself: a CT with odd files starts all the same.
"""

from __future__ import annotations

import os

from vz.config.netif import Netif
from vz.guest import debian, files, networkd, redhat
from vz.kernel.process import close_from

FIFO = "/.vzfifo"
SSH_KEYGEN = "/usr/bin/ssh-keygen"
WAIT_LINE = f"vz:2345:once:touch {FIFO}\n"
OLD_HOSTS_MARK = "# Auto-generated hostname. Please do not remove this comment."


class GuestConfig:
    """What to write; empty means: leave the file alone.

    *family* is ``debian``, ``redhat``, ``other``, or "" for what the root shows; *by_script* names the actions
    (ADD_IP, SET_HOSTNAME, SET_DNS) that a script of the admin's carries out instead.
    """

    __slots__ = ("addresses", "by_script", "family", "hostname", "nameservers", "netifs", "searchdomains")

    def __init__(self) -> None:
        self.hostname = ""
        self.addresses: list[str] = []
        self.nameservers: list[str] = []
        self.searchdomains: list[str] = []
        self.netifs: list[Netif] = []
        self.family = ""
        self.by_script: frozenset[str] = frozenset()


def family() -> str:
    """Return ``debian``, ``redhat`` or ``other`` from what the root holds."""
    if os.path.isdir("/etc/sysconfig/network-scripts") or os.path.exists("/etc/redhat-release"):
        return "redhat"
    if os.path.exists("/etc/debian_version") or os.path.isdir("/etc/network"):
        return "debian"
    return "other"


def configure(config: GuestConfig) -> list[str]:
    """Write what *config* says into the root that this process is in; return a line per step that failed."""
    kind = config.family or family()
    steps = [_machine_id]
    if config.hostname and "SET_HOSTNAME" not in config.by_script:
        steps += [lambda: _hostname(config), lambda: _hosts(config)]
    if (config.nameservers or config.searchdomains) and "SET_DNS" not in config.by_script:
        steps.append(lambda: _resolv_conf(config))
    if "ADD_IP" not in config.by_script:
        steps += [lambda: _ifupdown(config, kind), lambda: _ifcfg(config, kind), lambda: _network_services(config)]
    if not os.path.exists("/dev/tty1"):
        steps += [_inittab, _upstart_consoles]
    failed = []
    for step in steps:
        try:
            step()
        except OSError as exc:
            failed.append(f"{exc.filename or 'a file'}: {exc.strerror}")
    return failed


def prepare_new() -> None:
    """Make the machine id, which must differ between CTs of one template."""
    try:
        _machine_id()
    except OSError:
        pass  # a root with something odd in its place; the start says so


def missing_host_keys() -> list[str]:
    """Return the kinds of ssh host key that the root lacks and can make."""
    if not files.is_executable(SSH_KEYGEN) or not os.path.isdir("/etc/ssh"):
        return []
    # no RSA key: it takes as long as everything else together, and no client of the last ten years needs it
    return [kind for kind in ("ed25519", "ecdsa") if not os.path.lexists(f"/etc/ssh/ssh_host_{kind}_key")]


def make_host_keys(kinds: list[str]) -> None:
    """Make ssh host keys by the root's own ssh-keygen.

    It is a program of the template: the caller runs this in a process that is shut in as any process of a CT is.
    """
    running = []
    for kind in kinds:
        argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", f"/etc/ssh/ssh_host_{kind}_key"]
        pid = os.fork()
        if pid == 0:
            try:
                null = os.open("/dev/null", os.O_RDWR)
                for fd in range(3):
                    os.dup2(null, fd)
                close_from(3)
                os.execve(SSH_KEYGEN, argv, {"PATH": "/usr/bin:/bin", "HOME": "/root"})
            finally:
                os._exit(127)
        running.append(pid)
    for pid in running:
        os.waitpid(pid, 0)


def enable_wait() -> None:
    """Let a sysvinit or upstart CT touch /.vzfifo when its runlevel is reached (systemd is asked instead)."""
    if os.path.isdir("/etc/init") and not os.path.exists("/etc/inittab"):
        text = f"start on stopped rc RUNLEVEL=[2345]\ntask\nexec touch {FIFO}\n"
        files.write("/etc/init/vz_init_done.conf", text)
    text = files.read("/etc/inittab") or ""
    if text and WAIT_LINE not in text:
        files.write("/etc/inittab", text.rstrip("\n") + "\n" + WAIT_LINE)
    try:
        os.unlink(FIFO)
    except FileNotFoundError:
        pass


def skip_fsck() -> None:
    """Make /fastboot, by which sysvinit's scripts know that the root is not theirs to check."""
    try:
        files.write("/fastboot", "")
    except OSError:
        pass  # something odd in its place: then they look, and find no device


def _machine_id() -> None:
    """An empty or absent /etc/machine-id gets 32 random hex digits where a systemd or dbus will look for it."""
    if not any(os.path.exists(path) for path in ("/usr/lib/systemd", "/lib/systemd", "/usr/bin/dbus-daemon")):
        return
    text = files.read("/etc/machine-id")
    if text is None or text.strip() in ("", "uninitialized"):
        files.write("/etc/machine-id", os.urandom(16).hex() + "\n", 0o444)


def _hostname(config: GuestConfig) -> None:
    files.write("/etc/hostname", config.hostname + "\n")


def _hosts(config: GuestConfig) -> None:
    files.write("/etc/hosts", hosts_text(files.read("/etc/hosts") or "", config.hostname, config.addresses))


def hosts_text(old: str, hostname: str, addresses: list[str]) -> str:
    """Return /etc/hosts with a line for the CT's own name between our marks; all other lines are kept."""
    address = next((a for a in addresses if ":" not in a), addresses[0] if addresses else "127.0.1.1")
    short = hostname.partition(".")[0]
    names = hostname if short == hostname else f"{hostname} {short}"
    kept = _without_old_name(debian.without_block(old))
    if not any(line.split()[:1] == ["127.0.0.1"] for line in kept.split("\n")):
        kept = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n" + kept
    return debian.with_block(kept, f"{address} {names}\n")


def _without_old_name(text: str) -> str:
    """Return /etc/hosts without the comment and the line after it by which OpenVZ named the CT."""
    lines = text.split("\n")
    if OLD_HOSTS_MARK in lines:
        at = lines.index(OLD_HOSTS_MARK)
        del lines[at : at + 2]
    return "\n".join(lines)


def _resolv_conf(config: GuestConfig) -> None:
    lines = []
    if config.searchdomains:
        lines.append("search " + " ".join(config.searchdomains))
    lines += [f"nameserver {address}" for address in config.nameservers]
    files.write("/etc/resolv.conf", "\n".join(lines) + "\n")


def _ifupdown(config: GuestConfig, kind: str) -> None:
    path = "/etc/network/interfaces"
    if kind == "debian" and os.path.isdir("/etc/network"):
        old = files.read(path)
        if old is not None or config.addresses:
            files.write(path, debian.interfaces(old or "", config.addresses))


def _ifcfg(config: GuestConfig, kind: str) -> None:
    if kind != "redhat":
        return
    wanted = redhat.interface_files(config.addresses) if os.path.isdir(redhat.FOLDER) else {}
    for name in os.listdir(redhat.FOLDER) if os.path.isdir(redhat.FOLDER) else ():
        if redhat.is_ours(name) and name not in wanted:
            files.remove(f"{redhat.FOLDER}/{name}")
    for name, text in wanted.items():
        files.write(f"{redhat.FOLDER}/{name}", text)
    old = files.read(redhat.NETWORK_FILE)
    if wanted or old is not None:  # the host name of RHEL 5 and 6 is there, too
        files.write(redhat.NETWORK_FILE, redhat.network_file(old or "", config.hostname, config.addresses))


def _network_services(config: GuestConfig) -> None:
    """systemd-networkd and NetworkManager, of whatever distribution."""
    for folder, path, text in (
        (networkd.FOLDER, networkd.FILE, networkd.network_file(config.addresses)),
        (networkd.NM_FOLDER, networkd.NM_FILE, networkd.unmanaged_file()),
    ):
        if not os.path.isdir(folder):
            continue
        if config.addresses:
            files.write(path, text)
        else:
            files.remove(path)


def _upstart_consoles() -> None:
    old = files.read(redhat.INIT_FILE)
    if old:
        files.write(redhat.INIT_FILE, redhat.init_file(old))


def _inittab() -> None:
    """Take the gettys on consoles that a CT has not out of /etc/inittab: they would be started again and again."""
    old = files.read("/etc/inittab")
    if not old:
        return
    files.write("/etc/inittab", without_gettys(old))


def without_gettys(old: str) -> str:
    """Return an inittab whose getty lines on tty1..tty9 are comments."""
    lines = []
    for line in old.split("\n"):
        fields = line.split(":")
        words = fields[3].split() if len(fields) >= 4 and not line.startswith("#") else []
        is_getty = bool(words) and "getty" in words[0] and any(f"tty{number}" in words for number in range(1, 10))
        lines.append("#vz# " + line if is_getty else line)
    return "\n".join(lines)
