"""Cloud, edge and end: each domain learns below its edge server, all of them through the cloud.

*GaisNet* (arXiv 2401.02668), sections II-B to II-D. The inner loop is HFSL below each edge server,
whose clusters of one node are FedAvg, on the clients whose data fit its domain. The outer loop is
FedAvg of the edge servers at the cloud, over the backhaul: knowledge flows up and back down, and
neither sees a picture. Domains with unlike classes share all but the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from torch import Tensor

from mfd_flower.checks import ConfigError, bounded
from mfd_flower.config import RunConfig
from mfd_flower.node import initial_tunables
from mfd_flower.records import integer, joined, part_of, plain_record, plain_values, tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import Step
from mfd_flower.split import formation
from mfd_flower.split.domains import LOSSES, SKETCH, ask_best, ask_groups, tell_losses, tell_sketch
from mfd_flower.split.roster import Roster
from strategies.hfsl import HFSL, HFSLOptions


@dataclass(frozen=True)
class CloudEdgeOptions(HFSLOptions):
    """What is between the cloud and the edge servers, and below each of those as `HFSLOptions`."""

    clusters: int = bounded(0, 0)
    """0: as many as its clients make."""
    cluster_size: int = bounded(1, 1)
    edges: int = bounded(2, 1, 64)
    """Edge servers, each with a domain."""
    inner: int = bounded(1, 1)
    """Rounds below the edge servers between two of the cloud's."""
    shared: Literal["body", "all", "nothing"] = "body"
    """What goes over the cloud: all but the head, the head too, or nothing."""
    keep: float = bounded(0.0, 0.0, 1.0)
    """Share of its own that an edge server keeps of what comes back."""
    rematch: int = bounded(0, 0)
    """Rounds after which clients go to the domain whose model loses least on their data; 0, never:
    they stay with those whose features are like theirs."""


