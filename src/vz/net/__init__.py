"""A CT's network: venet0 (routed), veth (bridged), host devices moved in, and the filter that keeps it honest.

What start, stop and mending call is here; changes to a running CT are in ``live``.
"""

from __future__ import annotations

from vz.net.connect import announce, ask_neighbours, attach, begin_probe, detach, inside_step, restore_host_side

__all__ = ["announce", "ask_neighbours", "attach", "begin_probe", "detach", "inside_step", "restore_host_side"]
