"""An AI packet on its way as IPv6 datagrams with a segment routing header.

The whitepaper routes a model like an IP packet (section 2.3). Here is that form: IPv6 (RFC 8200,
section 3) names the node that sent the packet and the one that is to pass it on next, its segment
routing header (RFC 8754, section 2) all nodes on the way and how many are left, its hop limit how
many links. What else the header of an AI packet says is for its receiver alone and travels as data.
Nodes on the way forward without opening (`Datagram.forwarded`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from typing import Self

from mfd_flower.packets.frame import PacketError, wrong

NETWORK = IPv6Network("fd4d:4644::/64")
"""A unique local network (RFC 4193), which a collaboration set shares."""
HEADER = struct.Struct(">IHBB16s16s")
"""Version, class and flow; length of what follows; next header; hop limit; source; destination."""
ROUTING = struct.Struct(">BBBBBBH")
"""Next header, length, type, segments left, last entry, flags, tag."""
ROUTING_HEADER, SEGMENT_ROUTING, EXPERIMENT = 43, 4, 253
"""Protocol numbers: the last one is for use and test (RFC 3692)."""
SEGMENT_BYTES = 16
MOST_SEGMENTS = 127
"""The header's length is told in 8 bits, in units of 8 bytes."""
MOST_BYTES = 65_535
"""Behind the IPv6 header: its length is told in 16 bits."""
MOST_LINKS = 255


def address_of(name: str, network: IPv6Network = NETWORK) -> IPv6Address:
    """Return a node's address in a network of 64 bits: of its name's SHA-256 the first 64.

    Stable and opaque as RFC 7217 wants interface identifiers; whoever knows the members' names
    knows whose it is.
    """
    host = hashlib.sha256(name.encode()).digest()[:8]
    return IPv6Address(int(network.network_address) + int.from_bytes(host, "big"))


def overhead_bytes(segments: int) -> int:
    """Return the bytes of both headers of a datagram over so many segments."""
    return HEADER.size + ROUTING.size + SEGMENT_BYTES * segments


@dataclass(frozen=True, kw_only=True)
class Datagram:
    """One IPv6 datagram with a segment routing header."""

    source: IPv6Address
    segments: Sequence[IPv6Address]
    """Whom it goes over, in this order; the last one is the receiver."""
    segments_left: int
    """Of them, how many follow the one that it is on its way to."""
    hop_limit: int
    """Links left."""
    flow: int
    """Of 20 bits: the datagrams of one packet go the same way (RFC 6437)."""
    data: bytes

    def __post_init__(self) -> None:
        """Check what no datagram may have."""
        count = len(self.segments)
        if not 1 <= count <= MOST_SEGMENTS:
            raise wrong("segments", count, f"1 to {MOST_SEGMENTS} are accepted")
        for name, value, most in (
            ("segments_left", self.segments_left, count - 1),
            ("hop_limit", self.hop_limit, MOST_LINKS),
            ("flow", self.flow, 2**20 - 1),
            ("length", self._length, MOST_BYTES),
        ):
            if not 0 <= value <= most:
                raise wrong(name, value, f"0 to {most} are accepted")

    @property
    def destination(self) -> IPv6Address:
        """Whom it goes to next: the segment that is told by how many are left."""
        return self.segments[len(self.segments) - 1 - self.segments_left]

    @property
    def _length(self) -> int:
        return ROUTING.size + SEGMENT_BYTES * len(self.segments) + len(self.data)

    def forwarded(self) -> Datagram:
        """Return it as the node that it came to sends it on, unopened (RFC 8754, section 4.3.1).

        Raises PacketError at the last of its segments, and where no link is left.
        """
        if self.segments_left == 0:
            raise PacketError(
                "segments_left = 0: this is its receiver, nobody is left to send it to"
            )
        if self.hop_limit <= 1:
            raise PacketError(f"hop_limit = {self.hop_limit}: no link is left")
        return replace(self, segments_left=self.segments_left - 1, hop_limit=self.hop_limit - 1)

    def to_bytes(self) -> bytes:
        """Return it as it is sent."""
        last = len(self.segments) - 1
        head = HEADER.pack(
            6 << 28 | self.flow, self._length, ROUTING_HEADER, self.hop_limit,
            self.source.packed, self.destination.packed,
        )  # fmt: skip
        routing = ROUTING.pack(
            EXPERIMENT, 2 * (last + 1), SEGMENT_ROUTING, self.segments_left, last, 0, 0
        )
        # In the list the last one comes first.
        listed = b"".join(address.packed for address in reversed(self.segments))
        return head + routing + listed + self.data

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a datagram, or refuse it with PacketError."""
        if len(data) < HEADER.size + ROUTING.size:
            raise PacketError(f"datagram: {len(data)} bytes are no IPv6 and segment routing header")
        first, length, after, hop_limit, source, destination = HEADER.unpack_from(data)
        told = ROUTING.unpack_from(data, HEADER.size)
        beyond, units, kind, left, last, flags, tag = told
        expected = (6, 0, ROUTING_HEADER, EXPERIMENT, 2 * (last + 1), SEGMENT_ROUTING, 0, 0)
        names = (
            *("version", "traffic class", "next header", "next header behind segments"),
            *("length of the routing header", "routing type", "flags", "tag"),
        )
        found = (first >> 28, first >> 20 & 0xFF, after, beyond, units, kind, flags, tag)
        for name, value, accepted in zip(names, found, expected, strict=True):
            if value != accepted:
                raise wrong(name, value, f"{accepted} is accepted")
        start = overhead_bytes(last + 1)
        if HEADER.size + length != len(data) or start > len(data):
            raise wrong("length", length, f"{len(data) - HEADER.size} bytes follow the header")
        listed = data[HEADER.size + ROUTING.size : start]
        segments = [
            IPv6Address(listed[at : at + SEGMENT_BYTES])
            for at in range(0, len(listed), SEGMENT_BYTES)
        ]
        read = cls(
            source=IPv6Address(source), segments=tuple(reversed(segments)), segments_left=left,
            hop_limit=hop_limit, flow=first & 0xFFFFF, data=bytes(data[start:]),
        )  # fmt: skip
        if read.destination.packed != destination:
            raise wrong("destination", str(IPv6Address(destination)), f"segment {left} is accepted")
        return read
