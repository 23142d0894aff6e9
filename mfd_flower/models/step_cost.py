"""What a training step costs, measured once for each kind of step of a model."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mfd_flower.accounting.costs import StepCost, measure_step
from mfd_flower.config import TrainConfig
from mfd_flower.data.samples import Batches, Samples
from mfd_flower.models.classifier import Classifier
from mfd_flower.models.optimizers import optimizer_of
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.tunables import named_tunables

_known: WeakKeyDictionary[PromptedViT, dict[object, StepCost]] = WeakKeyDictionary()


def step_cost(classifier: Classifier, batch: tuple[Tensor, ...]) -> StepCost:
    """Measure a training step on a batch that shares no memory with other tensors.

    A step that saves a view saves, and would count, all that the view is of. The model is left in
    training mode, its dropout without a seed.
    """
    model, loss = classifier.model, classifier.loss_terms
    slots = optimizer_of(classifier.config).slots(classifier.config)
    kind = (
        (classifier.stage, tuple(part.shape for part in batch), slots),
        (loss.adjustment is None, bool(loss.arrived), frozenset(dict(named_tunables(model)))),
    )
    known = _known.setdefault(model, {})
    model.train()
    model.dropout_generator = torch.Generator()
    if kind not in known:
        known[kind] = measure_step(model, lambda: classifier.loss(*batch), slots)
    return known[kind]


def fit_flops(model: PromptedViT, samples: Samples, config: TrainConfig, stage: str) -> float:
    """Return the floating point operations of one local update, measured on its first batch."""
    batches = Batches(samples, config.batch_size)
    cost = step_cost(Classifier(model, config, stage, samples.labels), batches.first())
    return cost.flops * len(samples) * config.local_epochs / batches.batch_size
