"""What criu does not carry, or carries badly, saved into a dump beside its images and put back at the restore.

Files of the dump: ``network`` (routes in further tables, permanent neighbours, traffic control), ``firewall``
(nftables), ``scheduling`` (CPU affinity, I/O priority).
"""

from __future__ import annotations

import os

from vz.checkpoint import scheduling, store
from vz.container.ct import Container
from vz.container.record import Record
from vz.errors import ExitCode, VzError
from vz.net import carried, firewall
from vz.ops.report import warn
from vz.resources import cgroups


def save(ct: Container, record: Record, folder: str) -> None:
    """Save it all from the frozen CT into the dump *folder*."""
    network = carried.save(record.init_pid, [outside for outside, _ in record.netifs])
    if network.entries:
        store.write(folder, "network", network.dump())
    try:
        rules = carried.in_netns(record.init_pid, lambda: firewall.dump(firewall.save()))
    except OSError:
        pass  # criu's own copy has to do
    else:
        store.write(folder, "firewall", rules)
        for name in os.listdir(f"{folder}/images"):
            if name.startswith("nftables-"):
                os.unlink(f"{folder}/images/{name}")
    lines = scheduling.save(cgroups.pids(ct), cgroups.cpus(ct))
    if lines:
        store.write(folder, "scheduling", "".join(f"{line}\n" for line in lines))


def restore(ct: Container, record: Record, folder: str) -> None:
    """Put back, into the CT that is loaded and still frozen, what belongs inside.

    Raises:
        VzError: its packet filter cannot be made again (17): it must not run without.
    """
    rules = store.read_raw(folder, "firewall")
    if rules:
        try:
            requests = firewall.parse(rules)
            carried.in_netns(record.init_pid, lambda: _replay(requests))
        except (OSError, ValueError) as exc:
            what = f" ({exc.filename})" if isinstance(exc, OSError) and exc.filename else ""
            why = exc.strerror if isinstance(exc, OSError) else exc
            raise VzError(
                f"Unable to restore: the container's packet filter is refused: {why}{what}", ExitCode.RESTORE_ERROR
            ) from exc
    for line in carried.restore_inside(record.init_pid, _network(folder)):
        warn(f"WARNING: not restored: {line}")
    for line in scheduling.restore(cgroups.pids(ct), store.read(folder, "scheduling").splitlines()):
        warn(f"WARNING: not restored: {line}")


def _replay(requests: list[tuple[int, bytes]]) -> bytes:
    firewall.restore(requests)
    return b""


def restore_outside(folder: str, names: dict[str, str]) -> None:
    """Put back the traffic control of the CT's devices on the node, once these are up; *names*: old → present."""
    for line in carried.restore_outside(_network(folder), names):
        warn(f"WARNING: not restored: {line}")


def _network(folder: str) -> carried.Saved:
    try:
        return carried.Saved.parse(store.read_raw(folder, "network"))
    except ValueError as exc:
        raise VzError(f"Unable to restore: {folder}/network: {exc}", ExitCode.RESTORE_ERROR) from exc
