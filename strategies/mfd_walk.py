"""MFD walk: one model travels from node to node and is trained where it lands.

*Foundation Model-Oriented 6G Network Distributed Learning*, sections 2.3 and 2.6. The node that
holds the packet trains on its own data, updates what the packet has seen, and names the next hop
from its own routing table; the server half only carries messages and watches. One hop is one
transfer node to node (``d2d``), although Flower's star carries it in two messages (``relay``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from mfd_flower.config import ConfigError
from mfd_flower.node import Node
from mfd_flower.records import integer, text
from mfd_flower.routing import POLICIES, Candidate, choose
from mfd_flower.runtime.metered_grid import SOURCE, MeteredGrid
from mfd_flower.strategy import OwnLoop, build_strategy

TABLE = "routing-table"
OPTIMIZER = "optimizer"


class WalkFailedError(RuntimeError):
    """The walk cannot go on: a holder failed, or named a next hop that does not exist."""


def advert(message: Message, context: Context) -> Message:
    """Announce address and label counts to the neighbours."""
    node = Node.of(context)
    record = ConfigRecord({"address": node.address, "labels": node.label_counts.tolist()})
    return Message(RecordDict({"advert": record}), reply_to=message)


def receive_adverts(message: Message, context: Context) -> Message:
    """Fill the routing table from neighbours' adverts."""
    for record in message.content.config_records.values():
        context.state[f"{TABLE}.{text(record, 'address')}"] = record
    return Message(RecordDict(), reply_to=message)


def hop(message: Message, context: Context) -> Message:
    """Train the arriving packet on this node's data and name its next hop."""
    node = Node.of(context)
    walk = build_strategy(node.run)
    assert isinstance(walk, MFDWalk)
    header = message.content.config_records["header"]
    number = integer(header, "hop")
    arrived = message.content.array_records["arrays"].to_torch_state_dict()
    carried = message.content.array_records.get(OPTIMIZER)
    trained, result = node.fit(
        arrived,
        step=number,
        optimizer_state=carried.to_torch_state_dict() if carried else None,
    )
    share = walk.damping_at(number, node.run.data.nodes)
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        "arrays": ArrayRecord(damped(arrived, trained, share))
    }
    if walk.carry_optimizer:
        records[OPTIMIZER] = ArrayRecord(result.optimizer_state)
    records["header"] = next_header(node, walk, header, context)
    return Message(RecordDict(records), reply_to=message)


