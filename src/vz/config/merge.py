"""What a multi-valued option becomes when ``set`` gives more of it: the conf's value and the new one together."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def merge(attr: str, old: Any, new: Any) -> Any:
    """Return the value to store for *attr*, with *new* from the command line over *old* from the conf.

    Switches change by name, devices by number, device nodes by name (``none`` stays, so that the change is applied);
    everything else is replaced.
    """
    if old is None:
        return new
    if attr in ("capability", "features"):
        return {**old, **new}
    if attr == "devices":
        entries = {word.rpartition(":")[0]: word for word in old}
        entries.update({word.rpartition(":")[0]: word for word in new})
        return list(entries.values())
    if attr == "devnodes":
        return list({**dict(old), **dict(new)}.items())
    return new


def merge_addresses(old: list[str], delete: list[str], add: list[str]) -> list[str]:
    """Return the addresses after ``--ipdel`` *delete* (``["all"]`` for every one), then ``--ipadd`` *add*.

    An address that is there with another mask changes its mask in place.
    """
    kept = [] if delete == ["all"] else [word for word in old if word.partition("/")[0] not in delete]
    plain = [word.partition("/")[0] for word in kept]
    for word in add:
        address = word.partition("/")[0]
        if address in plain:
            kept[plain.index(address)] = word
        else:
            kept.append(word)
            plain.append(address)
    return kept
