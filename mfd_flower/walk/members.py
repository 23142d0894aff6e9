"""Collaboration sets: a walk that stays among the nodes of one area of the network, on both sides.

Whitepaper, sections 3.1 and 3.2, step 1: the set is established through the network, a base
station's area or a core network's region; its members are peers, they join and leave. Here the area
is that where the walk begins. The network invites all who are in it over their base stations, and
tells each who else is invited; who answers has joined. Adverts go to members alone, and so do
packets. Who has walked off into another area takes none any more, and is invited again, or not, at
the next announcement.
"""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.network.world import World
from mfd_flower.node import OutOfAreaError
from mfd_flower.packets import Header
from mfd_flower.records import texts
from mfd_flower.walk.requests import Requests
from mfd_flower.walk.visit import SET, Visit

INVITE = "query.invite"


def invite(message: Message, context: Context) -> Message:
    """Join: remember who else is invited."""
    visit = Visit.of(context)
    invited = texts(message.content.config_records[SET], SET)
    visit.context.state[SET] = ConfigRecord({SET: invited})
    return Message(RecordDict({SET: ConfigRecord({"joined": True})}), reply_to=message)


def established(
    requests: Requests, world: World, addresses: Sequence[str], area: str, at_s: float
) -> list[str]:
    """Invite all who are in an area; returns who has joined, in the order of their addresses."""
    there = [a for a in addresses if world.area(a, at_s) == area and world.available(a, at_s)]
    told = RecordDict({SET: ConfigRecord({SET: there})})
    joined = requests.ask_all(INVITE, dict.fromkeys(there, told))
    return [address for address in there if address in joined]


def check_area(visit: Visit, header: Header) -> None:
    """Raise `OutOfAreaError` if a packet is not for the area where this node is now."""
    here = visit.node.world_view().area
    if header.area and header.area != here:
        raise OutOfAreaError(f"area = {header.area}: this node is in {here or 'none'} now")
