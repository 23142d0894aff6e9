"""Ridge regression on frozen features, as a star: every node uploads its sums once.

Fani et al. 2024, *Fed3R* (arXiv 2406.01116, section 3), and He et al. 2024, *AFL* (arXiv
2405.16240): of features x with labels y, a linear head in closed form needs ``sum x x^T`` and
``sum x y^T`` alone, which nodes can compute apart. Here features are rounded to whole numbers, so
that the sums are exact and go in few bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy

from mfd_flower.checks import bounded, build
from mfd_flower.config import RunConfig
from mfd_flower.models.closed_form import solve
from mfd_flower.models.coalitions import contributions_of_parts
from mfd_flower.models.rounded import Rounding, scale_of
from mfd_flower.models.sums import Sums
from mfd_flower.node import Node, initial_tunables, with_head
from mfd_flower.records import tensors_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.one_shot import OneShot
from mfd_flower.runtime.own_loop import Step

SUMS = "sums"


@dataclass(frozen=True)
class RidgeOptions:
    """What is summed, and what is made of the sums."""

    features: Rounding = field(default_factory=Rounding)
    """How features become whole numbers."""
    head: Literal["ridge", "discriminant"] = "ridge"
    """A regression on the labels; or a Gaussian a class with one covariance, all as frequent."""
    clients: int = bounded(0, 0)
    """Nodes that upload in a round; 0 for all at once."""
    contributions: bool = False
    """Whether the record tells what each node gave, leave-one-out and Shapley values: from the
    parts, which a star's server has. Measurement outside the bill, of up to 4,096 regressions."""


def sums(message: Message, context: Context) -> Message:
    """Upload the sums over this node's samples."""
    node = Node.of(context)
    options: RidgeOptions = build(RidgeOptions, node.run.strategy.keywords(), "options.")
    own = node.sums(initial_tunables(node.run), options.features)
    array = Array(np.frombuffer(own.to_bytes(), np.uint8))
    return Message(RecordDict({SUMS: ArrayRecord({SUMS: array})}), reply_to=message)


class Ridge(OneShot, Strategy):
    """Add up what the nodes send, and solve."""

    Options: ClassVar = RidgeOptions
    client_actions: ClassVar = {"train.sums": sums}
    kind: ClassVar = "train.sums"
    contributions: list[dict[str, Any]]
    """At the end, if they are wanted."""

    def __init__(self, run: RunConfig, **options: Any) -> None:
        self.options: RidgeOptions = build(RidgeOptions, options, "options.")
        super().__init__(run, self.options.clients)
        self.shape = scale_of(run, self.options.features).features, self.num_classes

    def steps(
        self, grid: MeteredGrid, arrays: ArrayRecord, num_rounds: int, timeout: float
    ) -> Iterator[Step]:
        """Ask until all have answered; at the end measure what each gave, if that is wanted."""
        yield from super().steps(grid, arrays, num_rounds, timeout)
        if self.options.contributions and self.answers:
            parts = {name: self.read(answer) for name, answer in self.answers.items()}
            self.contributions = contributions_of_parts(parts, self.run.seed)

    def read(self, answer: ArrayRecord) -> Sums:
        """Return a node's sums; `PacketError` if they are not such."""
        return Sums.from_bytes(answer[SUMS].numpy().tobytes(), *self.shape)

    def solved(self, arrays: ArrayRecord, answers: Mapping[str, ArrayRecord]) -> ArrayRecord:
        """Solve for the head of all nodes that have answered."""
        total = Sums.nothing(*self.shape)
        for answer in answers.values():
            total = total + self.read(answer)
        head = solve(self.options.head, total)
        return ArrayRecord(with_head(self.run, tensors_of(arrays), head, self.options.features))
