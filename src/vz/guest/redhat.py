"""Network files of RHEL and CentOS 5 to 9: ``ifcfg-venet0`` and its aliases; text to text."""

from __future__ import annotations


def interface_files(addresses: list[str]) -> dict[str, str]:
    """Return {file name: text} for /etc/sysconfig/network-scripts.

    One alias per IPv4 address, as vzctl wrote them; all IPv6 addresses in the main file.  NM_CONTROLLED=no keeps
    NetworkManager (RHEL 7 to 9) away: the addresses are there before it starts.
    """
    v6 = [address for address in addresses if ":" in address]
    main = ["DEVICE=venet0", "BOOTPROTO=static", "ONBOOT=yes", "IPADDR=127.0.0.1", "NETMASK=255.255.255.255"]
    main += ["BROADCAST=0.0.0.0", "ARPCHECK=no", "NM_CONTROLLED=no"]
    if v6:
        main += ["IPV6INIT=yes", f"IPV6ADDR={v6[0]}/128", "IPV6_DEFAULTDEV=venet0"]
        if len(v6) > 1:
            main.append('IPV6ADDR_SECONDARIES="' + " ".join(f"{address}/128" for address in v6[1:]) + '"')
    found = {"ifcfg-venet0": "\n".join(main) + "\n", "route-venet0": "default dev venet0\n"}
    for index, address in enumerate(a for a in addresses if ":" not in a):
        lines = [f"DEVICE=venet0:{index}", "ONBOOT=yes", f"IPADDR={address}", "NETMASK=255.255.255.255", "ARPCHECK=no"]
        found[f"ifcfg-venet0:{index}"] = "\n".join([*lines, "NM_CONTROLLED=no"]) + "\n"
    return found


def network_file(old: str, hostname: str) -> str:
    """Return /etc/sysconfig/network with NETWORKING on and HOSTNAME set; other lines are kept."""
    lines = [line for line in old.splitlines() if not line.startswith(("HOSTNAME=", "NETWORKING=", "GATEWAYDEV="))]
    return "\n".join([*lines, "NETWORKING=yes", f'HOSTNAME="{hostname}"', "GATEWAYDEV=venet0"]) + "\n"
