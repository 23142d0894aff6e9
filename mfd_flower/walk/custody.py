"""A packet in Flower's records: on its way, and in the custody of the node that sent it on.

In a message it is one byte string, beside the address it comes from; what a trait sends along
travels in records of its own, a second packet in the same form. Custody is store and forward as in
delay-tolerant networks (RFC 5050, section 5.10): the copy lies in the node's own Flower state,
which outlives a message. A node keeps one packet a walker, the last one it sent, and what travels
beside it.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict

from mfd_flower.packets import Header, Packet, PacketError, header_of

PACKET, DATA, SOURCE = "packet", "data", "source"
FOR_SENDER = "receipt"
"""Record in the answer to a hop that goes to the packet's sender with the acknowledgement."""
UNTAKEN, VERDICT = "not-taken", "verdict"
"""Records of a receiver that trained nothing: it could not take the packet, or only judged it."""
PREFIX, TAKEN = "custody", "acknowledged"


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


class Custody:
    """The packets that a node has sent on, in its ``context.state``."""

    def __init__(self, state: RecordDict) -> None:
        self._state = state

    def keep(self, packet: Packet, beside: RecordDict) -> None:
        """Store a full packet in place of the walker's last one, with what travels beside it."""
        for name in list(self.records(packet.walker)):
            del self._state[_key(packet.walker, name)]
        for name, record in {PACKET: sealed(packet), **beside}.items():
            self._state[_key(packet.walker, name)] = record
        self.acknowledge(packet.walker, -1)

    def records(self, walker: str) -> RecordDict:
        """Return the message that the walker's packet was sent on in."""
        found, prefix = RecordDict(), _key(walker, "")
        for name, record in self._state.items():
            if name.startswith(prefix) and name != _key(walker, TAKEN):
                found[name.removeprefix(prefix)] = record
        return found

    def header(self, walker: str) -> Header | None:
        """Return the header of the walker's packet, None if it never was here."""
        record = self._state.config_records.get(_key(walker, PACKET))
        return header_of(record[DATA]) if record else None  # type: ignore[arg-type]

    def held(self, walker: str) -> Packet | None:
        """Return the walker's packet that was sent last, None if it never was here."""
        name = _key(walker, PACKET)
        return packet_in(self._state, name) if name in self._state else None

    def kept(self, walker: str) -> Packet:
        """Return the walker's packet; raises `PacketError` if there is none."""
        if (held := self.held(walker)) is None:
            raise PacketError(f"walker {walker}: no packet of it is in custody here")
        return held

    def walkers(self) -> list[str]:
        """Return the walkers of which a packet is here."""
        names = (name.split("/") for name in self._state if name.startswith(f"{PREFIX}/"))
        return sorted({walker for _, walker, *_ in names})

    def acknowledge(self, walker: str, hop: int) -> None:
        """Note that the receiver of hop `hop` has verified and stored the packet."""
        self._state[_key(walker, TAKEN)] = ConfigRecord({"hop": hop})

    def acknowledged(self, packet: Packet) -> bool:
        """Tell whether the receiver of this packet has acknowledged it."""
        record = self._state.config_records.get(_key(packet.walker, TAKEN))
        return record is not None and record["hop"] == packet.hop


def _key(walker: str, name: str) -> str:
    return f"{PREFIX}/{walker}/{name}"
