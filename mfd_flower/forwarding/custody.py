"""Custody: a node keeps the packet it sent on until somebody else is known to have it.

Store and forward as in delay-tolerant networks (RFC 5050, section 5.10): the copy lies in the
node's own Flower state, which outlives a message. A node keeps one packet a walker, the last one it
sent, and what travels beside it.
"""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from mfd_flower.packets.packet import Packet

PREFIX = "custody"
OWN = "acknowledged"


class Custody:
    """The packets that a node has sent on.

    Parameters
    ----------
    state : RecordDict
        The node's ``context.state``.
    """

    def __init__(self, state: RecordDict) -> None:
        self._state = state

    def keep(self, packet: Packet, beside: RecordDict | None = None) -> None:
        """Store a full packet before it is sent, in place of the walker's last one.

        Parameters
        ----------
        packet : Packet
            As it is sent on.
        beside : RecordDict, optional
            Records that travel in the same message.
        """
        for name in [name for name in self._state if name.startswith(self._key(packet.walker, ""))]:
            del self._state[name]
        for name, record in [*packet.to_record().items(), *(beside or RecordDict()).items()]:
            self._state[self._key(packet.walker, name)] = record
        self._state[self._key(packet.walker, OWN)] = ConfigRecord({"hop": -1})

    def records(self, walker: str) -> RecordDict:
        """Return the message that the walker's packet was sent on in."""
        prefix = self._key(walker, "")
        kept = {
            name.removeprefix(prefix): record
            for name, record in self._state.items()
            if name.startswith(prefix) and name != self._key(walker, OWN)
        }
        return RecordDict(kept)

    def held(self, walker: str) -> Packet | None:
        """Return the walker's packet that was sent last, None if it never was here.

        Raises
        ------
        PacketError
            If what is stored is no longer whole.
        """
        header = self._state.get(self._key(walker, "header"))
        arrays = self._state.get(self._key(walker, "arrays"))
        if not isinstance(header, ConfigRecord) or not isinstance(arrays, ArrayRecord):
            return None
        return Packet.from_record(RecordDict({"header": header, "arrays": arrays}))

    def walkers(self) -> list[str]:
        """Return the walkers of which a packet is here."""
        names = (name.split("/") for name in self._state if name.startswith(f"{PREFIX}/"))
        return sorted({walker for _, walker, *_ in names})

    def acknowledge(self, walker: str, hop: int) -> None:
        """Note that the receiver of hop `hop` has verified and stored the packet."""
        self._state[self._key(walker, OWN)] = ConfigRecord({"hop": hop})

    def acknowledged(self, packet: Packet) -> bool:
        """Tell whether the receiver of this packet has acknowledged it."""
        record = self._state.get(self._key(packet.walker, OWN))
        return isinstance(record, ConfigRecord) and record["hop"] == packet.hop

    @staticmethod
    def _key(walker: str, name: str) -> str:
        return f"{PREFIX}/{walker}/{name}"
