"""Distillation by visit: unlike models learn from each other where they meet (whitepaper, 2.5).

Every node has a model of its own, of whatever architecture its profile says. Where the travelling
model lands the two teach each other on the node's data: each learns from the labels and from what
the other says of the same samples, as in deep mutual learning (Zhang et al. 2018, arXiv
1706.00384), once it is good enough to teach. Weights never mix, so that nothing has to fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from mfd_flower.checks import bounded
from mfd_flower.models.loss import Teacher
from mfd_flower.node import Node
from mfd_flower.own_model import OWN, QUERY, own_model, show_own
from mfd_flower.packets import Packet
from mfd_flower.walk.trait import Fit, Training, Trait
from mfd_flower.walk.visit import Visit

if TYPE_CHECKING:
    from mfd_flower.walk.relay import Relay

OWN_STEPS = 1 << 40
"""Steps of a node's own model begin here, so that its randomness is not that of the walk."""


@dataclass(frozen=True)
class Teach(Trait):
    """Let the travelling model and each node's own model teach each other."""

    excludes: ClassVar = ("gate", "resize")
    own_models: ClassVar = "any"
    actions: ClassVar = {QUERY: show_own}
    links: ClassVar = {QUERY: "relay"}

    weight: float = bounded(0.5, 0.0, 1.0)
    """Of what the other model says; the labels have the rest."""
    temperature: float = bounded(2.0, 0.0, 100.0, open_low=True)
    """At which the models are compared."""
    least_accuracy: float = bounded(0.5, 0.0, 1.0)
    """On the node's data, of a model that is learned from."""

    def fit(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        """Train both models, each with the other as it stood before."""
        own, theirs = own_model(visit.context)
        guest, host = self._teacher(visit.node, tensors), self._teacher(own, theirs)
        trained, _ = own.fit(theirs, OWN_STEPS + visit.start.hop, teacher=guest)
        visit.keep_for_all(OWN, ArrayRecord(trained))
        return inner(tensors, **keywords, teacher=host)

    def finish(self, relay: Relay, landed: Sequence[Packet]) -> Mapping[str, Any]:
        """Return the nodes' own models; this is measurement, not traffic."""
        asked = dict.fromkeys(relay.addresses, RecordDict())
        answers = relay.requests.ask_all(QUERY, asked)
        return {"own": {name: each.array_records["own"] for name, each in answers.items()}}

    def _teacher(self, node: Node, tensors: Mapping[str, Tensor]) -> Teacher | None:
        """Return a model as a teacher on the node's data; None if it is not good enough."""
        logits, labels = node.logits(tensors), node.samples.labels
        accuracy = float((logits.argmax(1) == labels).float().mean())
        if accuracy < self.least_accuracy:
            return None
        return Teacher(logits, self.weight, self.temperature)
