"""One hop of a walk on the node where the packet lands, from the top.

*Foundation Model-Oriented 6G Network Distributed Learning*, sections 2.3 and 2.6: a node that
receives an AI packet is its destination; after the local update it is the source of the next, and
it alone chooses where that goes. What can be left out of a hop is a trait, `mfd_flower.walk.trait`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from flwr.app import Context, Message, RecordDict
from torch import Tensor

from mfd_flower.models.loss import Teacher
from mfd_flower.node import Node
from mfd_flower.walk.custody import UNTAKEN
from mfd_flower.walk.members import check_area
from mfd_flower.walk.next_hop import route
from mfd_flower.walk.trait import Fit, Training, UntakenError
from mfd_flower.walk.visit import Visit
from mfd_flower.walk.wants import note_loss

WALKER_STEPS = 1 << 20
"""Hops that a walker may make before its randomness would be that of the next one."""


def hop(message: Message, context: Context) -> Message:
    """Verify the arriving packet, train it on this node's data, name its next hop, keep a copy.

    Whatever is raised, such as `PacketError` for a packet to another node, changes nothing.
    """
    visit = Visit.open(context, message.content)
    check_area(visit, visit.packet)
    traits = visit.plan.traits
    if visit.repeated():
        return Message(visit.reply(), reply_to=message)
    if any(trait.outdated(visit) for trait in traits):
        visit.take_up(visit.packet.walker)
        return Message(visit.reply(), reply_to=message)
    try:
        for trait in traits:
            trait.arrive(visit)
        visit.only = set(visit.tensors)
        for trait in traits:
            trait.select(visit)
        train(visit)
    except UntakenError as error:
        return Message(RecordDict({UNTAKEN: error.record}), reply_to=message)
    for trait in traits:
        trait.after(visit)
    note_loss(visit)
    route(visit)
    for trait in reversed(traits):
        trait.depart(visit)
    visit.commit()
    return Message(visit.reply(), reply_to=message)


def train(visit: Visit) -> None:
    """Train what is selected on the node's data, each trait around those that stand inside it."""
    training: Training = partial(_local_update, visit)
    for trait in reversed(visit.plan.traits):
        training = partial(trait.fit, visit, training)
    visit.fit = training(visit.tensors)
    arrived = visit.start.decoded()
    visit.changes = {
        name: tensor
        for name, tensor in visit.fit.tensors.items()
        # What was merged on arrival is new to the next node even where nothing was trained.
        if name in visit.only or visit.tensors[name] is not arrived[name]
    }


def _local_update(
    visit: Visit,
    tensors: Mapping[str, Tensor],
    *,
    epoch: int | None = None,
    most_epochs: int = 0,
    optimizer_state: Mapping[str, Tensor] | None = None,
    node: Node | None = None,
    teacher: Teacher | None = None,
) -> Fit:
    """Do what `trait.Training` says; randomness depends on walker, hop and epoch alone."""
    first, hop = int(visit.start.walker.removeprefix("w")) * WALKER_STEPS, visit.start.hop
    step, epochs = (hop, None) if epoch is None else (hop * most_epochs + epoch, 1)
    # At another size tunables have other names.
    left = set(visit.tensors) - visit.only
    trained, result = (node or visit.node).fit(
        tensors,
        first + step,
        epochs=epochs,
        optimizer_state=optimizer_state,
        only=set(tensors) - left,
        teacher=teacher,
    )
    return Fit(trained, result.samples, result.optimizer_state)
