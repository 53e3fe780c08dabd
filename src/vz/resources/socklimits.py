"""numtcpsock and numothersock: Internet sockets of a CT, counted and refused by BPF programs on its cgroup.

Only a CT with one of the two limits has the programs.  Connections that a listener takes are counted, not refused; Unix
and netlink sockets are not seen.  A connection that its listener drops before accept(2) is never counted down: near the
limit, whoever reads the counter counts anew.
"""

from __future__ import annotations

from vz.config.units import UNLIMITED
from vz.container.ct import Container
from vz.errors import ExitCode, VzError
from vz.kernel import bpf_sockets
from vz.kernel.bpf_sockets import OTHER, STREAM, Maps
from vz.resources.cgroups import ct_dir

KEYS = {"numtcpsock": STREAM, "numothersock": OTHER}
Limits = dict[str, tuple[int, int]]
_available: bool | None = None


def available() -> bool:
    """Tell whether this kernel lets us count sockets."""
    global _available
    if _available is None:
        try:
            bpf_sockets.probe()
            _available = True
        except OSError:
            _available = False
    return _available


def apply(ct: Container, limits: Limits, *, running: bool) -> None:
    """Set the limits of numtcpsock and numothersock among *limits*; nothing where this kernel cannot.

    Raises:
        VzError: the kernel refused (1).
    """
    wanted = {name: limits[name][1] for name in KEYS if name in limits}
    try:
        maps = bpf_sockets.find(ct_dir(ct)) if running else None
        if maps is None:
            if all(limit >= UNLIMITED for limit in wanted.values()) or not available():
                return
            maps = bpf_sockets.attach(ct_dir(ct))
            if running:
                count_anew(ct, maps)
        try:
            for name, limit in wanted.items():
                maps.set_limit(KEYS[name], min(limit, UNLIMITED))
        finally:
            maps.close()
    except OSError as exc:
        text = f"Unable to set {', '.join(wanted)}: {exc.filename or ''} {exc.strerror}"
        raise VzError(text, ExitCode.SETUBC_ERROR) from exc


def counter(ct: Container, name: str, limit: int) -> tuple[int, int, int] | None:
    """Return (held, maxheld, failcnt) of numtcpsock or numothersock of a CT that has the programs, else None."""
    try:
        maps = bpf_sockets.find(ct_dir(ct))
    except OSError:
        return None
    if maps is None:
        return None
    try:
        held, most, failed = maps.read(KEYS[name])
        if held * 10 >= limit * 9:
            count_anew(ct, maps)
            held = min(held, maps.read(KEYS[name])[0])
        return held, most, failed
    finally:
        maps.close()


def count_anew(ct: Container, maps: Maps) -> None:
    """Set what is held to the sockets that the CT's processes have open."""
    from vz.resources import census

    found = {STREAM: 0, OTHER: 0}
    for protocol in census.socket_protocols(ct).values():
        if protocol.startswith((b"TCP", b"MPTCP", b"SCTP")):
            found[STREAM] += 1
        elif protocol.startswith((b"UDP", b"RAW", b"PING")):
            found[OTHER] += 1
    for key, held in found.items():
        if maps.read(key)[0] != held:
            maps.set_held(key, held)
