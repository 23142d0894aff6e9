"""Arrival: what a node checks before it trains on a packet, in this order.

Is it whole and for me (`received`), have I answered it before (`answer`), does the ledger bear it
out and did it help (`taken`).
"""

from __future__ import annotations

from collections.abc import Iterator

from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from mfd_flower.forwarding.admission import NOT_TAKEN, VERDICT, Admitted, admit, not_taken
from mfd_flower.forwarding.announce import keep_table, routing_table
from mfd_flower.forwarding.custody import Custody
from mfd_flower.forwarding.heads import check_heads
from mfd_flower.forwarding.holder import forwarding_of, held_packet
from mfd_flower.forwarding.notary import RECEIPT, Notary
from mfd_flower.ledger.history import History
from mfd_flower.node import Node
from mfd_flower.packets import Packet, PacketError, restored


def received(node: Node, context: Context, content: RecordDict, least_ttl: int = 1) -> Packet:
    """Return the packet in a message, full.

    Raises
    ------
    PacketError
        If it is not whole, not for this node, or has less than `least_ttl` hops left.
    """
    packet = Packet.from_record(content)
    if packet.destination != node.address:
        raise PacketError(f"destination = {packet.destination}: this node is {node.address}")
    if packet.ttl < least_ttl:
        raise PacketError("ttl = 0: this packet has no hop left")
    if len(packet.seen) != node.num_classes:
        raise PacketError(f"seen: {len(packet.seen)} classes, this node's data has another number")
    return packet


def answer(context: Context, packet: Packet, notary: Notary | None) -> Packet | None:
    """Return what this node made of a packet if it came before, so that no update is made twice."""
    kept = Custody(context.state).held(packet.walker)
    if kept is None or kept.packet_id != packet.packet_id:
        return None
    if (kept.hop, kept.parent) == (packet.hop + 1, packet.version):
        return kept
    refused = notary is not None and notary.refused(packet.version, notary.address)
    return kept if refused and kept.hop == packet.hop else None


def taken(
    node: Node,
    context: Context,
    packet: Packet,
    tensors: dict[str, Tensor],
    content: RecordDict,
    notary: Notary | None,
) -> tuple[Admitted, RecordDict]:
    """Verify what the ledger says of a packet, sign for it, and judge it if the strategy does.

    Returns
    -------
    admitted : Admitted
        What to train on.
    receipt : RecordDict
        For the sender; empty if there is nothing to sign for.

    Raises
    ------
    AuditError, LedgerError, PacketError
        If the packet cannot be taken.
    """
    receipt = RecordDict()
    if notary is None:
        return Admitted(packet, tensors, History()), receipt
    made = notary.take(packet, content)
    table = routing_table(node, context)
    if idle := check_heads(notary, packet, content, table):
        for address in idle:
            table.drop(address)
        keep_table(table, context)
    if packet.hop > 1:
        receipt[RECEIPT] = notary.receipt(made.hash)
    strategy = forwarding_of(node)
    if not strategy.admission:
        return Admitted(packet, tensors, History()), receipt
    held = held_versions(node, context, packet.walker)
    share = strategy.author_share(packet)
    return admit(node, context, notary, packet, tensors, content, held, share), receipt


def held_versions(node: Node, context: Context, walker: str) -> Iterator[Packet]:
    """Yield the versions of a walker that a node has, the one all begin with at last."""
    if (kept := Custody(context.state).held(walker)) is not None:
        yield kept
    yield forwarding_of(node).first_packet(node)


def judge_last(message: Message, context: Context) -> Message:
    """Judge the last version of a walk, which nobody trains on any more."""
    node = Node.of(context)
    notary = Notary(node, context)
    packet = received(node, context, message.content, least_ttl=0)
    packet = restored(packet, held_packet(node, context, packet.walker))
    reply = RecordDict()
    if not notary.refused(packet.version, node.address):
        try:
            _, reply = taken(node, context, packet, packet.decoded(), message.content, notary)
        except NOT_TAKEN as error:
            return Message(not_taken(error), reply_to=message)
    refused = notary.refused(packet.version, node.address)
    notary.save()
    reply[VERDICT] = ConfigRecord({"version": packet.version, "accepted": not refused})
    return Message(reply, reply_to=message)
