"""Clusters and cuts from what nodes tell, what the world says of devices and links, and costs.

The server plans by messages alone: nobody tells it who holds which data but the nodes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from mfd_flower.network.world import World
from mfd_flower.node import Node
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.split.clusters import Member, plan_clusters
from mfd_flower.split.costs import BlockCosts
from mfd_flower.split.cuts import plan_cuts

MOST_SAMPLES = 1 << 53


def tell_labels(message: Message, context: Context) -> Message:
    """Say how many samples of each class this node has."""
    counts = MetricRecord({"label-counts": Node.of(context).label_counts.tolist()})
    return Message(RecordDict({"labels": counts}), reply_to=message)


def ask_labels(
    grid: MeteredGrid, nodes: Sequence[str], timeout: float
) -> dict[str, tuple[float, ...]]:
    """Ask nodes what they have; those that tell nothing that can be are left out."""
    ask = RecordDict({"config": ConfigRecord({"ask": "labels"})})
    told = {}
    for name, answer in grid.ask("query.labels", dict.fromkeys(nodes, ask), timeout).items():
        counts = answer.metric_records.get("labels", MetricRecord()).get("label-counts")
        if isinstance(counts, list) and all(0 <= count <= MOST_SAMPLES for count in counts):
            told[name] = tuple(map(float, counts))
    return told


def form_clusters(
    labels: Mapping[str, Sequence[float]],
    number: int,
    size: int,
    costs: BlockCosts,
    world: World,
    at_s: float,
) -> list[list[str]]:
    """Join nodes into `number` rings of `size`; ConfigError if there are none.

    `labels` are samples of each class by address, of all who may be joined. `costs` are those of
    all blocks where cuts are free, else of the stages.
    """
    views = {name: world.seen_by(name, at_s) for name in labels}
    members = [
        Member(name, view.device.flops_per_s, view.device.memory_bytes, tuple(labels[name]))
        for name, view in views.items()
    ]
    links = {a: {b: view.rate_to_bps(b) for b in view.neighbours} for a, view in views.items()}
    found = plan_clusters(
        members,
        links,
        number=number,
        size=size,
        costs=costs.flops,
        memory=costs.memory_bytes,
        cut_bytes=costs.cut_bytes,
        closed=True,
    )
    return [list(cluster.addresses) for cluster in found]


def cut_by_cost(
    costs: BlockCosts, members: Sequence[str], world: World, at_s: float
) -> tuple[int, ...]:
    """Cut a model for `members` in a row, so that a training step is as fast as can be.

    A link is as slow as its slower direction, since gradients go back.
    """
    views = [world.seen_by(name, at_s) for name in members]
    links = zip(views, members[1:], strict=False)
    rates = [min(view.rate_to_bps(peer), view.rate_from_bps(peer)) for view, peer in links]
    speeds = [view.device.flops_per_s for view in views]
    memory, limits = costs.memory_bytes, [view.device.memory_bytes for view in views]
    cut_bytes = costs.cut_bytes
    return tuple(
        plan_cuts(costs.flops, speeds, memory, limits, cut_bytes=cut_bytes, link_bps=rates)
    )


def even_cuts(depth: int, stages: int) -> tuple[int, ...]:
    """Give every stage as many blocks as any other, or one more or less."""
    return tuple(round(depth * place / stages) for place in range(1, stages))
