"""A prompted vision transformer under Lightning: what a step of training or testing is."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from mfd_flower.config import TrainConfig
from mfd_flower.models.loss import Loss
from mfd_flower.models.optimizers import configured_optimizer
from mfd_flower.models.prompts import PromptedViT
from mfd_flower.models.tunables import named_tunables


class Classifier(lightning.LightningModule):
    """Train the tunables of a model in place, prompts, LoRA, head or all of it, or test it.

    `stage` is what the batches hold, see `PromptedViT.frozen_stage`. The loss depends on the shares
    of the `labels` ``(n,)`` of all samples that it trains on. The optimiser starts from
    `optimizer_state`, ``<tunable>:<slot>``; with `only` the other tunables stay as they are.
    """

    def __init__(
        self,
        model: PromptedViT,
        config: TrainConfig,
        stage: str = "images",
        labels: Tensor | None = None,
        optimizer_state: Mapping[str, Tensor] | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.stage = model, config, stage
        self.loss_terms = Loss() if labels is None else Loss.of(config, labels, model)
        self.optimizer_state = optimizer_state or {}
        self.only = only
        classes = model.head.out_features
        self.kept_rows: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        if labels is not None and config.keep_absent_rows:
            absent = torch.bincount(labels, minlength=classes) == 0
            self.kept_rows = [(p, absent, p.detach()[absent]) for p in model.head.parameters()]
        self.epoch_loss = self.test_loss = 0.0  # Summed over samples.
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self.macro_f1 = MulticlassF1Score(classes, average="macro")
        self.recalls = MulticlassAccuracy(classes, average=None)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(batch, num_classes)``."""
        return self.model.forward_from(self.stage, inputs)

    def loss(self, inputs: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
        """Return the training loss of a batch, a scalar."""
        loss = self.loss_terms.of_batch(self(inputs), labels, teacher_logits)
        proximal = self.loss_terms.proximal(self.model)
        return loss if proximal is None else loss + proximal

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the optimiser moves, by name."""
        named = named_tunables(self.model)
        return {name: p for name, p in named if self.only is None or name in self.only}

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
        for metric in (self.accuracy, self.macro_f1, self.recalls):
            metric.update(logits, labels)
        self.test_loss += float(self.loss_terms.cross_entropy(logits, labels, "sum"))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser that the settings name."""
        return configured_optimizer(self.trained(), self.config, self.trainer, self.optimizer_state)
