"""Network set-up by the usual tools, one process each: ``ip -batch -`` per namespace and ``nft -f -``."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os

from .process import spawn


def ip_batch(lines: list[str], *, netns_fd: int | None = None) -> None:
    """Feed *lines* to one ``ip -batch -``, inside *netns_fd* if given; see ip(8).

    Raises:
        OSError: EINVAL with ip's own message and the line that it refused; lines before it took effect.
    """
    result = spawn(["ip", "-batch", "-"], stdin=("\n".join(lines) + "\n").encode(), netns_fd=netns_fd, timeout_s=30)
    if result.status:
        words = [line for line in result.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        message = words[0].removeprefix("RTNETLINK answers: ").removeprefix("Error: ") if words else "ip failed"
        refused = ""
        for word in words:
            if word.startswith("Command failed") and word.rpartition(":")[2].isdigit():
                refused = lines[int(word.rpartition(":")[2]) - 1]
        raise OSError(errno.EINVAL, message.rstrip("."), refused or None)


def nft(script: str) -> None:
    """Run the nftables *script* as one transaction; OSError EINVAL with nft's own first line."""
    result = spawn(["nft", "-f", "-"], stdin=script.encode(), timeout_s=60)
    if result.status:
        words = result.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OSError(errno.EINVAL, words[0] if words else f"nft ended with status {result.status}")


SIOCGIFFLAGS = 0x8913
SIOCGIFHWADDR = 0x8927
IFF_UP, IFF_BROADCAST, IFF_NOARP = 0x1, 0x2, 0x80


def device_names() -> list[str]:
    """Return the interfaces of this network namespace (not /sys, which may show another's)."""
    return [name for _, name in _socket.if_nameindex()]


def device_exists(name: str) -> bool:
    """Tell whether this network namespace has the interface *name*."""
    try:
        return _socket.if_nametoindex(name) > 0
    except OSError:
        return False


def device_flags(name: str) -> int:
    """Return the IFF_ flags of *name*; see netdevice(7).  ENODEV: there is no such interface."""
    return int.from_bytes(_interface_ioctl(SIOCGIFFLAGS, name)[16:18], "little")


def device_address(name: str) -> bytes:
    """Return the MAC of *name*; ENODEV: there is no such interface."""
    return _interface_ioctl(SIOCGIFHWADDR, name)[18:24]


def _interface_ioctl(request: int, name: str) -> bytes:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        return fcntl.ioctl(sock.fileno(), request, name.encode()[:15].ljust(40, b"\0"))
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, name) from None
    finally:
        sock.close()


def read_sysctl(name: str) -> str:
    """Return the value of the sysctl *name* (with slashes); "" when there is none."""
    try:
        with open(f"/proc/sys/{name}", "rb") as file:
            return file.read().decode("ascii", "replace").strip()
    except OSError:
        return ""


def write_sysctl(name: str, value: str) -> None:
    fd = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