def damped(
    arrived: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Move from the arriving tunables towards the trained ones by `share` of the way."""
    if share == 1:
        return dict(trained)
    return {name: torch.lerp(arrived[name], trained[name], share) for name in arrived}


def next_header(node: Node, walk: MFDWalk, header: ConfigRecord, context: Context) -> ConfigRecord:
    """Add this visit to the header and choose the next hop from the node's own table."""
    number = integer(header, "hop")
    seen = np.asarray(header["seen"], dtype=float) + node.label_counts
    visited = [*header["visited"], node.index]  # type: ignore[misc]
    visited = visited[-walk.memory :] if walk.memory else []
    table = routing_table(context, visited, number)
    fresh = [c for c in table if int(c.address.removeprefix("n")) not in visited]
    here = Candidate(node.address, tuple(node.label_counts), len(node.samples))
    # With every neighbour visited of late, the one left longest ago is the freshest.
    oldest = min((c.last_visit for c in table), default=-1)
    candidates = fresh or [c for c in table if c.last_visit == oldest]
    rng = node.rng(number, purpose=1)
    destination = choose(walk.policy, here, candidates, seen, rng) if candidates else node.address
    return ConfigRecord(
        {
            "hop": number + 1,
            SOURCE: node.address,
            "destination": destination,
            "seen": seen.tolist(),
            "visited": visited,
        }
    )


def routing_table(context: Context, visited: list[int], number: int) -> list[Candidate]:
    """Return the neighbours this node knows, with the hop of their last visit."""
    last = {f"n{index}": number - len(visited) + place + 1 for place, index in enumerate(visited)}
    table = []
    for name, record in context.state.config_records.items():
        if not name.startswith(TABLE):
            continue
        address = text(record, "address")
        counts = tuple(float(v) for v in record["labels"])  # type: ignore[union-attr]
        table.append(Candidate(address, counts, int(sum(counts)), last_visit=last.get(address, -1)))
    return table


class MFDWalk(OwnLoop, Strategy):
    """One walker over all nodes.

    Parameters
    ----------
    policy : str (default: "label-balance")
        How a holder chooses the next hop: ``random``, ``round-robin``, ``kl-near`` or
        ``label-balance``.
    damping_start : float (default: 1.0)
        Share of its update that a node passes on at the first hop; 1 passes on all of it.
    damping_end : float (default: 1.0)
        The share after `damping_tours` tours, reached on a straight line.
    damping_tours : float (default: 2.0)
        Tours (as many hops as nodes) over which the share changes.
    memory : int (default: 0)
        Nodes most recently left that a packet does not return to while others are there.
    carry_optimizer : bool (default: False)
        Send the optimiser's state along, which AdamW's triples the packet with.
    start : int (default: 0)
        Index of the node where the walk begins.
    """

    client_actions: ClassVar = {
        "query.advert": advert,
        "query.table": receive_adverts,
        "train.hop": hop,
    }
    links: ClassVar = {"query.advert": "relay", "query.table": "d2d", "train.hop": "d2d"}

    def __init__(
        self,
        policy: str = "label-balance",
        damping_start: float = 1.0,
        damping_end: float = 1.0,
        damping_tours: float = 2.0,
        memory: int = 0,
        carry_optimizer: bool = False,
        start: int = 0,
    ) -> None:
        if policy not in POLICIES:
            raise ConfigError("options.policy", policy, f"accepted: {', '.join(POLICIES)}")
        for name, value in (("damping_start", damping_start), ("damping_end", damping_end)):
            if not 0 < value <= 1:
                raise ConfigError(f"options.{name}", value, "must be above 0 and at most 1")
        self.policy = policy
        self.damping_start = damping_start
        self.damping_end = damping_end
        self.damping_tours = damping_tours
        self.memory = memory
        self.carry_optimizer = carry_optimizer
        self.start_index = start

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
        nodes = list(grid.get_node_ids())
        classes = self._exchange_adverts(grid, nodes, timeout)
        result = Result(arrays=initial_arrays)
        if evaluate_fn:
            evaluate_fn(0, initial_arrays)
        origin = grid.address(nodes[self.start_index % len(nodes)])
        header = ConfigRecord(
            {"hop": 1, "destination": origin, "seen": [0.0] * classes, "visited": []}
        )
        content = RecordDict({"arrays": initial_arrays, "header": header})
        for number in range(1, num_rounds * len(nodes) + 1):
            content = self._carry(grid, content, timeout)
            result.arrays = content.array_records["arrays"]
            if evaluate_fn and (metrics := evaluate_fn(number, result.arrays)) is not None:
                result.evaluate_metrics_serverapp[number] = metrics
        return result

    def _carry(self, grid: MeteredGrid, content: RecordDict, timeout: float) -> RecordDict:
        """Deliver a packet to the destination in its header; returns what the holder hands on."""
        destination = text(content.config_records["header"], "destination")
        request = Message(content, grid.node_id(destination), "train.hop")
        replies = list(grid.send_and_receive([request], timeout=timeout))
        if not replies:
            raise WalkFailedError(f"{destination} did not answer within {timeout:g} s")
        if replies[0].has_error():
            raise WalkFailedError(f"{destination}: {replies[0].error.reason}")
        return replies[0].content

    def _exchange_adverts(self, grid: MeteredGrid, nodes: list[int], timeout: float) -> int:
        """Carry every node's advert to every other node; returns the number of classes."""
        ask = RecordDict({"config": ConfigRecord({"ask": "advert"})})
        requests = [Message(ask, node_id, "query.advert") for node_id in nodes]
        adverts = {
            reply.metadata.src_node_id: reply.content.config_records["advert"]
            for reply in grid.send_and_receive(requests, timeout=timeout)
            if reply.has_content()
        }
        if len(adverts) != len(nodes):
            reason = grid.failures[-1] if grid.failures else "no answer in time"
            found = f"{len(adverts)} of {len(nodes)} nodes announced themselves"
            raise WalkFailedError(f"{found}; last reason: {reason}")
        deliveries = []
        for node_id in nodes:
            known = RecordDict()
            for other, record in adverts.items():
                if other != node_id:
                    known[text(record, "address")] = record
            if known:
                deliveries.append(Message(known, node_id, "query.table"))
        grid.send_and_receive(deliveries, timeout=timeout)
        return len(next(iter(adverts.values()))["labels"])  # type: ignore[arg-type]
