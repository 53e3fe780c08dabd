"""What of the network is not netlink: ioctls of interfaces, sysctls, and nft(8) for whole tables."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os

from .process import spawn


def nft(script: str) -> None:
    """Run the nftables *script* as one transaction; OSError EINVAL with nft's own first line."""
    result = spawn(["nft", "-f", "-"], stdin=script.encode(), timeout_s=60)
    if result.status:
        words = result.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OSError(errno.EINVAL, words[0] if words else f"nft ended with status {result.status}")


SIOCGIFFLAGS = 0x8913
SIOCGIFADDR = 0x8915
SIOCGIFHWADDR = 0x8927


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


def device_ipv4(name: str) -> bytes:
    """Return the first IPv4 address of *name*, four zeros when it has none."""
    try:
        return _interface_ioctl(SIOCGIFADDR, name)[20:24]
    except OSError as exc:
        if exc.errno == errno.EADDRNOTAVAIL:
            return bytes(4)
        raise


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
