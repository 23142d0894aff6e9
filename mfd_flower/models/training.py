"""Local training and evaluation under a quiet Lightning Trainer, and what a training step costs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from mfd_flower.accounting.costs import StepCost, count_flops, measure_step
from mfd_flower.config import TrainConfig, TrainerConfig
from mfd_flower.data.samples import Batches, Samples
from mfd_flower.models.classifier import Classifier, LocalUpdate
from mfd_flower.models.devices import autocast, device_of, held, resident_trainer
from mfd_flower.models.loss import ENTROPY_BATCH, ENTROPY_BATCHES, Anchors, Teacher
from mfd_flower.models.optimizers import optimizer_of
from mfd_flower.models.optimizers import optimizer_state as state_of
from mfd_flower.models.tuned import TunedModel

EVALUATION_BATCH = 250
AS_IT_IS = TrainerConfig()
_step_costs: dict[object, StepCost] = {}
_forward_flops: dict[object, int] = {}
"""Of one sample."""


class TooLargeError(ValueError):
    """What a device has to hold at once does not fit its memory."""


@dataclass(frozen=True)
class FitResult:
    """What one local update did.

    `loss` is the mean over the last epoch, `samples` counts epochs, `flops` are those of all steps,
    `peak_bytes` holds the model, its optimiser (state: ``<tunable>:<slot>``) and a step's saved
    tensors.
    """

    loss: float
    samples: int
    flops: float
    peak_bytes: int
    optimizer_state: dict[str, Tensor]


@dataclass(frozen=True)
class Metrics:
    """Quality on a set: micro accuracy, mean cross-entropy, macro F1."""

    accuracy: float
    loss: float
    macro_f1: float
    macro_accuracy: float
    """Mean recall over the classes that are present in the set."""
    recalls: tuple[float | None, ...]
    """Of each class; None of one that is not present."""


def fit(
    model: TunedModel,
    samples: Samples,
    config: TrainConfig,
    *,
    seed: int,
    stage: str = "images",
    optimizer_state: Mapping[str, Tensor] | None = None,
    only: Collection[str] | None = None,
    trainer: TrainerConfig = AS_IT_IS,
    memory_bytes: float = math.inf,
    teacher: Teacher | None = None,
    anchors: Anchors | None = None,
) -> FitResult:
    """Train `model`'s tunables in place, where it is, on one shard; keywords are `Classifier`'s.

    `seed` decides the order of the samples and the dropout, nothing else does. On an accelerator
    one fit of a process runs after another. `TooLargeError`, before anything is trained, if a step
    takes more than `memory_bytes`.
    """
    device = device_of(model)
    with held(device, config.precision):
        told = (samples.labels, optimizer_state, only, teacher, anchors)
        classifier = LocalUpdate(model, config, stage, *told)
        logits, teacher_flops = None if teacher is None else teacher.logits.to(device), 0
        if config.distillation and teacher is None:
            logits = logits_of(model, samples, stage, config.precision)
            teacher_flops = forward_flops(model, samples, stage)
        order = torch.Generator()
        batches = Batches(samples, config.batch_size, order if config.shuffle else None, logits)
        cost = step_cost(classifier, batches)
        check_memory(cost.peak_bytes, memory_bytes)
        # One generator for both where it can be: numbers from another would come from a copy.
        drop = order if device.type in ("cpu", "meta") else torch.Generator(device)
        for generator in {order, drop}:
            generator.manual_seed(seed)
        model.dropout_generator = drop
        keywords = {"max_epochs": config.local_epochs, **asdict(trainer)}
        keywords["limit_train_batches"] = batches_an_epoch(batches, trainer)
        fitting = resident_trainer(classifier, config.precision, **keywords)
        fitting.fit(classifier, batches)
        model.zero_grad()
        return FitResult(
            classifier.mean_loss,
            classifier.samples,
            cost.flops * classifier.samples / batches.batch_size + teacher_flops,
            cost.peak_bytes,
            state_of(classifier.trained(), fitting.optimizers[0]),
        )


def check_memory(peak_bytes: float, memory_bytes: float) -> None:
    """Raise `TooLargeError` if a device has less memory than its work takes."""
    if peak_bytes > memory_bytes:
        said = f"takes {peak_bytes / 1e6:.3g} MB, this device has {memory_bytes / 1e6:.3g}"
        raise TooLargeError(f"memory: a step {said}")


def batches_an_epoch(batches: Batches, trainer: TrainerConfig) -> int:
    """Return the batches that an epoch takes, at least one."""
    return max(1, math.floor(trainer.limit_train_batches * len(batches) + 1e-9))


@torch.no_grad()
def logits_of(model: TunedModel, samples: Samples, stage: str, precision: str = "32") -> Tensor:
    """Return the model's logits on samples whose inputs are at `stage`, ``(n, num_classes)``."""
    model.eval()
    device = device_of(model)
    with held(device, precision), autocast(device, precision):
        parts = samples.inputs.split(EVALUATION_BATCH)
        return torch.cat([model.forward_from(stage, part.to(device)).float() for part in parts])


