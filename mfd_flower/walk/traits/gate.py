"""A model is sent on once it is good enough on local data (whitepaper, section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mfd_flower.checks import bounded
from mfd_flower.walk.trait import Fit, Training, Trait
from mfd_flower.walk.visit import Visit


@dataclass(frozen=True)
class Gate(Trait):
    """Train epoch by epoch until the accuracy on the node's own data is reached.

    A node that cannot reach it sends the model on all the same, marked as below the gate: stopping
    there would end the walk.
    """

    accuracy: float = bounded(0.9, 0.0, 1.0)
    """On the data that the node trains on."""
    most_epochs: int = bounded(10, 1)
    """Epochs after which a model is sent on that is still below; `train.local_epochs` is not
    asked."""

    def fit(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        """Train and measure in turn."""
        samples, state, reached = 0, keywords.get("optimizer_state"), False
        for epoch in range(self.most_epochs):
            tensors, trained, state = inner(
                tensors, epoch=epoch, most_epochs=self.most_epochs, optimizer_state=state
            )
            samples += trained
            if reached := visit.node.evaluate(tensors).accuracy >= self.accuracy:
                break
        visit.header |= {"gate": self.accuracy, "below_gate": not reached}
        return Fit(dict(tensors), samples, dict(state or {}))
