"""FedProto: only the mean features of each class travel.

Tan et al. 2022, *FedProto* (arXiv 2105.00243), algorithm 1 and equation 7: every node sends the
mean of its own model's features over its samples of each class, the server sends back their mean
over the nodes by samples, and each node trains so that its features of a class lie near it.
Features of unlike models have unlike widths; random signs that all nodes know bring them to the
same number of directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from mfd_flower.checks import bounded, build
from mfd_flower.config import RunConfig
from mfd_flower.models.loss import Anchors
from mfd_flower.node import loaded_model
from mfd_flower.own_model import QUERY, keep_own, own_model, show_own
from mfd_flower.records import integer, tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.own_loop import OwnModels

MEANS, COUNTS = "means", "counts"
PROTOTYPES = 0x70726F74
"""Purpose of the generator that draws signs."""


@dataclass(frozen=True)
class FedProtoOptions:
    """How strongly features are drawn to the common ones."""

    weight: float = bounded(1.0, 0.0)
    r""":math:`\lambda` of equation 7."""
    directions: int = bounded(32, 1, 1024)
    """Numbers that features are brought to."""


def align(message: Message, context: Context) -> Message:
    """Train the node's own model near the common features; say its mean features of each class."""
    node, own = own_model(context)
    options: FedProtoOptions = build(FedProtoOptions, node.run.strategy.keywords(), "options.")
    number, anchors = integer(message.content.config_records["config"], "round"), None
    signs = signs_for(node.run, loaded_model(node.run, own).head.in_features, options.directions)
    if MEANS in message.content.array_records:
        common = tensors_of(message.content.array_records[MEANS])
        anchors = Anchors(common[MEANS], common[COUNTS] > 0, signs, options.weight)
    own, _ = node.fit(own, number, anchors=anchors)
    keep_own(context, own)
    features = node.features(own) @ signs
    labels, classes = node.samples.labels.long(), node.num_classes
    counts = torch.bincount(labels, minlength=classes).float()
    sums = torch.zeros(classes, options.directions).index_add_(0, labels, features)
    said = {MEANS: sums / counts.clamp(min=1)[:, None], COUNTS: counts}
    return Message(RecordDict({MEANS: ArrayRecord(said)}), reply_to=message)


def signs_for(run: RunConfig, features: int, directions: int) -> Tensor:
    """Return the signs that bring so many features to directions, ``(features, directions)``."""
    rng = np.random.default_rng([run.seed, features, PROTOTYPES])
    signs = rng.integers(0, 2, (features, directions)) * 2.0 - 1
    return torch.from_numpy(signs / np.sqrt(features)).float()


class FedProto(OwnModels, Strategy):
    """Let models of any kind have like features of a class."""

    Options: ClassVar = FedProtoOptions
    client_actions: ClassVar = {"train.align": align, QUERY: show_own}
    links: ClassVar = {QUERY: "relay"}
    own_models: ClassVar = staticmethod(lambda run: "any")

    def __init__(self, run: RunConfig, **options: Any) -> None:
        super().__init__()
        self.options: FedProtoOptions = build(FedProtoOptions, options, "options.")
        self.common: ArrayRecord | None = None

    def round(self, grid: MeteredGrid, number: int, arrays: ArrayRecord, timeout: float) -> None:
        """Let all nodes train and say where their features lie."""
        content = RecordDict({"config": ConfigRecord({"round": number})})
        if self.common is not None:
            content[MEANS] = self.common
        answers = grid.ask("train.align", dict.fromkeys(grid.nodes, content), timeout)
        if answers:
            self.common = ArrayRecord(common_means(answers))
        self.look(grid, timeout)

    def state_dict(self) -> RecordDict:
        """Return the round that was yielded last, the models, and the common features."""
        state = super().state_dict()
        if self.common is not None:
            state[MEANS] = self.common
        return state

    def load_state_dict(self, state: RecordDict) -> None:
        """Go on behind that round."""
        super().load_state_dict(state)
        self.common = state.array_records.get(MEANS)


def common_means(answers: Mapping[str, RecordDict]) -> dict[str, Tensor]:
    """Return each class's mean over all samples, and how many there are."""
    told = [tensors_of(each.array_records[MEANS]) for each in answers.values()]
    counts = torch.stack([each[COUNTS] for each in told]).sum(0)
    sums = torch.stack([each[MEANS] * each[COUNTS][:, None] for each in told]).sum(0)
    return {MEANS: sums / counts.clamp(min=1)[:, None], COUNTS: counts}
