"""Only what changed since the version that the next holder has travels on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.packets import Packet, changed_since, delta, restored
from mfd_flower.records import integer, text
from mfd_flower.walk.custody import PACKET, sealed
from mfd_flower.walk.trait import Layer, Trait
from mfd_flower.walk.visit import Visit

if TYPE_CHECKING:
    from mfd_flower.walk.relay import Relay


def name_held(message: Message, context: Context) -> Message:
    """Name the walker's version that this node can build a delta on, and its last update."""
    walker = text(message.content.config_records["offer"], "walker")
    held = Visit.of(context).held_version(walker)
    told = ConfigRecord({"walker": walker, "version": held.version, "update": held.hop - 1})
    return Message(RecordDict({"held": told}), reply_to=message)


def send_delta(message: Message, context: Context) -> Message:
    """Send the packet in custody as a delta onto the version that the next holder has named."""
    told = message.content.config_records["held"]
    visit = Visit.again(context, text(told, "walker"))
    visit.base = text(told, "version"), integer(told, "update")
    content = visit.outgoing()
    visit.save()
    return Message(content, reply_to=message)


@dataclass(frozen=True)
class Delta(Trait):
    """Ask the next node what it holds, and send what is another in the new version."""

    layer: ClassVar[Layer] = Layer.DELTA
    actions: ClassVar = {"query.held": name_held, "query.send": send_delta}
    links: ClassVar = {"query.held": "d2d", "query.send": "d2d"}

    def arrive(self, visit: Visit) -> None:
        """Make the packet full by the version that is held here."""
        if visit.packet.kind == "delta":
            held = visit.held_version(visit.packet.walker)
            visit.packet = visit.start = restored(visit.packet, held)

    def send(self, visit: Visit, content: RecordDict, whole: bool) -> None:
        """Leave out what the receiver is known to have."""
        if visit.base is not None:
            version, update = visit.base
            part = delta(visit.onward, version, changed_since(visit.onward, update))
            content[PACKET] = sealed(part)

    def carry(self, relay: Relay, packet: Packet, content: RecordDict) -> RecordDict:
        """Let holder and receiver agree on a delta; the whole packet if they do not."""
        offer = RecordDict({"offer": ConfigRecord({"walker": packet.walker})})
        here, there = packet.source, packet.destination
        held = relay.requests.content(there, "query.held", offer, here)
        if held is None:
            return content
        return relay.requests.content(here, "query.send", held, there) or content
