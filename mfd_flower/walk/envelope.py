"""A packet as a Flower message carries it: one byte string, beside the address it comes from.

What a trait sends along travels in records of its own, a second packet in the same form.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict

from mfd_flower.packets import Packet, PacketError

PACKET, DATA, SOURCE = "packet", "data", "source"
FOR_SENDER = "receipt"
"""Record in the answer to a hop that goes to the packet's sender with the acknowledgement."""
UNTAKEN, VERDICT = "not-taken", "verdict"
"""Records of a receiver that trained nothing: it could not take the packet, or only judged it."""


def sealed(packet: Packet) -> ConfigRecord:
    """Return a packet as a record."""
    return ConfigRecord({SOURCE: packet.source, DATA: packet.to_bytes()})


def enclosed(packet: Packet) -> ConfigRecord:
    """Return a packet as a record beside the one that is billed to its source."""
    return ConfigRecord({DATA: packet.to_bytes()})


def packet_in(content: RecordDict, name: str = PACKET) -> Packet:
    """Read the packet in a message; `PacketError` unless every bit is as its maker sealed it."""
    record = content.config_records.get(name, ConfigRecord())
    if not isinstance(data := record.get(DATA), bytes):
        raise PacketError(f"{name}: no packet in this message")
    packet = Packet.from_bytes(data)
    if record.get(SOURCE, packet.source) != packet.source:
        raise PacketError(f"source = {packet.source}: not where the message says it comes from")
    return packet
