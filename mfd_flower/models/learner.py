"""Local training and evaluation: a LightningModule under a quiet Lightning Trainer."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from mfd_flower.accounting.costs import StepCost, measure_step
from mfd_flower.config import TrainConfig
from mfd_flower.data.federation import Samples
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.training import configured_optimizer, quiet_trainer
from mfd_flower.models.training import optimizer_state as optimizer_state_of
from mfd_flower.models.tunables import get_tunables, named_tunables

EVALUATION_BATCH = 250


@dataclass(frozen=True)
class FitResult:
    """What one local update did.

    Attributes
    ----------
    loss : float
        Mean training loss over the last epoch.
    samples : int
        Samples processed, epochs counted.
    flops : float
        Floating point operations of all steps.
    peak_bytes : int
        Memory of the model, its optimiser and one step's saved tensors.
    optimizer_state : dict of str to Tensor
        ``<tunable>:<slot>``, for a strategy that lets it travel.
    """

    loss: float
    samples: int
    flops: float
    peak_bytes: int
    optimizer_state: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """Quality on a set: micro accuracy, mean cross-entropy, macro F1, mean recall of a class."""

    accuracy: float
    loss: float
    macro_f1: float
    macro_accuracy: float
    """Over the classes that are present in the set."""


class Batches:
    """Iterate over a shard in batches, in an order that only `generator` decides.

    A batch is inputs and labels, and the teacher's logits if there are any. The tensors lie in
    memory already: a DataLoader would collate them again sample by sample.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        generator: torch.Generator | None = None,
        teacher_logits: Tensor | None = None,
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size or len(samples)
        self.generator = generator
        self.teacher_logits = teacher_logits

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        parts = [self.samples.inputs, self.samples.labels]
        if self.teacher_logits is not None:
            parts.append(self.teacher_logits)
        if self.generator is not None:
            order = torch.randperm(len(self.samples), generator=self.generator)
            for pick in order.split(self.batch_size):
                yield tuple(part[pick] for part in parts)
        else:
            yield from zip(*(part.split(self.batch_size) for part in parts), strict=True)


