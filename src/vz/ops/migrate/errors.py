"""The exit statuses of vzmigrate(8); they are not those of vzctl."""

from __future__ import annotations

from vz.errors import VzError

USAGE = 1
STOPPED = 2  # the CT, with --online
CANT_CONNECT = 4
COPY_FAILED = 6
START_FAILED = 7  # or restore, on the destination
STOP_FAILED = CHECKPOINT = 8  # on the source
EXISTS = 9  # on the destination
MISSING = 10  # on the source
IP_IN_USE = 12
QUOTA = 13
NOT_RUNNING = 14  # vz, or something it needs, on either side
CONFIG_FAILED = 15  # on the destination
NO_PLOOP = 16
VERSION = 17
CPU = 18
NO_REMOTE_CONFIG = 19
LOCKED = 20


class MigrateFailed(VzError):
    """A migration that did not take place; *code* is of the table above."""
