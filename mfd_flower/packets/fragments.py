"""Packets larger than a link's MTU: cut into datagrams, and put together again.

The sender cuts, not the network, as RFC 8900 (*IP fragmentation considered fragile*) recommends,
and IPv6's own fragments end at 64 kB. A fragment says which packet it is of, how long that is and
where it belongs: in whichever order they come, and however often. What is missing can be asked for.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address

from mfd_flower.packets.frame import PacketError, wrong
from mfd_flower.packets.ipv6 import MOST_BYTES, MOST_LINKS, Datagram, overhead_bytes
from mfd_flower.packets.packet import MAX_BYTES, Packet

FRAGMENT = struct.Struct(">16sII")
"""Id of the packet, its length, and where this part of it begins."""
LEAST_MTU = 1280
"""Of every IPv6 link (RFC 8200, section 5)."""


def room_bytes(mtu_bytes: int, segments: int) -> int:
    """Return how much of a packet one datagram over so many segments carries."""
    if not LEAST_MTU <= mtu_bytes <= MOST_BYTES:
        raise wrong("mtu_bytes", mtu_bytes, f"{LEAST_MTU} to {MOST_BYTES} are accepted")
    room = mtu_bytes - overhead_bytes(segments) - FRAGMENT.size
    if room < 1:
        raise wrong("segments", segments, f"with an MTU of {mtu_bytes} fewer are accepted")
    return room


def sent_bytes(size_bytes: int, mtu_bytes: int, segments: int) -> int:
    """Return what a packet takes on each link, with the headers of all its datagrams."""
    count = -(-size_bytes // room_bytes(mtu_bytes, segments))
    return size_bytes + count * (overhead_bytes(segments) + FRAGMENT.size)


def fragments(
    packet: Packet, source: IPv6Address, path: Sequence[IPv6Address], mtu_bytes: int = 1500
) -> Iterator[Datagram]:
    """Cut a packet into datagrams over a path, whose last node is the receiver."""
    data, room = packet.to_bytes(), room_bytes(mtu_bytes, len(path))
    packet_id = bytes.fromhex(packet.packet_id)
    flow = int.from_bytes(packet_id[:3], "big") >> 4
    for start in range(0, len(data), room):
        head = FRAGMENT.pack(packet_id, len(data), start)
        yield Datagram(
            source=source, segments=tuple(path), segments_left=len(path) - 1,
            hop_limit=min(len(path), MOST_LINKS), flow=flow, data=head + data[start : start + room],
        )  # fmt: skip


class Reassembly:
    """Puts one packet together from its fragments; holds no more than what came."""

    def __init__(self) -> None:
        self._parts: dict[int, bytes] = {}
        self._starts: list[int] = []
        self._held_bytes = 0
        self._named: tuple[bytes, int] | None = None

    def add(self, datagram: Datagram) -> Packet | None:
        """Take a fragment; returns the packet once it is whole.

        PacketError for a fragment of another packet or length, one that reaches beyond the packet
        or overlaps others; what came before stays. The same one again is nothing.
        """
        if len(datagram.data) <= FRAGMENT.size:
            raise PacketError(f"fragment: {len(datagram.data)} bytes hold nothing of a packet")
        packet_id, size, start = FRAGMENT.unpack_from(datagram.data)
        part = datagram.data[FRAGMENT.size :]
        if size > MAX_BYTES:
            raise wrong("size", size, f"at most {MAX_BYTES} bytes are accepted")
        if self._named not in (None, (packet_id, size)):
            raise PacketError(f"fragment: of packet {packet_id.hex()}, {size} bytes, not this one")
        if start + len(part) > size:
            raise wrong("start", start, f"{len(part)} bytes from there reach beyond {size}")
        if self._parts.get(start) == part:
            return None
        place = bisect_left(self._starts, start)
        for begin in self._starts[max(place - 1, 0) : place + 1]:
            if begin < start + len(part) and start < begin + len(self._parts[begin]):
                raise wrong("start", start, f"bytes from {begin} on are there already")
        self._named = packet_id, size
        self._parts[start] = part
        self._starts.insert(place, start)
        self._held_bytes += len(part)
        if self._held_bytes < size:
            return None
        packet = Packet.from_bytes(b"".join(self._parts[start] for start in self._starts))
        if bytes.fromhex(packet.packet_id) != packet_id:
            raise wrong("packet_id", packet.packet_id, f"its fragments say {packet_id.hex()}")
        return packet

    def missing(self) -> list[tuple[int, int]]:
        """Return which parts are to be sent again: where each begins and ends."""
        ends = [0, *(start + len(self._parts[start]) for start in self._starts)]
        size = self._named[1] if self._named else 0
        return [(e, s) for e, s in zip(ends, [*self._starts, size], strict=True) if e < s]
