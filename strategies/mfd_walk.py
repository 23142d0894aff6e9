"""MFD walk: one model travels from node to node and is trained where it lands.

*Foundation Model-Oriented 6G Network Distributed Learning*, sections 2.3 and 2.6. The node that
holds the packet trains on its own data, updates what the packet has seen, and names the next hop
from its own routing table, which neighbours' adverts filled. The server half is the network: it
carries messages (`mfd_flower.forwarding`). One hop is one transfer node to node (``d2d``), although
Flower's star carries it in two messages (``relay``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from mfd_flower.config import ConfigError, RunConfig
from mfd_flower.forwarding import (
    FORWARDING_ACTIONS,
    FORWARDING_LINKS,
    Carrier,
    Custody,
    Route,
    next_hop,
)
from mfd_flower.network import neighbours_of
from mfd_flower.node import Node
from mfd_flower.packets import CODECS, Packet, PacketError, pack
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.strategy import OwnLoop, build_strategy

RESIDUAL = "residual"
OPTIMIZER = "optimizer"


def hop(message: Message, context: Context) -> Message:
    """Verify the arriving packet, train it on this node's data, name its next hop, keep a copy.

    Raises
    ------
    PacketError
        If the packet is not whole or not addressed to this node; nothing is changed then.
    """
    node = Node.of(context)
    walk = build_strategy(node.run)
    assert isinstance(walk, MFDWalk)
    arrived = Packet.from_record(message.content)
    if arrived.destination != node.address:
        raise PacketError(f"destination = {arrived.destination}: this node is {node.address}")
    if arrived.ttl < 1:
        raise PacketError("ttl = 0: this packet has no hop left")
    if len(arrived.seen) != node.num_classes:
        raise PacketError(f"seen: {len(arrived.seen)} classes, this node's data has another number")
    custody = Custody(context.state)
    kept = custody.held(arrived.walker)
    if kept and (kept.packet_id, kept.hop, kept.parent) == (
        arrived.packet_id,
        arrived.hop + 1,
        arrived.version,
    ):
        # A duplicate, or a sender that missed the first reply: the update is made once.
        return Message(sent_records(kept, context), reply_to=message)
    tensors = arrived.decoded()
    carried = message.content.array_records.get(OPTIMIZER)
    trained, samples, optimizer_state = local_update(
        node, tensors, arrived, carried.to_torch_state_dict() if carried else None
    )
    share = walk.damping_at(arrived.hop, node.run.data.nodes)
    onward, residual = pack(
        damped(tensors, trained, share),
        codec=walk.codec,
        residual=residual_of(context) if walk.codec != "fp32" else None,
        samples=arrived.samples + samples,
        **next_header(node, arrived, context),
    )
    if residual:
        context.state[RESIDUAL] = ArrayRecord(residual)
    if walk.carry_optimizer:
        context.state[OPTIMIZER] = ArrayRecord(optimizer_state)
    custody.keep(onward)
    return Message(sent_records(onward, context), reply_to=message)


def local_update(
    node: Node,
    tensors: Mapping[str, Tensor],
    arrived: Packet,
    optimizer_state: Mapping[str, Tensor] | None,
) -> tuple[dict[str, Tensor], int, dict[str, Tensor]]:
    """Train until the local epochs are spent, or the packet's accuracy gate is passed.

    Returns
    -------
    tuple
        Trained tunables, samples processed, and the optimiser's state.
    """
    epochs = node.run.train.local_epochs
    if arrived.gate == 0:
        trained, result = node.fit(tensors, step=arrived.hop, optimizer_state=optimizer_state)
        return trained, result.samples, result.optimizer_state
    samples, trained = 0, dict(tensors)
    for epoch in range(epochs):
        trained, result = node.fit(
            trained,
            step=arrived.hop * epochs + epoch,
            epochs=1,
            optimizer_state=optimizer_state,
        )
        samples, optimizer_state = samples + result.samples, result.optimizer_state
        if node.evaluate(trained).accuracy >= arrived.gate:
            break
    return trained, samples, dict(optimizer_state or {})


def damped(
    arrived: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Move from the arriving tunables towards the trained ones by `share` of the way."""
    if share == 1:
        return dict(trained)
    return {name: torch.lerp(arrived[name], trained[name], share) for name in arrived}


def next_header(node: Node, arrived: Packet, context: Context) -> dict[str, Any]:
    """Add this visit to the header and name the next hop."""
    counts = tuple((np.asarray(arrived.seen) + node.label_counts).tolist())
    visited = (*arrived.visited, node.address)[-64:]
    return {
        "packet_id": arrived.packet_id,
        "model_id": arrived.model_id,
        "parent": arrived.version,
        "source": node.address,
        "destination": next_hop(node, context, arrived.hop + 1, visited, counts),
        "ttl": arrived.ttl - 1,
        "hop": arrived.hop + 1,
        "visited": visited,
        "gate": arrived.gate,
        "seen": counts,
        "walker": arrived.walker,
    }


