"""Edits to a CT's own files, made by a process that is in the CT's root with the CT's ids: no link leads outside."""

from __future__ import annotations

from vz.guest.configure import (
    GuestConfig,
    configure,
    enable_wait,
    make_host_keys,
    missing_host_keys,
    prepare_new,
    skip_fsck,
)
from vz.guest.password import hash_password, set_password

__all__ = [
    "GuestConfig",
    "configure",
    "enable_wait",
    "hash_password",
    "make_host_keys",
    "missing_host_keys",
    "prepare_new",
    "set_password",
    "skip_fsck",
]
