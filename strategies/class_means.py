"""Nearest class mean on frozen features: every node uploads the sums of its classes once.

Legate et al. 2023, *FedNCM* (arXiv 2306.05387, section 4): class means over all nodes, each of
length 1, are the rows of a head. A class costs one vector, which a covariance costs for each
feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from mfd_flower.checks import bounded, build
from mfd_flower.config import RunConfig
from mfd_flower.models.closed_form import Head, class_means
from mfd_flower.models.rounded import Rounding, scale_of
from mfd_flower.models.sums import cross_from_bytes, cross_to_bytes
from mfd_flower.node import Node, initial_tunables, with_head
from mfd_flower.records import tensors_of
from mfd_flower.runtime.one_shot import OneShot

MEANS = "class-sums"


@dataclass(frozen=True)
class ClassMeansOptions:
    """What is summed."""

    features: Rounding = field(default_factory=Rounding)
    """How features become whole numbers."""
    clients: int = bounded(0, 0)
    """Nodes that upload in a round; 0 for all at once."""


def class_sums(message: Message, context: Context) -> Message:
    """Upload the sum of this node's features of each class, and how many samples that are."""
    node = Node.of(context)
    told = node.run.strategy.keywords().get("features", {})
    own = node.sums(initial_tunables(node.run), build(Rounding, told, "options.features."))
    array = Array(np.frombuffer(cross_to_bytes(own.cross), np.uint8))
    return Message(RecordDict({MEANS: ArrayRecord({MEANS: array})}), reply_to=message)


class ClassMeans(OneShot, Strategy):
    """Average the classes, and choose the nearest."""

    Options: ClassVar = ClassMeansOptions
    client_actions: ClassVar = {"train.class_sums": class_sums}
    kind: ClassVar = "train.class_sums"

    def __init__(self, run: RunConfig, **options: Any) -> None:
        self.options: ClassMeansOptions = build(self.Options, options, "options.")
        super().__init__(run, self.options.clients)
        self.shape = scale_of(run, self.options.features).features, self.num_classes

    def read(self, answer: ArrayRecord) -> NDArray[np.int64]:
        """Return a node's class sums ``(d + 1, classes)``; `PacketError` if they are not such."""
        return cross_from_bytes(answer[MEANS].numpy().tobytes(), *self.shape)

    def head(self, parts: list[NDArray[np.int64]]) -> Head:
        """Return the head that the class sums of nodes make."""
        return class_means(sum(parts[1:], parts[0]))

    def solved(self, arrays: ArrayRecord, answers: Mapping[str, ArrayRecord]) -> ArrayRecord:
        """Return the model of all nodes that have answered."""
        head = self.head([self.read(answer) for answer in answers.values()])
        return ArrayRecord(with_head(self.run, tensors_of(arrays), head, self.options.features))
