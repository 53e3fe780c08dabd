"""What comes for a CT on its way: caught on the node that it leaves, handed to it on the node where it goes on.

While a CT is frozen its devices are shut.  What was dropped then its peers would send again, but TCP doubles the pause
each time: a peer of a CT that was frozen for 0.8 s goes on after 1.4 s, of 1.6 s after 3.  So what comes for its venet
addresses is kept and only late.  The kernel keeps it, in the queue of a packet socket, up to a limit: what does not
fit, or is longer than the device takes, is sent again as ever.  Bridged interfaces have no part in it.  See packet(7).
"""

from __future__ import annotations

import _socket
import array
import struct

from vz.net.neighbours import checksum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_CSUMNOTREADY = 263, 8, 1 << 3
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
QUEUE_BYTES = 4 << 20  # as the kernel counts, with its own overhead
MOST_BYTES, PACKET_BYTES = 1 << 20, 65535
BPF_LD_W_ABS, BPF_JEQ, BPF_RET = 0x20, 0x15, 0x06
TARGETS = {4: (16,), 16: (24, 28, 32, 36)}  # by the length of an address: where the words of the target are
CHECKSUM_AT = {6: 16, 17: 6}  # TCP, UDP


class Late:
    """Catches what comes for *addresses* from now on."""

    def __init__(self, addresses: list[str]) -> None:
        self.sockets: list[_socket.socket] = []
        for family, protocol in ((_socket.AF_INET, ETH_P_IP), (_socket.AF_INET6, ETH_P_IPV6)):
            wanted = [_socket.inet_pton(family, a) for a in addresses if (":" in a) == (family == _socket.AF_INET6)]
            if wanted:
                self.sockets.append(_catcher(protocol, wanted))

    def take(self) -> bytes:
        """Return the packets that have come, oldest first for each protocol, each behind its length (16 bits)."""
        found, size = [], 0
        for sock in self.sockets:
            while size < MOST_BYTES:
                try:
                    packet, ancillary, _, _ = sock.recvmsg(PACKET_BYTES, 64, _socket.MSG_DONTWAIT)
                except OSError:  # EAGAIN; ENETDOWN, of a device that has gone
                    break
                if any(struct.unpack_from("=I", item[2])[0] & TP_STATUS_CSUMNOTREADY for item in ancillary):
                    packet = with_checksum(packet)  # it comes from this machine: a device was to fill it in
                found.append(len(packet).to_bytes(2, "big") + packet)
                size += len(packet)
        return b"".join(found)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()


def hand_in(device: str, mac: bytes, packets: bytes) -> int:
    """Send what ``take`` has returned to the CT behind the venet *device*; return how many packets it took."""
    count = 0
    sock = _socket.socket(_socket.AF_PACKET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
    try:
        for packet in _split(packets):
            protocol = ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6
            try:
                sock.sendto(packet, (device, protocol, 0, 0, mac))
                count += 1
            except OSError:  # EMSGSIZE of several that were joined on receipt; ENOBUFS
                continue
    finally:
        sock.close()
    return count


def with_checksum(packet: bytes) -> bytes:
    """Return an IP *packet* with the checksum of its TCP or UDP made anew; any other as it is."""
    if packet[0] >> 4 == 4:
        start, protocol, ends = (packet[0] & 15) * 4, packet[9], packet[12:20]
        if int.from_bytes(packet[6:8], "big") & 0x3FFF:
            return packet  # a fragment
    else:
        start, protocol, ends = 40, packet[6], packet[8:40]
    at = CHECKSUM_AT.get(protocol, 0)
    body = packet[start:]
    if not at or len(body) < at + 2:
        return packet
    body = body[:at] + b"\0\0" + body[at + 2 :]
    value = checksum(ends, protocol, body) or (0xFFFF if protocol == 17 else 0)
    return packet[:start] + body[:at] + value.to_bytes(2, "big") + body[at + 2 :]


def _split(packets: bytes) -> Iterator[bytes]:
    at = 0
    while at + 2 < len(packets):
        size = int.from_bytes(packets[at : at + 2], "big")
        if packets[at + 2 : at + 2 + size]:
            yield packets[at + 2 : at + 2 + size]
        at += 2 + size


def _catcher(protocol: int, wanted: list[bytes]) -> _socket.socket:
    """Return a socket that gets the packets of *protocol* that this node receives for one of the addresses *wanted*."""
    sock = _socket.socket(_socket.AF_PACKET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, _socket.htons(protocol))
    program = array.array("B", _filter(wanted))
    address, size = program.buffer_info()
    sock.setsockopt(_socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", size // 8, address))
    sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    sock.setsockopt(_socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
    try:
        while True:
            sock.recv(1, _socket.MSG_DONTWAIT)  # what came before there was a filter
    except BlockingIOError:
        return sock


def _filter(wanted: list[bytes]) -> bytes:
    """Return the classic BPF program that lets packets to the addresses *wanted* through, see socket(7)."""
    steps = []
    for address in wanted:
        offsets = TARGETS[len(address)]
        for number, offset in enumerate(offsets):
            word = int.from_bytes(address[4 * number : 4 * number + 4], "big")
            behind = 2 * (len(offsets) - number) - 1  # to the next address's first step
            steps += [struct.pack("=HBBI", BPF_LD_W_ABS, 0, 0, offset)]
            steps += [struct.pack("=HBBI", BPF_JEQ, 0, behind, word)]
        steps.append(struct.pack("=HBBI", BPF_RET, 0, 0, 0x40000))
    steps.append(struct.pack("=HBBI", BPF_RET, 0, 0, 0))
    return b"".join(steps)
