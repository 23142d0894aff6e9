"""What a node does to a packet on a visit: trains it, mixes it with others, heads it onward.

Whitepaper, sections 2.3 and 2.6. Nothing here knows how the packet came or where it is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context
from torch import Tensor

from mfd_flower.forwarding.announce import announced_counts
from mfd_flower.forwarding.custody import Custody
from mfd_flower.forwarding.holder import next_hop
from mfd_flower.models.partial import idle_hops, selected, update_share
from mfd_flower.node import Node
from mfd_flower.packets import Packet
from mfd_flower.records import tensors_of

RESIDUAL = "residual"
MERGED = "merged"
WALKER_STEPS = 1 << 20
"""Hops that a walker may make before its randomness would be that of the next one."""


def local_update(
    node: Node,
    tensors: Mapping[str, Tensor],
    arrived: Packet,
    optimizer_state: Mapping[str, Tensor] | None,
    only: Collection[str],
) -> tuple[dict[str, Tensor], int, dict[str, Tensor]]:
    """Train until the local epochs are spent, or the packet's accuracy gate is passed.

    Returns
    -------
    tuple
        Trained tunables, samples processed, and the optimiser's state.
    """
    epochs = node.run.train.local_epochs
    first = int(arrived.walker.removeprefix("w")) * WALKER_STEPS
    if arrived.gate == 0:
        trained, result = node.fit(
            tensors, first + arrived.hop, optimizer_state=optimizer_state, only=only
        )
        return trained, result.samples, result.optimizer_state
    samples, trained = 0, dict(tensors)
    for epoch in range(epochs):
        trained, result = node.fit(
            trained,
            first + arrived.hop * epochs + epoch,
            epochs=1,
            optimizer_state=optimizer_state,
            only=only,
        )
        samples, optimizer_state = samples + result.samples, result.optimizer_state
        if node.evaluate(trained).accuracy >= arrived.gate:
            break
    return trained, samples, dict(optimizer_state or {})


def next_header(
    node: Node, context: Context, arrived: Packet, noise_epsilon: float, avoid: Collection[str]
) -> dict[str, Any]:
    """Add this visit to the header and name the next hop, none of `avoid`."""
    own = announced_counts(node, noise_epsilon)
    counts = tuple((np.asarray(arrived.seen) + own).tolist())
    visited = (*arrived.visited, node.address)[-64:]
    return {
        "source": node.address,
        "destination": next_hop(node, context, arrived.hop + 1, visited, counts, avoid),
        "ttl": arrived.ttl - 1,
        "hop": arrived.hop + 1,
        "visited": visited,
        "seen": counts,
    }


def chosen(
    node: Node,
    tensors: Mapping[str, Tensor],
    arrived: Packet,
    select: str,
    budget: float,
    visit_s: float,
) -> set[str]:
    """Return the tunables that a visit updates, see `models.partial`.

    Parameters
    ----------
    select : str
        ``all``, ``entropy`` or ``least-recent``.
    budget, visit_s : float
        Largest share of the values, and virtual seconds of the visit (0 for no limit).
    """
    if select == "all":
        return set(tensors)
    sizes = {name: tensor.numel() for name, tensor in tensors.items()}
    network = node.run.network
    share = update_share(
        budget,
        sum(t.nbytes for t in arrived.payload.values()),
        network.d2d_bps,
        node.fit_flops() / network.flops_per_s,
        visit_s,
    )
    scores = (
        node.gradient_entropy(tensors)
        if select == "entropy"
        else idle_hops(sizes, arrived.updated, arrived.hop)
    )
    return selected(scores, sizes, share)


def residual_of(context: Context) -> dict[str, Tensor] | None:
    """Return what this node's earlier encodings dropped."""
    record = context.state.array_records.get(RESIDUAL)
    return tensors_of(record) if record else None


def merged(
    tensors: dict[str, Tensor], packet: Packet, custody: Custody, context: Context
) -> tuple[dict[str, Tensor], list[str]]:
    """Average a walker with the versions that others left here, weighted by samples trained on.

    Each version counts once.

    Returns
    -------
    tensors : dict of str to Tensor
        The average; the same object if there was nothing to mix in.
    versions : list of str
        What was mixed in.
    """
    done = dict(context.state.config_records.get(MERGED, {}))
    versions = []
    for walker in custody.walkers():
        other = custody.held(walker)
        if walker == packet.walker or other is None or done.get(walker) == other.hop:
            continue
        both = other.samples + packet.samples
        tensors = averaged(tensors, other.decoded(), other.samples / both)
        done[walker] = other.hop
        versions.append(other.version)
    context.state[MERGED] = ConfigRecord(done)
    return tensors, versions


def averaged(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Return `one` moved towards `other` by `share` of the way."""
    return {name: torch.lerp(tensor, other[name], share) for name, tensor in one.items()}
