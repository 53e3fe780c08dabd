"""Where things are; fixed, since a test node is a mount namespace with its own."""

from __future__ import annotations

ETC = "/etc/vz"
VZ_CONF = f"{ETC}/vz.conf"
CONF_DIR = f"{ETC}/conf"
NAMES_DIR = f"{ETC}/names"
DISTS_DIR = f"{ETC}/dists"
RUN = "/run/vz"
STATE = "/var/lib/vzctl"
EVENTD = f"{RUN}/eventd"  # the node daemon's socket
REBOOT_MARKS = f"{STATE}/vzreboot"  # a file for each CT that is to be started again
