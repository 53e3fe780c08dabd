"""arpsend: ask the neighbours by ARP who has an address, or tell them who has it; see arpsend(8) in vznet(8)."""

from __future__ import annotations

import _socket
import os
import sys
import time

from vz.cli.main import Globals
from vz.config.units import parse_address
from vz.kernel.network import device_address, device_flags, device_ipv4
from vz.net.neighbours import (
    ARP_REPLY,
    ARP_REQUEST,
    BROADCAST,
    ETH_P_ARP,
    PACKET_OUTGOING,
    Arp,
    packet_socket,
    parse_arp,
)

OK, USAGE, SYSTEM, RECEIVED, NOT_RECEIVED = range(5)
IFF_UP, IFF_LOOPBACK, IFF_NOARP, IFF_SLAVE = 0x1, 0x8, 0x80, 0x800
USAGE_TEXT = (
    "Usage: arpsend -U -i IP | -D -e IP [-e IP ...] | -Q -e IP | -P -i IP   [-c COUNT] [-w SECONDS] [-o] "
    "[-s MAC] [-t MAC] [-S MAC] [-T MAC] INTERFACE\n"
)
COMMANDS = {"U": "update", "D": "detect", "Q": "request", "P": "reply"}
VALUES = {
    "c": "count",
    "w": "timeout",
    "s": "src-hw",
    "t": "trg-hw",
    "S": "src-arp",
    "T": "trg-arp",
    "i": "src-ip",
    "e": "trg-ip",
}
FLAGS = {"o": "at-once", "v": ""}
MAX_TARGETS = 1024


class Wanted:
    """What the command line asks for."""

    def __init__(self) -> None:
        self.command = ""
        self.count = -1  # for ever
        self.timeout_s = 1.0
        self.macs: dict[str, bytes] = {}
        self.source = ""
        self.targets: list[str] = []
        self.at_once = False
        self.interface = ""


def run(argv: list[str], options: Globals) -> int:
    """arpsend -U|-D|-Q|-P [-i IP] [-e IP]… [-c N] [-w S] INTERFACE"""
    try:
        wanted = parse(argv)
    except ValueError as exc:
        sys.stderr.write(f"arpsend: {exc}\n" if str(exc) else USAGE_TEXT)
        return USAGE
    try:
        if any(":" in address for address in (wanted.source, *wanted.targets)):
            return ipv6(wanted)
        return send(wanted)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        sys.stderr.write(f"arpsend: {where}{exc.strerror}\n")
        return SYSTEM


def parse(argv: list[str]) -> Wanted:
    """Return what *argv* asks for; ValueError with a line for a bad value, without one for a wrong usage."""
    wanted = Wanted()
    words = iter(argv)
    rest: list[str] = []
    for word in words:
        if word == "--":
            rest += words
        elif word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            letter = next((k for k, v in {**COMMANDS, **VALUES, **FLAGS}.items() if v == name), "")
            if letter not in VALUES:
                _set(wanted, letter if not equals else "", "")
            else:
                _set(wanted, letter, value if equals else next(words, ""))
        elif word.startswith("-") and word != "-":
            while len(word) > 1:
                letter, word = word[1], "-" + word[2:]
                if letter in VALUES:
                    _set(wanted, letter, word[1:] or next(words, ""))
                    break
                _set(wanted, letter, "")
        else:
            rest.append(word)
    needs = {"update": bool(wanted.source), "detect": bool(wanted.targets)}
    if len(rest) != 1 or not wanted.command or not needs.get(wanted.command, True):
        raise ValueError
    wanted.interface = rest[0]
    wanted.at_once = wanted.at_once or (wanted.command == "detect" and len(wanted.targets) == 1)
    return wanted