def residual_of(context: Context) -> dict[str, Tensor] | None:
    """Return what this node's earlier encodings dropped."""
    record = context.state.array_records.get(RESIDUAL)
    return record.to_torch_state_dict() if record else None


def sent_records(packet: Packet, context: Context) -> RecordDict:
    """Return the packet as it travels, with the optimiser's state if that goes along."""
    content = packet.to_record()
    if (state := context.state.array_records.get(OPTIMIZER)) is not None:
        content[OPTIMIZER] = state
    return content


class MFDWalk(OwnLoop, Strategy):
    """One walker over all nodes.

    Parameters
    ----------
    run : RunConfig
        Settings of the run.
    policy : str (default: "label-balance")
        How a holder chooses the next hop, a key of `mfd_flower.routing.POLICIES`.
    policy_options : dict, optional
        Options of the policy.
    damping_start : float (default: 1.0)
        Share of its update that a node passes on at the first hop; 1 passes on all of it.
    damping_end : float (default: 1.0)
        The share after `damping_tours` tours, reached on a straight line.
    damping_tours : float (default: 2.0)
        Tours (as many hops as nodes) over which the share changes.
    memory : int (default: 0)
        Nodes most recently left that a packet does not return to while others are there, up to 64.
    codec : str (default: "fp32")
        How tunables travel: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    gate : float (default: 0.0)
        Accuracy on local data from which a node sends the model on before its epochs are spent.
    carry_optimizer : bool (default: False)
        Send the optimiser's state along, which AdamW's triples the packet with.
    start_node : int (default: 0)
        Index of the node where the walk begins.
    """

    client_actions: ClassVar = {**FORWARDING_ACTIONS, "train.hop": hop}
    links: ClassVar = FORWARDING_LINKS

    def __init__(
        self,
        run: RunConfig,
        policy: str = "label-balance",
        policy_options: dict[str, float | str] | None = None,
        damping_start: float = 1.0,
        damping_end: float = 1.0,
        damping_tours: float = 2.0,
        memory: int = 0,
        codec: str = "fp32",
        gate: float = 0.0,
        carry_optimizer: bool = False,
        start_node: int = 0,
    ) -> None:
        if codec not in CODECS:
            raise ConfigError("options.codec", codec, f"accepted: {', '.join(CODECS)}")
        for name, value in (("damping_start", damping_start), ("damping_end", damping_end)):
            if not 0 < value <= 1:
                raise ConfigError(f"options.{name}", value, "must be above 0 and at most 1")
        if not 0 <= gate <= 1:
            raise ConfigError("options.gate", gate, "must be from 0 to 1")
        if not 0 <= start_node < run.data.nodes:
            raise ConfigError("options.start_node", start_node, f"below {run.data.nodes} nodes")
        self.run = run
        self.route = Route(policy, policy_options or {}, memory)
        self.damping_start = damping_start
        self.damping_end = damping_end
        self.damping_tours = damping_tours
        self.codec = codec
        self.gate = gate
        self.carry_optimizer = carry_optimizer
        self.start_node = start_node

    def damping_at(self, number: int, nodes: int) -> float:
        """Return the share of its update that hop `number` (from 1) passes on."""
        span = self.damping_tours * nodes
        done = min(1.0, (number - 1) / span) if span > 0 else 1.0
        return self.damping_start + (self.damping_end - self.damping_start) * done

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Carry the packet for `num_rounds` tours and evaluate it after every hop."""
        if not isinstance(grid, MeteredGrid):
            raise TypeError("a walk needs a MeteredGrid, which knows the nodes' addresses")
        nodes = self.run.data.nodes
        carrier = Carrier(grid, neighbours_of(self.run.network, nodes, self.run.seed), timeout)
        classes = carrier.exchange_adverts()
        result = Result(arrays=initial_arrays)
        if evaluate_fn:
            evaluate_fn(0, initial_arrays)
        origin = f"n{self.start_node}"
        packet, _ = pack(
            initial_arrays.to_torch_state_dict(),
            packet_id=f"{self.run.seed:032x}",
            model_id=self.run.model.backbone.partition(":")[0],
            source=origin,
            destination=origin,
            ttl=num_rounds * nodes,
            hop=1,
            gate=self.gate,
            seen=(0.0,) * classes,
            codec=self.codec,
        )
        content = packet.to_record()
        while packet.ttl > 0:
            packet, content = carrier.deliver(packet, content)
            result.arrays = ArrayRecord(packet.decoded())
            number = packet.hop - 1
            if evaluate_fn and (metrics := evaluate_fn(number, result.arrays)) is not None:
                result.evaluate_metrics_serverapp[number] = metrics
        return result
