"""What is raised when a packet is refused."""

from __future__ import annotations

from mfd_flower.checks import refusal_line


class PacketError(ValueError):
    """A packet is refused; the message names the field and what is wrong with it, in one line."""


def wrong(name: str, value: object, accepted: str) -> PacketError:
    """Return the error for a field that no packet may have."""
    return PacketError(refusal_line(name, value, accepted))
