"""W0 travels; a node trains it at a size of its own, and sends W0 on (whitepaper, section 2.4).

A strong node grows the model to W+1 or W+2, which is the same function to begin with; a weak one
cuts it to W-1 or W-2. Which size a node has its profile says, see `mfd_flower.profiles`. What it
trained comes back into W0: copies as their mean, what was cut as the part that it is. Prompts that
a node has beyond those that travel stay on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from flwr.app import ArrayRecord
from torch import Tensor

from mfd_flower.checks import bounded
from mfd_flower.models.loss import Teacher
from mfd_flower.models.resizing import Resizing, resizing
from mfd_flower.node import Node
from mfd_flower.records import tensors_of
from mfd_flower.scaling import Cut
from mfd_flower.walk.trait import ONE_MODEL, Fit, Layer, Training, Trait
from mfd_flower.walk.visit import Visit

OWN = "resize"
"""What the node keeps of its own size."""
NESTED = 0x6E657374
"""Purpose of the generator that draws sizes."""


@dataclass(frozen=True)
class Resize(Trait):
    """Train the model at each node's own size."""

    layer: ClassVar[Layer] = Layer.RESIZE
    excludes: ClassVar = ONE_MODEL
    own_models: ClassVar = "sized"

    recover_epochs: int = bounded(0, 0)
    """Epochs in which a node whose model is cut learns from W0 what was lost, before it trains."""
    nested: bool = False
    """Nodes that have W0 train each epoch at a size drawn from those of the others that are cut,
    and W0's own: so that parts of it are working models (arXiv 2310.07707, section 3.2)."""

    def fit(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        """Train at the node's own size."""
        if visit.node.own_run is not None:
            return self._as_own(visit, inner, tensors, **keywords)
        smaller = _smaller(visit.node) if self.nested else []
        if smaller:
            return _at_drawn_sizes(visit, inner, smaller, tensors)
        return inner(tensors, **keywords)

    def _as_own(
        self, visit: Visit, inner: Training, tensors: Mapping[str, Tensor], **keywords: Any
    ) -> Fit:
        node, own = visit.node, visit.node.own
        way = way_to(node, own)
        if (kept := visit.recall(OWN)) is not None:
            way = replace(way, usual=tensors_of(kept))
        here, samples = way.there(tensors), 0
        if self.recover_epochs and isinstance(way.change, Cut):
            teacher = Teacher(node.logits(tensors), weight=1.0)
            for epoch in range(self.recover_epochs):
                step = {"epoch": epoch, "most_epochs": self.recover_epochs}
                found = inner(here, **step, node=own, teacher=teacher)
                here, samples = found.tensors, samples + found.samples
        found = inner(here, **keywords, node=own)
        visit.keep(OWN, ArrayRecord(dict(found.tensors)))
        return Fit(way.back(found.tensors, tensors), samples + found.samples, {})


def way_to(node: Node, own: Node) -> Resizing:
    """Return the way from the model that travels to a node's own, and back."""
    return resizing(node.run.model, own.run.model, node.num_classes, node.run.seed)


def _smaller(node: Node) -> list[Node]:
    """Return the node as those that have a profile with a cut model are."""
    runs = {node.run.with_profile(p): None for p in node.run.node_profiles if p.model}
    found = [Node(run, node.index) for run in runs]
    return [each for each in found if isinstance(way_to(node, each).change, Cut)]


def _at_drawn_sizes(
    visit: Visit, inner: Training, smaller: list[Node], tensors: Mapping[str, Tensor]
) -> Fit:
    node, samples = visit.node, 0
    epochs, found = node.run.train.local_epochs, dict(tensors)
    draws = node.rng(visit.start.hop, NESTED).integers(0, len(smaller) + 1, epochs)
    for epoch, draw in enumerate(draws.tolist()):
        own = node if draw == len(smaller) else smaller[draw]
        way = way_to(node, own)
        fit = inner(way.there(found), epoch=epoch, most_epochs=epochs, node=own)
        found, samples = way.back(fit.tensors, found), samples + fit.samples
    return Fit(found, samples, {})
