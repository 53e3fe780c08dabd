"""Node settings that hundreds of CTs need: one warning for each that is too low, with the file that raises it."""

from __future__ import annotations

from vz.config.paths import RUN
from vz.kernel.network import read_sysctl

# what one node needs at the least for a few dozen CTs; etc/sysctl.d/vz.conf sets more
NEEDED = (
    ("fs/inotify/max_user_instances", 1024),
    ("fs/inotify/max_user_watches", 65536),
    ("kernel/pid_max", 65536),
    ("kernel/pty/max", 4096),
    ("kernel/keys/maxkeys", 1000),
)


def warnings() -> list[str]:
    """Return the warnings, at most once per boot of the node: they are the admin's, not each CT's."""
    import os

    mark = f"{RUN}/hostcheck"
    if os.path.exists(mark):
        return []
    found = []
    for name, least in NEEDED:
        value = read_sysctl(name)
        if value.isdecimal() and int(value) < least:
            found.append(f"{name.replace('/', '.')}={value} (at least {least})")
    if read_sysctl("net/ipv4/ip_forward") == "0":
        found.append("net.ipv4.ip_forward=0 (1, or containers reach nobody but the node)")
    from vz.kernel.files import make_dirs

    make_dirs(RUN, 0o711)
    try:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        pass
    if not found:
        return []
    return [f"WARNING: too low on this node for many containers: {', '.join(found)}; see sysctl.d/vz.conf"]
