"""Local training and evaluation under a quiet Lightning Trainer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import lightning
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mfd_flower.config import TrainConfig
from mfd_flower.data.samples import Batches, Samples
from mfd_flower.models.classifier import Classifier
from mfd_flower.models.optimizers import optimizer_state as state_of
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.step_cost import step_cost

EVALUATION_BATCH = 250


@dataclass(frozen=True)
class FitResult:
    """What one local update did."""

    loss: float
    """Mean training loss over the last epoch."""
    samples: int
    """Samples processed, epochs counted."""
    flops: float
    """Floating point operations of all steps."""
    peak_bytes: int
    """Memory of the model, its optimiser and one step's saved tensors."""
    optimizer_state: dict[str, Tensor] = field(default_factory=dict)
    """``<tunable>:<slot>``, for a strategy that lets it travel."""


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
    """Train `model`'s tunables in place on one shard, whose inputs are at `stage`.

    `seed` decides the order of the samples and the dropout, nothing else does. `stage`,
    `optimizer_state` and `only` are `Classifier`'s.
    """
    classifier = Classifier(model, config, stage, samples.labels, optimizer_state, only)
    teacher, teacher_flops = None, 0
    if config.distillation:
        with FlopCounterMode(display=False) as counter:
            teacher = logits_of(model, samples, stage)
        teacher_flops = counter.get_total_flops()
    generator = torch.Generator()
    order = generator if config.shuffle else None
    batches = Batches(samples, config.batch_size, order, teacher)
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