def evaluate(
    model: TunedModel, samples: Samples, *, stage: str = "images", precision: str = "32"
) -> Metrics:
    """Measure `model`, where it is, on a set of samples whose inputs are at `stage`."""
    with held(device_of(model), precision):
        classifier = LocalUpdate(model, stage=stage)
        trainer = resident_trainer(classifier, precision)
        trainer.test(classifier, Batches(samples, EVALUATION_BATCH), verbose=False)
        found, present = classifier.quality, samples.labels.unique().long()
        recalls = found.recalls.compute().cpu()
        here = {*present.tolist()}
        return Metrics(
            float(found.accuracy.compute()),
            found.loss,
            float(found.macro_f1.compute()),
            float(recalls[present].mean()),
            tuple(r if label in here else None for label, r in enumerate(recalls.tolist())),
        )


def step_cost(classifier: Classifier, batches: Batches) -> StepCost:
    """Count a training step on the first batch, once for each kind of step in a process.

    The model is left in training mode, its dropout without a seed.
    """
    model, terms, stage = classifier.model, classifier.loss_terms, classifier.stage
    slots = optimizer_of(classifier.config).slots(classifier.config)
    batch = batches.first()
    kind = (
        *_shapes(model),
        (stage, tuple(part.shape for part in batch), slots),
        (terms.adjustment is None, bool(terms.arrived), bool(terms.taught), model.dropout > 0),
        terms.anchors is None,
    )
    model.train()
    model.dropout_generator = None
    if kind not in _step_costs:
        _step_costs[kind] = measure_step(
            model, (terms, batch), lambda model, parts: parts[0].on(model, stage, *parts[1]), slots
        )
    return _step_costs[kind]


def fit_flops(
    model: TunedModel,
    samples: Samples,
    config: TrainConfig,
    stage: str,
    trainer: TrainerConfig = AS_IT_IS,
) -> float:
    """Return the floating point operations of one local update, counted on its first batch."""
    batches = Batches(samples, config.batch_size)
    cost = step_cost(LocalUpdate(model, config, stage, samples.labels), batches)
    taken = min(len(samples), batches_an_epoch(batches, trainer) * batches.batch_size)
    return cost.flops * taken * config.local_epochs / batches.batch_size


def entropy_flops(model: TunedModel, samples: Samples, config: TrainConfig, stage: str) -> float:
    """Return the floating point operations of `gradient_entropy`: those of as many steps."""
    batches = Batches(samples, ENTROPY_BATCH)
    cost = step_cost(LocalUpdate(model, config, stage, samples.labels), batches)
    return cost.flops / batches.batch_size * min(len(samples), ENTROPY_BATCH * ENTROPY_BATCHES)


def forward_flops(model: TunedModel, samples: Samples, stage: str) -> int:
    """Return the floating point operations of `logits_of`, counted on one sample."""
    first = samples.inputs[:1]
    kind = (*_shapes(model), stage, first.shape)
    if kind not in _forward_flops:
        model.eval()
        _forward_flops[kind] = count_flops(
            model, first, lambda model, part: model.forward_from(stage, part)
        )
    return _forward_flops[kind] * len(samples)


def _shapes(model: TunedModel) -> tuple[object, ...]:
    return (
        tuple((p.shape, p.requires_grad) for p in model.parameters()),
        tuple(getattr(module, "num_heads", 0) for module in model.modules()),
    )
