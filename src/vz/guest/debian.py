"""Network files of the Debian family: ifupdown's ``interfaces`` and systemd-networkd's ``.network``; text to text."""

from __future__ import annotations

BEGIN = "# BEGIN vz: made anew at each start of the container\n"
END = "# END vz\n"


def without_block(text: str) -> str:
    """Return *text* without the block between our marks."""
    start = text.find(BEGIN)
    if start < 0:
        return text
    end = text.find(END, start)
    return text[:start] if end < 0 else text[:start] + text[end + len(END) :]


def with_block(text: str, block: str) -> str:
    """Return *text* with *block* between our marks at its end."""
    if text and not text.endswith("\n"):
        text += "\n"
    return f"{text}{BEGIN}{block}{END}"


def interfaces(old: str, addresses: list[str]) -> str:
    """Return /etc/network/interfaces with venet0; stanzas of others for it go, all the rest stays.

    ``manual`` and idempotent commands: the addresses are there already when networking starts, and
    ``ifdown venet0; ifup venet0`` inside brings them back.
    """
    kept = _without_stanzas(without_block(old), "venet0")
    if not any(line.split()[:2] == ["iface", "lo"] for line in kept.splitlines()):
        kept = "auto lo\niface lo inet loopback\n\n" + kept
    block = ["auto venet0", "iface venet0 inet manual", "\tup ip link set venet0 up"]
    for address in addresses:
        length = 128 if ":" in address else 32
        suffix = " nodad" if ":" in address else ""
        block.append(f"\tup ip addr replace {address}/{length} dev venet0{suffix}")
    if any(":" not in address for address in addresses):
        block.append("\tup ip route replace default dev venet0")
    if any(":" in address for address in addresses):
        block.append("\tup ip -6 route replace default dev venet0")
    block.append("\tdown ip addr flush dev venet0 scope global")
    return with_block(kept, "\n".join(block) + "\n")


def networkd(addresses: list[str]) -> str:
    """Return the .network file that keeps systemd-networkd, where it is on, at the same addresses."""
    lines = ["[Match]", "Name=venet0", "", "[Network]", "LinkLocalAddressing=no", "IPv6AcceptRA=no", "KeepConfiguration=yes"]
    lines += [f"Address={address}/{128 if ':' in address else 32}" for address in addresses]
    for version, zero in ((4, "0.0.0.0/0"), (6, "::/0")):
        if any((":" in address) == (version == 6) for address in addresses):
            lines += ["", "[Route]", f"Destination={zero}", "Scope=link"]
    return "\n".join(lines) + "\n"


def _without_stanzas(text: str, device: str) -> str:
    """Drop ``auto``, ``allow-…`` and ``iface`` stanzas of *device* and its aliases."""
    lines = []
    dropping = False
    for line in text.splitlines(keepends=True):
        words = line.split()
        if words and (words[0] in ("auto", "iface", "mapping", "source", "source-directory") or words[0].startswith("allow-")):
            mine = len(words) > 1 and (words[1] == device or words[1].startswith(f"{device}:"))
            dropping = mine and words[0] == "iface"
            if mine:
                continue
        elif dropping and words and not line.startswith("#"):
            continue
        lines.append(line)
    return "".join(lines)
