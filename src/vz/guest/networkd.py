"""systemd-networkd's ``.network`` file and NetworkManager's "leave it alone", for venet0; text to text."""

from __future__ import annotations

FOLDER = "/etc/systemd/network"
FILE = f"{FOLDER}/10-venet0.network"
NM_FOLDER = "/etc/NetworkManager/conf.d"
NM_FILE = f"{NM_FOLDER}/90-venet0.conf"


def network_file(addresses: list[str]) -> str:
    """Return the .network file that keeps systemd-networkd, where it is on, at the addresses that are there already.

    KeepConfiguration: its start, stop and restart must not take them away for a moment.  See systemd.network(5).
    """
    lines = ["[Match]", "Name=venet0", "", "[Network]", "LinkLocalAddressing=no", "IPv6AcceptRA=no"]
    lines.append("KeepConfiguration=yes")
    for address in addresses:
        if ":" in address:  # no duplicate address detection: usable at once
            lines += ["", "[Address]", f"Address={address}/128", "DuplicateAddressDetection=none"]
        else:
            lines += ["", "[Address]", f"Address={address}/32"]
    if any(":" not in address for address in addresses):
        lines += ["", "[Route]", "Destination=0.0.0.0/0", "Scope=link"]
    if any(":" in address for address in addresses):
        lines += ["", "[Route]", "Destination=::/0"]
    return "\n".join(lines) + "\n"


def unmanaged_file() -> str:
    """Return the snippet that keeps NetworkManager away from venet0; see NetworkManager.conf(5).

    Its own rule for the veth driver comes from udev, which does not run in a CT.
    """
    comment = "# made by vz: the addresses of venet0 are set from outside\n"
    return f"{comment}[keyfile]\nunmanaged-devices+=interface-name:venet0\n"
