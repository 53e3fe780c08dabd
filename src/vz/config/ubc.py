"""Beancounters as a configuration has them: rows and their order, and what counts where a conf leaves one out.

The rules of VSwap are vzctl(8)'s: a conf that limits physpages needs swappages, and the counters that it does not name
follow from the two.
"""

from __future__ import annotations

from vz.config.units import UNLIMITED
from vz.errors import ExitCode, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.config.ctconfig import CTConfig

# the order of /proc/user_beancounters; rows named "dummy" are zeros
PROC_ROWS = (
    "kmemsize lockedpages privvmpages shmpages dummy numproc physpages vmguarpages oomguarpages numtcpsock numflock "
    "numpty numsiginfo tcpsndbuf tcprcvbuf othersockbuf dgramrcvbuf numothersock dcachesize numfile dummy dummy dummy "
    "numiptent swappages"
).split()
NAMES = tuple(name for name in PROC_ROWS if name != "dummy")
NOTHING_SAID = (UNLIMITED, UNLIMITED)
# a configuration without VSwap names all of these, or none
NEEDED = tuple(name for name in NAMES if name not in ("physpages", "swappages"))


def is_vswap(conf: CTConfig) -> bool:
    """Tell whether *conf* is a VSwap configuration: one that limits physpages."""
    ram = conf.physpages
    return ram is not None and ram[1] < UNLIMITED


def effective(conf: CTConfig) -> dict[str, tuple[int, int]]:
    """Return {counter: (barrier, limit)} of *conf*, with what VSwap derives and ``unlimited`` where nothing is said."""
    found = {name: _said(conf, name) or NOTHING_SAID for name in NAMES}
    if not is_vswap(conf):
        return found
    ram = found["physpages"][1]
    total = min(ram + found["swappages"][1], UNLIMITED)
    filled = {"lockedpages": (ram, ram), "oomguarpages": (ram, UNLIMITED), "vmguarpages": (total, UNLIMITED)}
    factor = conf.vm_overcommit if "VM_OVERCOMMIT" in conf.values or "vm_overcommit" in conf.__dict__ else None
    if factor:
        most = min(int(total * factor), UNLIMITED)
        filled["privvmpages"] = (most, most)
    for name, value in filled.items():
        if _said(conf, name) is None:
            found[name] = value
    return found


def _said(conf: CTConfig, attr: str) -> tuple[int, int] | None:
    """Return the value of *attr*; a key that is not there need not be parsed."""
    if attr not in conf.__dict__ and attr.upper() not in conf.values:
        return None
    value: tuple[int, int] | None = getattr(conf, attr)
    return value


def check_complete(conf: CTConfig) -> None:
    """Refuse a set of limits that cannot be meant.

    A conf that says nothing at all is one: the node's own ceilings hold then.

    Raises:
        VzError: VSwap without swappages, or some of the beancounters without the others (28).
    """
    code = ExitCode.NOTENOUGHUBCPARAMS
    if is_vswap(conf):
        if _said(conf, "swappages") is None:
            raise VzError("Error: required UB parameter swap not set", code)
        return
    said = [name for name in NEEDED if _said(conf, name) is not None]
    # numproc and numpty alone are limits of their own, which any conf may have
    if set(said) <= {"numproc", "numpty"}:
        return
    missing = [name for name in NEEDED if name not in said]
    if missing:
        raise VzError(f"Error: required UB parameter {missing[0]} not set", code)