class CloudEdge(HFSL):
    """One cloud, some edge servers, and clusters of clients below each of them."""

    Options: ClassVar = CloudEdgeOptions
    client_actions: ClassVar = {
        **HFSL.client_actions,
        SKETCH: tell_sketch,
        LOSSES: tell_losses,
    }

    def __init__(self, run: RunConfig, **options: Any) -> None:
        super().__init__(run, **options)
        self.options: CloudEdgeOptions
        edges, nodes = self.options.edges, run.data.nodes
        self.concurrent_nodes = edges * max(1, self.options.clusters) * self.clients
        if self.concurrent_nodes > nodes:
            accepted = (
                f"at most {nodes // (self.concurrent_nodes // edges)}: there are {nodes} nodes"
            )
            raise ConfigError("options.edges", edges, accepted)
        if self.formation.changing:
            accepted = "accepted by cloud-edge: links that do not change"
            raise ConfigError("network.world", run.network.world, accepted)
        self.groups: list[list[str]] = []
        """The clients of each edge server."""
        self.edges: list[ArrayRecord] = []
        """Their models."""
        self.formations: list[formation.Formation] = []
        """Who is in which cluster below each of them."""

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        """Train `num_rounds` rounds below the edge servers; a step is what the cloud has then."""
        start = initial_tunables(self.run)
        if not self.done:
            yield Step(0, arrays)
            self.groups = ask_groups(grid, self.options.edges, timeout)
            self.edges = [arrays] * len(self.groups)
            self._seat(grid, timeout)
        for number in range(self.done + 1, num_rounds + 1):
            every = self.options.rematch
            if every and number > 1 and (number - 1) % every == 0:
                self._match_anew(grid, timeout)
            samples = self._inner(grid, number, timeout)
            if number % self.options.inner == 0 and self.options.shared != "nothing":
                self._through_the_cloud(grid, samples)
            self.done = number
            yield Step(number, ArrayRecord(one_of_all(start, [*map(tensors_of, self.edges)])))

    @property
    def own(self) -> dict[str, ArrayRecord]:
        """The model of each client's domain, by node."""
        return {n: self.edges[e] for e, group in enumerate(self.groups) for n in group}

    def _seat(self, grid: MeteredGrid, timeout: float) -> None:
        """Form the clusters of each edge server among its clients."""
        self.formations = [self._formation(group) for group in self.groups]
        for group, of_edge in zip(self.groups, self.formations, strict=True):
            # What a formation asks of a grid, of these clients alone.
            below: Any = SimpleNamespace(
                nodes=group, ask=grid.ask, virtual_seconds=grid.virtual_seconds
            )
            of_edge.form(below, timeout)

    def _formation(self, group: Sequence[str]) -> formation.Formation:
        return formation.Formation(
            self.world,
            self.options.clusters or max(1, len(group) // self.clients),
            self.clients,
            by_plan=self.options.form == "planned",
            costs_of=self.costs_of,
        )

    def _match_anew(self, grid: MeteredGrid, timeout: float) -> None:
        """Let clients go to the domain whose model loses least on their data."""
        nodes = sorted((n for group in self.groups for n in group), key=lambda n: int(n[1:]))
        best = ask_best(grid, nodes, self.edges, timeout)
        before = {n: edge for edge, group in enumerate(self.groups) for n in group}
        found: list[list[str]] = [[] for _ in self.groups]
        for name in nodes:
            found[best.get(name, before[name])].append(name)
        if found != self.groups:
            self.groups = found
            self._seat(grid, timeout)

    def _inner(self, grid: MeteredGrid, number: int, timeout: float) -> list[float]:
        """Let all edge servers' clusters train a round; returns the samples below each."""
        rosters, edge_of = list[Roster](), list[int]()
        for edge, of_edge in enumerate(self.formations):
            for clients in filter(None, of_edge.clusters):
                rosters.append(self.roster(number, len(rosters), clients, grid.virtual_seconds))
                edge_of.append(edge)
        rosters = self.met(grid, rosters, timeout)
        outcomes = self.trained(grid, rosters, [self.edges[edge] for edge in edge_of], timeout)
        samples = [0.0] * len(self.edges)
        for edge, of_edge in enumerate(self.formations):
            here = [place for place, other in enumerate(edge_of) if other == edge]
            done = [content for place in here if (content := outcomes[place].content)]
            if done:
                self.edges[edge] = aggregate_arrayrecords(done, "num-examples")
                self.finished += 1
                samples[edge] = float(sum(examples_in(content) for content in done))
            for cluster, place in enumerate(here):
                if lost := outcomes[place].lost:
                    of_edge.without(cluster, lost, grid.virtual_seconds)
        return samples

    def _through_the_cloud(self, grid: MeteredGrid, samples: Sequence[float]) -> None:
        """Average what edge servers share, by samples, and hand it down; the backhaul is billed."""
        models = [tensors_of(edge) for edge in self.edges]
        names = [n for n in models[0] if self.options.shared == "all" or not n.startswith("head.")]
        up = [{name: model[name] for name in names} for model in models]
        total = sum(samples)
        if not total:
            return
        cloud = {
            name: torch.stack(
                [share / total * each[name] for share, each in zip(samples, up, strict=True)]
            ).sum(0)
            for name in names
        }
        down = RecordDict({"arrays": ArrayRecord(cloud)})
        ups = [RecordDict({"arrays": ArrayRecord(each)}) for each in up]
        grid.bill_backhaul("train.cloud", ups)
        grid.bill_backhaul("train.cloud", [down] * len(models))
        self.edges = [
            ArrayRecord({**m, **{n: torch.lerp(cloud[n], m[n], self.options.keep) for n in names}})
            for m in models
        ]

    def state_dict(self) -> RecordDict:
        """Return all models, and who is below which edge server, after the last round."""
        seats = [
            {name: getattr(each, name) for name in ("clusters", "idle", "labels")}
            for each in self.formations
        ]
        told = {"groups": self.groups, "seats": seats}
        models = RecordDict({str(place): model for place, model in enumerate(self.edges)})
        plain = RecordDict({"domains": plain_record(told)})
        return joined({"loop": super().state_dict(), "domains": plain, "edges": models})

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on behind that round."""
        super().load_state_dict(part_of(state, "loop"))
        told = plain_values(part_of(state, "domains").config_records["domains"])
        models = part_of(state, "edges").array_records
        self.groups = told["groups"]
        self.edges = [models[str(place)] for place in range(len(models))]
        self.formations = [self._formation(group) for group in self.groups]
        for of_edge, seats in zip(self.formations, told["seats"], strict=True):
            vars(of_edge).update(seats)


def examples_in(content: RecordDict) -> int:
    """Return how many samples a cluster's round was over."""
    return sum(integer(record, "num-examples") for record in content.metric_records.values())


def one_of_all(
    start: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return one model of all domains: the mean, but for the head each class's own row.

    That is the row of the domain that has moved it most since the `start`.
    """
    found = {name: torch.stack([m[name] for m in models]).mean(0) for name in start}
    moved = torch.stack([(m["head.weight"] - start["head.weight"]).norm(dim=1) for m in models])
    best = moved.argmax(0).tolist()
    for name in ("head.weight", "head.bias"):
        found[name] = torch.stack([models[best[row]][name][row] for row in range(len(best))])
    return found
