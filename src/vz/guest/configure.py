"""What the CT's own files must say: host name, name servers, its interfaces, its machine id; and for ``start --wait``.

The addresses are on the interfaces before init starts; the files only keep the distribution's own network service
of the same mind.  Each step fails by itself: a CT with odd files starts all the same.
"""

from __future__ import annotations

import os

from vz.config.netif import Netif
from vz.guest import debian, files, redhat

FIFO = "/.vzfifo"
WAIT_LINE = f"vz:2345:once:touch {FIFO}\n"


class GuestConfig:
    """What to write; empty means: leave the file alone."""

    __slots__ = ("hostname", "addresses", "nameservers", "searchdomains", "netifs")

    def __init__(self) -> None:
        self.hostname = ""
        self.addresses: list[str] = []
        self.nameservers: list[str] = []
        self.searchdomains: list[str] = []
        self.netifs: list[Netif] = []


def family() -> str:
    """Return ``debian``, ``redhat`` or ``other`` from what the root holds."""
    if os.path.isdir("/etc/sysconfig/network-scripts") or os.path.exists("/etc/redhat-release"):
        return "redhat"
    if os.path.exists("/etc/debian_version") or os.path.isdir("/etc/network"):
        return "debian"
    return "other"


def configure(config: GuestConfig) -> list[str]:
    """Write what *config* says into the root that this process is in; return a line per step that failed."""
    kind = family()
    steps = [_machine_id]
    if config.hostname:
        steps += [lambda: _hostname(config, kind), lambda: _hosts(config)]
    if config.nameservers or config.searchdomains:
        steps.append(lambda: _resolv_conf(config))
    if config.addresses:
        steps.append(lambda: _interfaces(config, kind))
    if not os.path.exists("/dev/tty1"):
        steps.append(_inittab)
    failed = []
    for step in steps:
        try:
            step()
        except OSError as exc:
            failed.append(f"{exc.filename or 'a file'}: {exc.strerror}")
    return failed


def prepare_new() -> None:
    """Make what must differ between CTs of one template: machine id and ssh host keys (by the CT's own ssh-keygen)."""
    _machine_id()
    if not files.is_executable("/usr/bin/ssh-keygen") or not os.path.isdir("/etc/ssh"):
        return
    # no RSA key: it takes as long as everything else together, and no client of the last ten years needs it
    missing = [kind for kind in ("ed25519", "ecdsa") if not os.path.exists(f"/etc/ssh/ssh_host_{kind}_key")]
    running = []
    for kind in missing:
        argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", f"/etc/ssh/ssh_host_{kind}_key"]
        pid = os.fork()
        if pid == 0:
            null = os.open("/dev/null", os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            os.closerange(3, 1 << 16)
            try:
                os.execve("/usr/bin/ssh-keygen", argv, {"PATH": "/usr/bin:/bin", "HOME": "/root"})
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


def _machine_id() -> None:
    """An empty or absent /etc/machine-id gets 32 random hex digits where a systemd or dbus will look for it."""
    if not (os.path.isdir("/usr/lib/systemd") or os.path.isdir("/lib/systemd") or os.path.exists("/usr/bin/dbus-daemon")):
        return
    text = files.read("/etc/machine-id")
    if text is None or text.strip() in ("", "uninitialized"):
        files.write("/etc/machine-id", os.urandom(16).hex() + "\n", 0o444)


def _hostname(config: GuestConfig, kind: str) -> None:
    files.write("/etc/hostname", config.hostname + "\n")
    if kind == "redhat" and os.path.exists("/etc/sysconfig/network"):
        files.write("/etc/sysconfig/network", redhat.network_file(files.read("/etc/sysconfig/network") or "", config.hostname))


def _hosts(config: GuestConfig) -> None:
    files.write("/etc/hosts", hosts_text(files.read("/etc/hosts") or "", config.hostname, config.addresses))


def hosts_text(old: str, hostname: str, addresses: list[str]) -> str:
    """Return /etc/hosts with a line for the CT's own name between our marks; all other lines are kept."""
    address = next((a for a in addresses if ":" not in a), addresses[0] if addresses else "127.0.1.1")
    short = hostname.partition(".")[0]
    names = hostname if short == hostname else f"{hostname} {short}"
    kept = debian.without_block(old)
    if not any(line.split()[:1] == ["127.0.0.1"] for line in kept.splitlines()):
        kept = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n" + kept
    return debian.with_block(kept, f"{address} {names}\n")


def _resolv_conf(config: GuestConfig) -> None:
    lines = []
    if config.searchdomains:
        lines.append("search " + " ".join(config.searchdomains))
    lines += [f"nameserver {address}" for address in config.nameservers]
    files.write("/etc/resolv.conf", "\n".join(lines) + "\n")


def _interfaces(config: GuestConfig, kind: str) -> None:
    if kind == "redhat":
        folder = "/etc/sysconfig/network-scripts"
        wanted = redhat.interface_files(config.addresses)
        for name in os.listdir(folder):
            if name.startswith("ifcfg-venet0") and name not in wanted:
                os.unlink(f"{folder}/{name}")
        for name, text in wanted.items():
            files.write(f"{folder}/{name}", text)
    elif kind == "debian" and os.path.isdir("/etc/network"):
        old = files.read("/etc/network/interfaces") or ""
        files.write("/etc/network/interfaces", debian.interfaces(old, config.addresses))
    if os.path.isdir("/etc/systemd/network"):
        files.write("/etc/systemd/network/10-venet0.network", debian.networkd(config.addresses))


def _inittab() -> None:
    """Take the gettys on consoles that a CT has not out of /etc/inittab: they would be started again and again."""
    old = files.read("/etc/inittab")
    if not old:
        return
    files.write("/etc/inittab", without_gettys(old))


def without_gettys(old: str) -> str:
    """Return an inittab whose getty lines on tty1..tty9 are comments."""
    lines = []
    for line in old.splitlines(keepends=True):
        fields = line.split(":")
        is_getty = len(fields) >= 4 and "getty" in fields[3] and any(f"tty{n}" in fields[3].split() for n in range(1, 10))
        lines.append("#vz# " + line if is_getty and not line.startswith("#") else line)
    return "".join(lines)
