"""A message on its way over nodes that do not open it, as routers pass an IP packet on.

Whitepaper, section 2.3: between two nodes that train, others may only forward. Each of them knows
the next link from its own routing table; nobody knows the whole way. A limit on links, as IPv6's
hop limit (RFC 8200, section 3), ends what goes in circles. Both sides are here: the node's, and the
network's that carries it from link to link.
"""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.packets import Packet, PacketError
from mfd_flower.records import integer, text
from mfd_flower.walk.requests import Requests
from mfd_flower.walk.visit import VIA, Visit

FORWARD = "forward"
"""Record that names where a message goes, or the next link on the way there."""
MOST_LINKS = 64


def forward(message: Message, context: Context) -> Message:
    """Name the next link of a message that is for somebody else, and leave the rest of it alone.

    `PacketError` if this node knows no way there, or the message has come too far.
    """
    told = message.content.config_records[FORWARD]
    if integer(told, "links") <= 0:
        raise PacketError(f"links = 0: this message came over {MOST_LINKS} links")
    onward = next_link(Visit.of(context), text(told, "destination"))
    return Message(RecordDict({FORWARD: ConfigRecord({"via": onward})}), reply_to=message)


def next_link(visit: Visit, destination: str) -> str:
    """Return the neighbour on the way to a node, as this node knows it; the node itself if near."""
    near = visit.node.world_view().neighbours
    onward = destination if destination in near else visit.table.via(destination)
    if onward not in near:
        raise PacketError(f"destination = {destination}: this node knows no way there")
    return onward


class Ways:
    """Over which links packets are carried, and their receivers' word back; each link is billed."""

    def __init__(self, requests: Requests, addresses: Sequence[str], forwards: bool) -> None:
        self._requests, self._addresses = requests, frozenset(addresses)
        self._forwards = forwards
        self.taken: dict[str, list[str]] = {}
        """Who had each walker's last packet on its way, its sender first."""

    def last_link(self, packet: Packet, content: RecordDict) -> tuple[RecordDict, str] | None:
        """Carry a packet up to the last link before its receiver; None if it is lost on the way.

        Returns what goes over that link, and who sends it there if not the holder itself.
        """
        rest = RecordDict({name: record for name, record in content.items() if name != VIA})
        self.taken[packet.walker] = [packet.source]
        told = content.config_records.get(VIA)
        if told is None or not self._forwards:
            return rest, ""
        first = str(told.get(VIA, ""))
        way = self._carried(packet.source, first, packet.destination, rest)
        if way is None:
            return None
        self.taken[packet.walker] = way
        return rest, way[-1]

    def acknowledge(self, packet: Packet, content: RecordDict) -> None:
        """Carry the receiver's word to the packet's sender, first to whom it had it from."""
        here, there = packet.destination, packet.source
        way = self._carried(here, self.taken[packet.walker][-1], there, content)
        if way is not None:
            self._requests.ask(there, "query.ack", content, way[-1])

    def _carried(
        self, source: str, first: str, destination: str, content: RecordDict
    ) -> list[str] | None:
        """Return who has a message on its way up to the last link, `source` first."""
        way, there = [source], first
        for links in range(MOST_LINKS, 0, -1):
            if there == destination:
                return way
            if there not in self._addresses:
                return None  # Named by a node that may say anything.
            told = ConfigRecord({"destination": destination, "links": links})
            asked = RecordDict({**content, FORWARD: told})
            answer = self._requests.content(there, "query.forward", asked, way[-1])
            if answer is None:
                return None
            way.append(there)
            there = str(answer.config_records.get(FORWARD, ConfigRecord()).get("via", ""))
        return None