class PromptLearner(lightning.LightningModule):
    """Train the tunables of a `PromptedViT` by cross-entropy.

    Parameters
    ----------
    model : PromptedViT
        Its tunables are trained in place.
    config : TrainConfig
        Optimiser, schedule, loss terms.
    stage : str
        What the batches hold, see `PromptedViT.frozen_stage`.
    log_prior : Tensor, optional
        Log of the local label shares ``(num_classes,)``. Scaled by ``config.logit_adjustment`` it
        is added to the logits in training, so that a model is not paid for repeating the local
        label mix (Menon et al. 2021, equation 10, arXiv 2007.07314).
    optimizer_state : mapping, optional
        Where the optimiser starts from.
    only : collection of str, optional
        Tunables that are trained; the others stay as they are. All of them without it.
    absent : Tensor, optional
        Classes whose rows of the head stay as they are, a boolean ``(num_classes,)``.
    skew : float
        Share of ``config.distillation`` that the local labels call for, see `label_skew`.
    """

    def __init__(
        self,
        model: PromptedViT,
        config: TrainConfig,
        stage: str = "images",
        log_prior: Tensor | None = None,
        optimizer_state: Mapping[str, Tensor] | None = None,
        only: Collection[str] | None = None,
        absent: Tensor | None = None,
        skew: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.stage = stage
        self.log_prior = log_prior
        self.optimizer_state = optimizer_state or {}
        self.only = only
        self.skew = skew
        self.kept_rows = []
        if absent is not None and bool(absent.any()):
            rows = torch.nonzero(absent).squeeze(1)
            self.kept_rows = [(p, rows, p.detach()[rows].clone()) for p in model.head.parameters()]
        self.anchor = get_tunables(model) if config.proximal_mu else {}
        self.epoch_loss = 0.0
        self.accuracy = MulticlassAccuracy(model.head.out_features, average="micro")
        self.macro_f1 = MulticlassF1Score(model.head.out_features, average="macro")
        self.recalls = MulticlassAccuracy(model.head.out_features, average=None)
        self.test_loss = 0.0

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(batch, num_classes)``."""
        return self.model.forward_from(self.stage, inputs)

    def loss(self, inputs: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
        """Return the training loss of a batch, a scalar."""
        logits = plain = self(inputs)
        if self.log_prior is not None:
            logits = logits + self.config.logit_adjustment * self.log_prior
        loss = F.cross_entropy(logits, labels)
        if teacher_logits is not None:
            forgotten = not_true_divergence(plain, teacher_logits, labels)
            loss = loss + self.config.distillation * self.skew * forgotten
        if self.anchor:
            gap = sum((p - self.anchor[n]).square().sum() for n, p in named_tunables(self.model))
            loss = loss + 0.5 * self.config.proximal_mu * gap
        return loss

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """One step of local training."""
        loss = self.loss(*batch)
        self.epoch_loss += float(loss.detach()) * len(batch[1])
        return loss

    def on_train_batch_end(self, *args: object) -> None:
        """Put the rows of absent classes back: an optimiser's momentum would move them too."""
        with torch.no_grad():
            for parameter, rows, values in self.kept_rows:
                parameter[rows] = values

    def on_train_epoch_start(self) -> None:
        """Count the loss of this epoch only."""
        self.epoch_loss = 0.0

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add one batch to the metrics."""
        inputs, labels = batch
        logits = self(inputs)
        self.accuracy.update(logits, labels)
        self.macro_f1.update(logits, labels)
        self.recalls.update(logits, labels)
        self.test_loss += float(F.cross_entropy(logits, labels, reduction="sum"))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW or SGD over the tunables, with a cosine over all steps if asked for."""
        named = {
            name: parameter
            for name, parameter in named_tunables(self.model)
            if self.only is None or name in self.only
        }
        state = {k: v for k, v in self.optimizer_state.items() if k.rpartition(":")[0] in named}
        return configured_optimizer(named, self.config, self.trainer, state)


def fit(
    model: PromptedViT,
    samples: Samples,
    config: TrainConfig,
    *,
    seed: int,
    stage: str = "images",
    log_prior: Tensor | None = None,
    optimizer_state: Mapping[str, Tensor] | None = None,
    only: Collection[str] | None = None,
) -> FitResult:
    """Train `model`'s tunables in place on one shard.

    Parameters
    ----------
    model : PromptedViT
        Holds the arriving tunables; afterwards the trained ones.
    samples : Samples
        The shard, its inputs at `stage`.
    config : TrainConfig
        `local_epochs`, `batch_size` and the rest.
    seed : int
        Decides the order of the samples and the dropout, nothing else does.
    stage, log_prior, optimizer_state, only
        See `PromptLearner`.
    """
    counts = torch.bincount(samples.labels, minlength=model.head.out_features)
    absent = counts == 0 if config.keep_absent_rows else None
    skew = label_skew(counts)
    learner = PromptLearner(model, config, stage, log_prior, optimizer_state, only, absent, skew)
    generator = torch.Generator()
    model.dropout_generator = generator
    teacher = None
    with FlopCounterMode(display=False) as counter:
        if config.distillation:
            teacher = logits_of(model, samples, stage)
    batches = Batches(samples, config.batch_size, generator if config.shuffle else None, teacher)
    model.train()
    cost = _step_cost(learner, samples, batches.batch_size)
    # Seeded only now: whether a step still had to be measured must not show in the result.
    generator.manual_seed(seed)
    trainer = quiet_trainer(config, max_epochs=config.local_epochs)
    trainer.fit(learner, batches)
    model.zero_grad()
    trained = {n: p for n, p in named_tunables(model) if only is None or n in only}
    carried = optimizer_state_of(trained, trainer.optimizers[0])
    seen = len(samples) * config.local_epochs
    flops = cost.flops * seen / min(batches.batch_size, len(samples)) + counter.get_total_flops()
    return FitResult(learner.epoch_loss / len(samples), seen, flops, cost.peak_bytes, carried)


def fit_flops(model: PromptedViT, samples: Samples, config: TrainConfig, stage: str) -> float:
    """Return the floating point operations of one `fit`, measured on its first batch."""
    learner = PromptLearner(model, config, stage)
    batch_size = min(config.batch_size or len(samples), len(samples))
    cost = _step_cost(learner, samples, batch_size)
    return cost.flops * len(samples) * config.local_epochs / batch_size


def label_skew(counts: Tensor) -> float:
    """Return how uneven labels are, from 0 (all classes alike) to 1 (one class).

    The divergence of the label shares from even ones over its largest value: ``1 - H(p) / ln C``.

    Parameters
    ----------
    counts : Tensor
        Samples of each class, ``(num_classes,)``.
    """
    if len(counts) < 2:
        return 0.0
    entropy = torch.distributions.Categorical(probs=counts.double()).entropy()
    return float(1 - entropy / math.log(len(counts)))


def not_true_divergence(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the divergence from the teacher over all classes but the true one, a scalar.

    What the arriving model thinks of the classes that a sample does not have is what local data
    makes it forget; on the true class it should learn (Lee et al. 2022, FedNTD, equation 4,
    arXiv 2106.03097, at temperature 1).

    Parameters
    ----------
    logits, teacher_logits : Tensor
        ``(batch, num_classes)``.
    labels : Tensor
        ``(batch,)``.
    """
    true = F.one_hot(labels, logits.shape[1]).bool()
    student, teacher = (
        F.log_softmax(values[~true].reshape(len(labels), -1), dim=1)
        for values in (logits, teacher_logits)
    )
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


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
    learner = PromptLearner(model, TrainConfig(accelerator=accelerator), stage)
    trainer = quiet_trainer(learner.config)
    trainer.test(learner, Batches(samples, EVALUATION_BATCH), verbose=False)
    return Metrics(
        float(learner.accuracy.compute()),
        learner.test_loss / len(samples),
        float(learner.macro_f1.compute()),
        float(learner.recalls.compute()[samples.labels.unique()].mean()),
    )


_step_costs: dict[object, StepCost] = {}


def _step_cost(learner: PromptLearner, samples: Samples, batch_size: int) -> StepCost:
    """Measure a step on the shard's first batch, once for each kind of model and batch."""
    inputs, labels = samples.inputs[:batch_size], samples.labels[:batch_size]
    config = learner.config
    slots = 2 if config.optimizer == "adamw" else int(config.momentum > 0)
    kind = tuple((tuple(p.shape), p.requires_grad) for p in learner.model.parameters())
    key = (kind, tuple(inputs.shape), slots, bool(learner.anchor))
    if key not in _step_costs:
        _step_costs[key] = measure_step(learner.model, lambda: learner.loss(inputs, labels), slots)
    return _step_costs[key]
