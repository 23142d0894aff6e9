"""One hop of a walk on the node where the packet lands, from the top.

*Foundation Model-Oriented 6G Network Distributed Learning*, sections 2.3 and 2.6: a node that
receives an AI packet is its destination; after the local update it is the source of the next, and
it alone chooses where that goes. What can be left out of a hop is a trait, `mfd_flower.walk.trait`.
"""

from __future__ import annotations

from flwr.app import Context, Message, RecordDict

from mfd_flower.walk.envelope import UNTAKEN
from mfd_flower.walk.next_hop import route
from mfd_flower.walk.training import train
from mfd_flower.walk.trait import UntakenError
from mfd_flower.walk.visit import Visit


def hop(message: Message, context: Context) -> Message:
    """Verify the arriving packet, train it on this node's data, name its next hop, keep a copy.

    Raises
    ------
    PacketError
        If the packet is not whole or not addressed to this node; nothing is changed then.
    """
    visit = Visit.open(context, message.content)
    if visit.repeated():
        return Message(visit.reply(), reply_to=message)
    traits = visit.plan.traits
    try:
        for trait in traits:
            trait.arrive(visit)
    except UntakenError as error:
        return Message(RecordDict({UNTAKEN: error.record}), reply_to=message)
    visit.only = set(visit.tensors)
    for trait in traits:
        trait.select(visit)
    train(visit)
    for trait in traits:
        trait.after(visit)
    route(visit)
    for trait in reversed(traits):
        trait.depart(visit)
    visit.commit()
    return Message(visit.reply(), reply_to=message)
