"""HeteroFL: FedAvg over models of unlike sizes, each a slice of the largest.

Diao, Ding and Tarokh 2021, *HeteroFL* (arXiv 2010.01264), section 3: in each round the server sends
every node its slice of the global model, and a parameter becomes the mean over the nodes that have
it. A slice is what stays of the model when it is cut to the node's own size
(`mfd_flower.scaling.Cut`), blocks included; a node without a profile has all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from mfd_flower.checks import ConfigError, bounded, build
from mfd_flower.config import RunConfig
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.resizing import Resizing, resizing
from mfd_flower.node import Node
from mfd_flower.profiles import own_settings
from mfd_flower.records import integer, number, tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import Rounds, Step
from mfd_flower.scaling import Cut


@dataclass(frozen=True)
class HeteroFLOptions:
    """Who takes part."""

    fraction_train: float = bounded(1.0, 0.0, 1.0, open_low=True)
    """Share of the nodes in each round, drawn anew; at least one."""


def train_slice(message: Message, context: Context) -> Message:
    """Train this node's slice on its own data."""
    node = Node.of(context)
    step = integer(message.content.config_records["config"], "round")
    tensors = tensors_of(message.content.array_records["arrays"])
    trained, result = node.own.fit(tensors, step=step)
    told = MetricRecord({"num-examples": node.num_samples, "train-loss": result.loss})
    return Message(RecordDict({"arrays": ArrayRecord(trained), "told": told}), reply_to=message)


class HeteroFL(Rounds, Strategy):
    """Average slices of one model."""

    Options: ClassVar = HeteroFLOptions
    client_actions: ClassVar = {"train.slice": train_slice}
    own_models: ClassVar = staticmethod(lambda run: "sized")

    def __init__(self, run: RunConfig, **options: Any) -> None:
        self.run = run
        self.options: HeteroFLOptions = build(HeteroFLOptions, options, "options.")
        classes = federation_of(run).num_classes
        self.ways: dict[str, Resizing] = {}
        for index in range(run.data.nodes):
            own = own_settings(run, index)
            way = resizing(run.model, own.model, classes, run.seed)
            if way.change is not None and not isinstance(way.change, Cut):
                accepted = "no node's model is larger than the one that is sliced"
                raise ConfigError("profiles.model", own.model.embed_dim, accepted)
            self.ways[f"n{index}"] = way

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        """Slice, train and average `num_rounds` times."""
        if not self.done:
            yield Step(0, arrays)
        whole = tensors_of(arrays)
        for number_of_round in range(self.done + 1, num_rounds + 1):
            self.done = number_of_round
            config = ConfigRecord({"round": number_of_round})
            contents = {
                name: RecordDict(
                    {"arrays": ArrayRecord(self.ways[name].there(whole)), "config": config}
                )
                for name in self._drawn(grid.nodes, number_of_round)
            }
            answers = grid.ask("train.slice", contents, timeout)
            if answers:
                whole = self._averaged(whole, answers)
            yield Step(number_of_round, ArrayRecord(whole))

    def _drawn(self, nodes: Sequence[str], number_of_round: int) -> list[str]:
        generator = torch.Generator().manual_seed(self.run.seed * 1_000_003 + number_of_round)
        count = max(1, round(self.options.fraction_train * len(nodes)))
        picks = torch.randperm(len(nodes), generator=generator)[:count]
        return [nodes[pick] for pick in sorted(picks.tolist())]

    def _averaged(
        self, whole: Mapping[str, Tensor], answers: Mapping[str, RecordDict]
    ) -> dict[str, Tensor]:
        """Return each entry's mean over those that have it, by samples; others stay."""
        nothing = {name: torch.zeros_like(tensor) for name, tensor in whole.items()}
        sums, weights = dict(nothing), dict(nothing)
        for name, answer in answers.items():
            way = self.ways[name]
            samples = number(answer.metric_records["told"], "num-examples")
            trained = tensors_of(answer.array_records["arrays"])
            ones = {key: torch.ones_like(tensor) for key, tensor in trained.items()}
            for total, part in ((sums, trained), (weights, ones)):
                for key, back in way.back(part, nothing).items():
                    total[key] = total[key] + samples * back
        return {
            key: torch.where(weights[key] > 0, sums[key] / weights[key].clamp(min=1e-12), tensor)
            for key, tensor in whole.items()
        }
