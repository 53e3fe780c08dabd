"""Network files of RHEL, CentOS and Fedora as OpenVZ wrote them: ``ifcfg-venet0`` and its aliases; text to text.

The network service of RHEL 5 to 7 (and of the network-scripts package of 8) reads them with a shell.
"""

from __future__ import annotations

FOLDER = "/etc/sysconfig/network-scripts"
NETWORK_FILE = "/etc/sysconfig/network"
INIT_FILE = "/etc/sysconfig/init"
# the gateway that OpenVZ made up, in files of imported CTs
_OLD_GATEWAYS = ("191.255.255.1", "192.0.2.1")


def interface_files(addresses: list[str]) -> dict[str, str]:
    """Return {file name: text} for /etc/sysconfig/network-scripts; nothing where there is no address.

    An alias per IPv4 address, all IPv6 addresses as secondaries of the main file: scripts of many years read them
    there.  ARPCHECK=no: nobody answers on a routed interface, and the check takes seconds.  NM_CONTROLLED=no keeps
    NetworkManager away.
    """
    if not addresses:
        return {}
    v4 = [address for address in addresses if ":" not in address]
    v6 = [address for address in addresses if ":" in address]
    main = ["DEVICE=venet0", "BOOTPROTO=static", "ONBOOT=yes", "IPADDR=127.0.0.1", "NETMASK=255.255.255.255"]
    main += ["BROADCAST=0.0.0.0", "ARPCHECK=no", "NM_CONTROLLED=no"]
    if v6:
        main += ['IPV6INIT="yes"', "IPV6_AUTOCONF=no"]
        main.append('IPV6ADDR_SECONDARIES="' + " ".join(f"{address}/128" for address in v6) + '"')
    found = {"ifcfg-venet0": _lines(main)}
    if v4:
        found["route-venet0"] = "default dev venet0\n"
    for index, address in enumerate(v4):
        lines = [f"DEVICE=venet0:{index}", "ONBOOT=yes", f"IPADDR={address}", "NETMASK=255.255.255.255"]
        found[f"ifcfg-venet0:{index}"] = _lines([*lines, "ARPCHECK=no", "NM_CONTROLLED=no"])
    return found


def is_ours(name: str) -> bool:
    """Tell whether *name*, a file of network-scripts, is one that interface_files makes."""
    number = name.removeprefix("ifcfg-venet0:")
    return name in ("ifcfg-venet0", "route-venet0") or (number != name and number.isdigit())


def network_file(old: str, hostname: str, addresses: list[str]) -> str:
    """Return /etc/sysconfig/network with what *hostname* and *addresses* call for; all other lines are kept.

    An empty *hostname* leaves the one that is there.
    """
    wanted = {"NETWORKING": "yes"}
    if hostname:
        wanted["HOSTNAME"] = hostname
    if any(":" not in address for address in addresses):
        wanted["GATEWAYDEV"] = "venet0"
    if any(":" in address for address in addresses):
        wanted["NETWORKING_IPV6"] = "yes"
        wanted["IPV6_DEFAULTDEV"] = "venet0"
    lines = []
    for line in old.split("\n"):
        key, equals, value = line.strip().partition("=")
        bare = value.strip("\"'")
        if equals and key in wanted:
            lines.append(f'{key}="{wanted.pop(key)}"')
        elif key in ("GATEWAYDEV", "IPV6_DEFAULTDEV") and bare == "venet0":
            continue  # an address that is gone
        elif key == "GATEWAY" and bare in _OLD_GATEWAYS:
            continue
        elif line:
            lines.append(line)
    return _lines(lines + [f'{key}="{value}"' for key, value in wanted.items()])


def init_file(old: str) -> str:
    """Return /etc/sysconfig/init without gettys on the consoles that a CT has not (upstart of RHEL 6)."""
    lines = old.split("\n")
    return "\n".join("ACTIVE_CONSOLES=" if line.startswith("ACTIVE_CONSOLES=/dev/tty") else line for line in lines)


def _lines(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
