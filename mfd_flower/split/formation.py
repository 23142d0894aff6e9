"""Clusters and cuts from what nodes tell, what the world says of devices and links, and costs.

The server plans by messages alone: nobody tells it who holds which data but the nodes themselves.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from mfd_flower.checks import ConfigError
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
    """Give every stage as many blocks as any other, or one more or less.

    With one stage more than blocks the first has Emb alone.
    """
    if stages > depth:
        return tuple(range(depth))
    return tuple(round(depth * place / stages) for place in range(1, stages))


class Formation:
    """Who is in which cluster and who is idle, as members fail and as links come and go.

    Parameters
    ----------
    number, size
        Clusters, and the clients in each.
    by_plan
        Whether they are planned; else the first cluster has the first nodes, and so on.
    costs_of
        What a model takes that so many members share: that of all blocks where cuts are free, else
        of the stages.
    """

    def __init__(
        self,
        world: World,
        number: int,
        size: int,
        *,
        by_plan: bool,
        costs_of: Callable[[int], BlockCosts],
    ) -> None:
        self.world, self.number, self.size = world, number, size
        self.by_plan, self.costs_of = by_plan, costs_of
        self.changing = math.isfinite(world.next_change_s(0.0))
        """Whether links come and go: clusters are formed anew when one breaks."""
        self.clusters: list[list[str]] = []
        self.idle: list[str] = []
        self.labels: Mapping[str, Sequence[float]] = {}
        """What nodes told of their labels, if clusters are planned."""

    def form(self, grid: MeteredGrid, timeout: float) -> None:
        """Form clusters; where links come and go, as many as there can be."""
        if self.changing:
            self._form_anew(grid, timeout)
        elif self.by_plan:
            self.labels = ask_labels(grid, grid.nodes, timeout)
            clusters = self._planned([*self.labels], self.number, self.size, grid.virtual_seconds)
            self._take(clusters, [*self.labels])
        else:
            starts, nodes = range(0, self.number * self.size, self.size), grid.nodes
            self._take([nodes[start : start + self.size] for start in starts], nodes)

    def renew(self, grid: MeteredGrid, timeout: float) -> None:
        """Form clusters anew if links come and go and one is broken, or an idle node may fit."""
        if not self.changing:
            return
        self._take(self.clusters, grid.nodes)
        seats = self.number * self.size - sum(map(len, self.clusters))
        if (seats and self.idle) or not self._whole(grid):
            self._form_anew(grid, timeout)

    def without(self, cluster: int, lost: Collection[str], at_s: float) -> None:
        """Mend a cluster that lost members by idle nodes, or let its survivors share the blocks.

        Where links come and go the next round's `renew` does that.
        """
        if self.changing:
            return
        there = [name for name in self.clusters[cluster] if name not in lost] + self.idle
        self.clusters[cluster] = self._one_of(there, at_s)
        self.idle = [name for name in there if name not in self.clusters[cluster]]

    def _whole(self, grid: MeteredGrid) -> bool:
        """Tell whether all members are there and reach each other now."""
        there, at_s = {*grid.nodes}, grid.virtual_seconds
        for cluster in self.clusters:
            if not {*cluster} <= there:
                return False
            for name, following in zip(cluster, [*cluster[1:], cluster[0]], strict=True):
                reached = (name, *self.world.neighbours(name, at_s))
                if following not in reached:
                    return False
        return bool(self.clusters)

    def _form_anew(self, grid: MeteredGrid, timeout: float) -> None:
        """Form as many clusters as the links of now give.

        With no node at all there the round passes until links change.
        """
        nodes, at_s = grid.nodes, grid.virtual_seconds
        strangers = [name for name in nodes if name not in self.labels]
        if strangers:
            self.labels = {**self.labels, **ask_labels(grid, strangers, timeout)}
        nodes = [name for name in nodes if name in self.labels]
        clusters: list[list[str]] = []
        for number in range(self.number, 0, -1):
            with contextlib.suppress(ConfigError):
                clusters = self._planned(nodes, number, self.size, at_s)
                break
        else:
            clusters = [one] if (one := self._one_of(nodes, at_s)) else []
        if not clusters:
            grid.wait_until(self.world.next_change_s(at_s))
        self._take(clusters, nodes)

    def _one_of(self, there: Sequence[str], at_s: float) -> list[str]:
        """Return a cluster of these nodes, of fewer members if need be."""
        if not self.by_plan:
            return [*there[: self.size]]
        for size in range(min(self.size, len(there)), 0, -1):
            with contextlib.suppress(ConfigError):
                (cluster,) = self._planned(there, 1, size, at_s)
                return cluster
        return []

    def _planned(
        self, nodes: Sequence[str], number: int, size: int, at_s: float
    ) -> list[list[str]]:
        labels = {name: self.labels[name] for name in nodes}
        return form_clusters(labels, number, size, self.costs_of(size), self.world, at_s)

    def _take(self, clusters: list[list[str]], nodes: Sequence[str]) -> None:
        self.clusters = clusters
        self.idle = [name for name in nodes if not any(name in each for each in clusters)]
