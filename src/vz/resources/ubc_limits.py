"""The beancounters of a CT brought into force: the whole set when it starts, those that change while it runs.

``limits`` has the cgroups' part, ``rlimits`` the processes', ``guestlimits`` the namespaces'.  What is in force is
noted in /run/vz/CTID/ub, and what processes are held to in the record, for exec.
"""

from __future__ import annotations

from vz.config import ubc
from vz.config.units import UNLIMITED
from vz.container.ct import Container
from vz.container.record import Record
from vz.resources import ubfile

_DERIVED_FROM = frozenset(("physpages", "swappages", "vm_overcommit"))


def asked(ct: Container) -> dict[str, tuple[int, int]]:
    """Return the counters that the CT's configuration limits itself, or by VM_OVERCOMMIT."""
    limits = ubc.effective(ct.conf)
    names = {name for name in ubc.NAMES if name.upper() in ct.conf.values or name in ct.conf.__dict__}
    if "VM_OVERCOMMIT" in ct.conf.values or "vm_overcommit" in ct.conf.__dict__:
        names.add("privvmpages")
    return {name: limits[name] for name in ubc.NAMES if name in names and min(limits[name]) < UNLIMITED}


def process_limits(ct: Container) -> dict[int, int]:
    """Return {RLIMIT_ number: hard limit} that the CT's processes are born with."""
    limits = asked(ct)
    if not limits:
        return {}
    from vz.resources import rlimits

    return rlimits.wanted(limits)


def begin(ct: Container, init_pid: int) -> None:
    """Bring into force what lives in the namespaces of a CT that is born, and note all limits.

    Raises:
        VzError: the kernel refused one (1).
    """
    limits = asked(ct)
    if limits:
        ubfile.set_limits(ct.ctid, ubc.effective(ct.conf))
    names = {name for name in limits if limits[name][1] < UNLIMITED} & {"shmpages", "tcpsndbuf", "tcprcvbuf"}
    if names:
        from vz.resources import guestlimits

        guestlimits.apply(ct, init_pid, limits, names, born=True)


def _was_limited(kept: ubfile.Kept | None) -> bool:
    return kept is not None and kept.limits is not None and kept.limits[1] < UNLIMITED


def change(ct: Container, record: Record, changed: set[str]) -> None:
    """Bring the beancounters that *changed* names into force on a running CT; its configuration has them already.

    Raises:
        VzError: the kernel refused one (1).
    """
    from vz.resources import guestlimits, limits, rlimits

    effective = ubc.effective(ct.conf)
    names = changed & set(ubc.NAMES)
    if names:
        limits.apply(ct, set(names))
    if changed & _DERIVED_FROM:
        derived = {"lockedpages", "oomguarpages", "vmguarpages"}
        if ct.conf.vm_overcommit:
            derived.add("privvmpages")
        names |= {name for name in derived if name.upper() not in ct.conf.values and name not in ct.conf.__dict__}
    held = names & rlimits.NUMBERS.keys()
    if held:
        said = asked(ct)  # what VSwap derives from RAM holds by the limit of that already
        wanted = rlimits.wanted({name: said[name] for name in held if name in said})
        numbers = {rlimits.NUMBERS[name]: wanted.get(rlimits.NUMBERS[name]) for name in held}
        rlimits.apply_live(ct, numbers)
        for number, value in numbers.items():
            if value is None:
                record.rlimits.pop(number, None)
            else:
                record.rlimits[number] = value
        record.save()
    before = ubfile.read(ct.ctid)
    never = {name for name in names if effective[name][1] >= UNLIMITED and not _was_limited(before.get(name))}
    in_guest = names & guestlimits.ATTRS - never
    if in_guest:
        if effective["numpty"][1] >= UNLIMITED:
            effective["numpty"] = (limits.PTY_DEFAULT, limits.PTY_DEFAULT)
        guestlimits.apply(ct, record.init_pid, effective, in_guest, born=False)
    ubfile.set_limits(ct.ctid, {name: effective[name] for name in names})
