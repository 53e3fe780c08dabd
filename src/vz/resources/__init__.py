"""Configured values into kernel limits: the CT's cgroups on either version, its devices, its filter."""

from __future__ import annotations

from vz.resources.devices import make_nodes, remove_nodes
from vz.resources.groups import (
    create,
    exists,
    freeze,
    is_frozen,
    join,
    join_exec,
    kill_all,
    remove,
    thaw,
)
from vz.resources.limits import apply, pty_limit, warnings

__all__ = [
    "apply",
    "create",
    "exists",
    "freeze",
    "is_frozen",
    "join",
    "join_exec",
    "kill_all",
    "make_nodes",
    "pty_limit",
    "remove",
    "remove_nodes",
    "thaw",
    "warnings",
]
