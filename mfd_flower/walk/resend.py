"""What a holder does with a packet that it has sent: acknowledged, or sent again elsewhere."""

from __future__ import annotations

from dataclasses import replace

from flwr.app import ConfigRecord, Context, Message, RecordDict

from mfd_flower.packets import PacketError
from mfd_flower.records import integer, text, texts
from mfd_flower.walk.custody import FOR_SENDER
from mfd_flower.walk.next_hop import next_hop
from mfd_flower.walk.visit import Visit


def acknowledge(message: Message, context: Context) -> Message:
    """Note that the next holder has the packet: its custody has passed on, signed if it can be.

    With a receipt that is not good, a `LedgerError`, the packet stays in custody.
    """
    visit, records = Visit.of(context), message.content.config_records
    told, receipt = records["ack"], records.get(FOR_SENDER, ConfigRecord())
    walker = text(told, "walker")
    for trait in visit.plan.traits:
        trait.settled(visit, walker, receipt)
    visit.save()
    visit.custody.acknowledge(walker, integer(told, "hop"))
    return Message(RecordDict(), reply_to=message)


def send_again(message: Message, context: Context) -> Message:
    """Send the packet in custody once more, elsewhere if its receiver has failed or is busy.

    The holder's timer has gone off, or the receiver has another walker. What failed leaves the
    routing table, what is busy stays in it, and the policy chooses among the rest. A packet that
    its receiver has acknowledged is sent again only if `lost` says that it vanished behind that
    receiver; otherwise, and if none of the walker is in custody here, this is a `PacketError`.
    """
    told = message.content.config_records["timer"]
    visit = Visit.again(context, text(told, "walker"))
    kept = visit.onward
    if visit.custody.acknowledged(kept) and not told.get("lost", False):
        raise PacketError(f"hop {kept.hop}: acknowledged, the next holder has it")
    if "failed" in told:
        visit.table.unreachable(text(told, "failed"))
        visit.table_changed = True
    if told.get("spent", False):
        # A hop was used up on a version that nobody could take.
        visit.onward = kept = replace(kept, ttl=max(0, kept.ttl - 1))
    busy = texts(told, "busy") if "busy" in told else []
    if "failed" in told or busy:
        elsewhere = next_hop(visit, kept.hop, kept.visited, kept.seen, busy)
        visit.onward = replace(kept, destination=elsewhere)
        visit.commit()
    content = visit.outgoing()
    visit.save()
    return Message(content, reply_to=message)
