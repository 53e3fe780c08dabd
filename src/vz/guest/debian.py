"""ifupdown's /etc/network/interfaces (Debian family, Alpine), and the marks around what is ours; text to text."""

from __future__ import annotations

BEGIN = "# BEGIN vz: made anew at each start of the container\n"
END = "# END vz\n"


def without_block(text: str) -> str:
    """Return *text* without the block between our marks; a first mark without its second takes only itself along."""
    start = text.find(BEGIN)
    if start < 0:
        return text
    end = text.find(END, start)
    return text[:start] + text[start + len(BEGIN) if end < 0 else end + len(END) :]


def with_block(text: str, block: str) -> str:
    """Return *text* with *block* between our marks at its end."""
    if text and not text.endswith("\n"):
        text += "\n"
    return f"{text}{BEGIN}{block}{END}"


def interfaces(old: str, addresses: list[str]) -> str:
    """Return /etc/network/interfaces with venet0; stanzas of others for it go, all the rest stays.

    ``manual`` and idempotent commands: the addresses are there already when networking starts, and
    ``ifdown venet0; ifup venet0`` inside brings them back.  No address, no venet0: a stanza for it would fail.
    """
    kept = _without_stanzas(without_block(old), "venet0")
    if not addresses:
        return kept
    if not any(line.split()[:2] == ["iface", "lo"] for line in kept.split("\n")):
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


def _without_stanzas(text: str, device: str) -> str:
    """Drop *device* and its aliases from ``auto`` and ``allow-…`` lines, and their ``iface``, ``mapping`` stanzas."""
    lines = []
    dropping = False
    for line in _logical_lines(text):
        words = line.replace("\\\n", " ").split()
        first = words[0] if words else ""
        if first == "auto" or first.startswith(("allow-", "no-auto-down", "no-scripts")):
            dropping = False
            others = [word for word in words[1:] if word != device and not word.startswith(f"{device}:")]
            if len(others) < len(words) - 1:
                if not others:
                    continue
                line = " ".join([first, *others])
        elif first in ("iface", "mapping", "source", "source-directory", "rename", "template"):
            dropping = first in ("iface", "mapping") and len(words) > 1 and words[1].partition(":")[0] == device
        elif dropping and words and not line.startswith("#"):
            continue
        if not (dropping and first in ("iface", "mapping")):
            lines.append(line)
    return "\n".join(lines)


def _logical_lines(text: str) -> list[str]:
    """Return the lines of *text*; one that ends with a backslash goes on in the next."""
    found: list[str] = []
    for line in text.split("\n"):
        if found and found[-1].endswith("\\"):
            found[-1] += "\n" + line
        else:
            found.append(line)
    return found
