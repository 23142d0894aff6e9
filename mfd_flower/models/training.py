"""Local training and evaluation under a quiet Lightning Trainer, and what a training step costs."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import lightning
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mfd_flower.accounting.costs import StepCost, measure_step
from mfd_flower.checks import ConfigError
from mfd_flower.config import TrainConfig
from mfd_flower.data.samples import Batches, Samples
from mfd_flower.models.classifier import Classifier
from mfd_flower.models.optimizers import optimizer_of
from mfd_flower.models.optimizers import optimizer_state as state_of
from mfd_flower.models.prompts import PromptedViT

EVALUATION_BATCH = 250
_step_costs: dict[object, StepCost] = {}


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


def fit(
    model: PromptedViT,
    samples: Samples,
    config: TrainConfig,
    *,
    seed: int,
    stage: str = "images",
    optimizer_state: Mapping[str, Tensor] | None = None,
    only: Collection[str] | None = None,
) -> FitResult:
    """Train `model`'s tunables in place on one shard; keywords are `Classifier`'s.

    `seed` decides the order of the samples and the dropout, nothing else does.
    """
    classifier = Classifier(model, config, stage, samples.labels, optimizer_state, only)
    teacher, teacher_flops = None, 0
    if config.distillation:
        with FlopCounterMode(display=False) as counter:
            teacher = logits_of(model, samples, stage)
        teacher_flops = counter.get_total_flops()
    generator = torch.Generator()
    batches = Batches(samples, config.batch_size, generator if config.shuffle else None, teacher)
    cost = step_cost(classifier, batches.first())
    model.dropout_generator = generator.manual_seed(seed)
    trainer = quiet_trainer(config, max_epochs=config.local_epochs)
    trainer.fit(classifier, batches)
    model.zero_grad()
    seen = len(samples) * config.local_epochs
    return FitResult(
        classifier.epoch_loss / len(samples),
        seen,
        cost.flops * seen / batches.batch_size + teacher_flops,
        cost.peak_bytes,
        state_of(classifier.trained(), trainer.optimizers[0]),
    )


@torch.no_grad()
def logits_of(model: PromptedViT, samples: Samples, stage: str) -> Tensor:
    """Return the model's logits on samples whose inputs are at `stage`, ``(n, num_classes)``."""
    model.eval()
    parts = samples.inputs.split(EVALUATION_BATCH)
    return torch.cat([model.forward_from(stage, part) for part in parts])


def evaluate(
    model: PromptedViT, samples: Samples, *, stage: str = "images", accelerator: str = "cpu"
) -> Metrics:
    """Measure `model` on a set of samples whose inputs are at `stage`."""
    classifier = Classifier(model, TrainConfig(accelerator=accelerator), stage)
    trainer = quiet_trainer(classifier.config)
    trainer.test(classifier, Batches(samples, EVALUATION_BATCH), verbose=False)
    return Metrics(
        float(classifier.accuracy.compute()),
        classifier.test_loss / len(samples),
        float(classifier.macro_f1.compute()),
        float(classifier.recalls.compute()[samples.labels.unique().long()].mean()),
    )


def step_cost(classifier: Classifier, batch: tuple[Tensor, ...]) -> StepCost:
    """Measure a training step, once for each kind of step in a process.

    The batch must share no memory with other tensors: a step that saves a view saves, and would
    count, all that the view is of. The model is left in training mode, its dropout without a seed.
    """
    model, loss = classifier.model, classifier.loss_terms
    slots = optimizer_of(classifier.config).slots(classifier.config)
    kind = (
        tuple((p.shape, p.requires_grad) for p in model.parameters()),
        tuple(getattr(module, "num_heads", 0) for module in model.modules()),
        (classifier.stage, tuple(part.shape for part in batch), slots),
        (loss.adjustment is None, bool(loss.arrived), model.dropout > 0),
    )
    model.train()
    model.dropout_generator = torch.Generator()
    if kind not in _step_costs:
        _step_costs[kind] = measure_step(model, lambda: classifier.loss(*batch), slots)
    return _step_costs[kind]


def fit_flops(model: PromptedViT, samples: Samples, config: TrainConfig, stage: str) -> float:
    """Return the floating point operations of one local update, measured on its first batch."""
    batches = Batches(samples, config.batch_size)
    cost = step_cost(Classifier(model, config, stage, samples.labels), batches.first())
    return cost.flops * len(samples) * config.local_epochs / batches.batch_size


@functools.lru_cache(maxsize=64)
def check_accelerator(config: TrainConfig) -> None:
    """Raise ConfigError if Lightning has no such accelerator, or there is none here."""
    try:
        quiet_trainer(config)
    except (ValueError, MisconfigurationException) as error:
        said = " ".join(str(error).split())
        raise ConfigError("train.accelerator", config.accelerator, said) from None


def quiet_trainer(config: TrainConfig, max_epochs: int | None = None) -> lightning.Trainer:
    """Return a Trainer that writes nothing, to a screen or to a disk."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    return lightning.Trainer(
        accelerator=config.accelerator,
        devices=1,
        max_epochs=max_epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
