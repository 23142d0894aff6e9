"""The frame of an AI packet's bytes, how much of them is payload, and how a packet is refused."""

from __future__ import annotations

import struct

from mfd_flower.checks import refusal_line

MAGIC = b"MFD-PKT\n"
PREFIX = struct.Struct("<8sQI")
"""Magic, total length, length of the header behind it."""
SEAL_BYTES = 32
"""SHA-256 of all that stands before it."""


class PacketError(ValueError):
    """A packet is refused; the message names the field and what is wrong with it, in one line."""


def wrong(name: str, value: object, accepted: str) -> PacketError:
    """Return the error for a field that no packet may have."""
    return PacketError(refusal_line(name, value, accepted))


def payload_size(data: bytes) -> int:
    """Return how many bytes of tensors a packet's text holds by the lengths that it declares.

    Lengths are not trusted: never more than is there, and 0 for what does not begin as a packet.
    """
    if not data.startswith(MAGIC) or len(data) < PREFIX.size:
        return 0
    _, size, header_bytes = PREFIX.unpack_from(data)
    return max(0, min(len(data), size - SEAL_BYTES) - PREFIX.size - header_bytes)
