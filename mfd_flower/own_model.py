"""A model that a node has to itself, of whatever architecture its profile says.

It never leaves the node but to be looked at by the experimenter, which is measurement (``relay``).
"""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord, Context, Message, RecordDict
from torch import Tensor

from mfd_flower.node import Node, initial_tunables
from mfd_flower.records import tensors_of

OWN = "own-tunables"
"""Record in the node's state."""
QUERY = "query.own"


def own_model(context: Context) -> tuple[Node, Mapping[str, Tensor]]:
    """Return the node that a handler is called on as its own model's, and the model's tunables.

    They are what all models of this kind begin with until the node has kept others.
    """
    node = Node.of(context).own
    kept = context.state.array_records.get(OWN)
    return node, tensors_of(kept) if kept is not None else initial_tunables(node.run)


def keep_own(context: Context, tensors: Mapping[str, Tensor]) -> None:
    """Keep the tunables of the node's own model."""
    context.state[OWN] = ArrayRecord(dict(tensors))


def show_own(message: Message, context: Context) -> Message:
    """Show the experimenter this node's own model."""
    _, tensors = own_model(context)
    return Message(RecordDict({"own": ArrayRecord(dict(tensors))}), reply_to=message)