def _set(wanted: Wanted, letter: str, value: str) -> None:
    if letter in COMMANDS:
        if wanted.command:
            raise ValueError
        wanted.command = COMMANDS[letter]
    elif letter == "c":
        wanted.count = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
        if not wanted.count:
            raise ValueError(f"{value!r} is not a count")
    elif letter == "w":
        if len(value) > 9 or not value.isascii() or not value.replace(".", "", 1).isdigit():
            raise ValueError(f"{value!r} is not a number of seconds")
        wanted.timeout_s = float(value)
    elif letter in VALUES and letter in "stST":
        wanted.macs[letter] = _mac(value)
    elif letter in ("i", "e"):
        address = parse_address(value)
        if "/" in address:
            raise ValueError(f"{value!r} is not an address")
        if letter == "i":
            wanted.source = address
        elif len(wanted.targets) < MAX_TARGETS:
            wanted.targets.append(address)
    elif letter == "o":
        wanted.at_once = True
    elif letter != "v":
        raise ValueError


def _mac(text: str) -> bytes:
    if text == "broadcast":
        return BROADCAST
    digits = text.replace(":", "")
    if len(digits) != 12 or not digits.isascii() or not digits.isalnum():
        raise ValueError(f"{text!r} is not a MAC address")
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise ValueError(f"{text!r} is not a MAC address") from None


def ipv6(wanted: Wanted) -> int:
    """There is no ARP for IPv6: -U advertises the address by neighbour discovery, anything else does nothing."""
    if wanted.command == "update":
        from vz.net.neighbours import announce

        announce([(wanted.interface, wanted.source if ":" in wanted.source else wanted.targets[0])])
    return OK


def send(wanted: Wanted) -> int:
    """Send the packets, look at what comes back, and return the exit status."""
    own_ip = check_interface(wanted.interface)
    own_mac = device_address(wanted.interface)
    ethernet_to = wanted.macs.get("t", BROADCAST)
    ethernet_from = wanted.macs.get("s", own_mac)
    source = _pack(wanted.source) if wanted.source else own_ip
    targets = [_pack(target) for target in wanted.targets] or [own_ip]
    frames = []
    for target in targets:
        arp = Arp(
            ARP_REPLY if wanted.command == "reply" else ARP_REQUEST,
            wanted.macs.get("S", ethernet_from),
            source,
            wanted.macs.get("T", ethernet_to),
            target,
        )
        frames.append(arp.frame(ethernet_from, ethernet_to))
    sock = packet_socket(ETH_P_ARP)
    sock.bind((wanted.interface, ETH_P_ARP))
    asks = wanted.command in ("detect", "request")
    received = 0
    left = wanted.count
    while left:
        for frame in frames:
            sock.send(frame)
        left -= 1
        if not left and not asks:
            break
        received += listen(sock, targets, wanted.timeout_s, wanted.at_once)
        if received and wanted.at_once:
            break
    if wanted.command == "request":
        return OK if received else NOT_RECEIVED
    return RECEIVED if received and wanted.command != "reply" else OK


def listen(sock: _socket.socket, targets: list[bytes], timeout_s: float, at_once: bool) -> int:
    """Return how many packets of owners of *targets* came within *timeout_s*; with *at_once* the first ends it."""
    found = 0
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        sock.settimeout(left_s)
        try:
            frame, sender = sock.recvfrom(1500)
        except TimeoutError:
            break
        arp = parse_arp(frame)
        if arp is None or sender[2] == PACKET_OUTGOING or arp.sender_ip not in targets:
            continue
        address = _socket.inet_ntop(_socket.AF_INET, arp.sender_ip)
        sys.stderr.write(f"arpsend: {address} is detected on another computer : {arp.sender_mac.hex(':')}\n")
        found += 1
        if at_once:
            break
    return found


def check_interface(name: str) -> bytes:
    """Return the IPv4 address of *name*, zeros where it has none; OSError where ARP cannot be spoken on it."""
    flags = device_flags(name)
    for wrong, why in (
        (not flags & IFF_UP, "is down"),
        (flags & (IFF_NOARP | IFF_LOOPBACK), "does not speak ARP"),
        (flags & IFF_SLAVE, "is part of another interface"),
    ):
        if wrong:
            raise OSError(os.EX_OSERR, why, name)
    return device_ipv4(name)


def _pack(address: str) -> bytes:
    return _socket.inet_pton(_socket.AF_INET, address)
