"""A prompted vision transformer under Lightning: what a step of training or testing is."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from mfd_flower.checks import ConfigError
from mfd_flower.config import ModelConfig, TrainConfig
from mfd_flower.models.build import build_model
from mfd_flower.models.devices import device_of
from mfd_flower.models.loss import Anchors, Loss, Teacher
from mfd_flower.models.optimizers import configured_optimizer
from mfd_flower.models.tunables import named_tunables
from mfd_flower.models.tuned import TunedModel

DEFAULT = TrainConfig()
NEED_LABELS = ("logit_adjustment", "distillation", "keep_absent_rows")


class Classifier(lightning.LightningModule):
    """Train the tunables of a model in place, prompts, LoRA, head or all of it, or test it.

    `stage` is what the batches hold, see `PromptedViT.frozen_stage`. The loss depends on the shares
    of the `labels` ``(n,)`` of all samples that it trains on; without them those of the trainer's
    data module are taken, if it has any. The optimiser starts from `optimizer_state`,
    ``<tunable>:<slot>``; with `only` the other tunables stay as they are. A `teacher` is learned
    from, whose logits are the third part of each batch, and features are drawn to `anchors`.

    Under a Trainer it logs ``train_loss``, and ``val_loss``, ``val_acc``, ``val_macro_f1`` or the
    same of ``test``. A checkpoint holds the tunables and, if `build_model` made the model, how;
    else `load_from_checkpoint` needs the model.
    """

    def __init__(
        self,
        model: TunedModel | Mapping[str, Any],
        config: TrainConfig | Mapping[str, Any] = DEFAULT,
        stage: str = "images",
        labels: Tensor | None = None,
        optimizer_state: Mapping[str, Tensor] | None = None,
        only: Collection[str] | None = None,
        teacher: Teacher | None = None,
        anchors: Anchors | None = None,
    ) -> None:
        super().__init__()
        # A checkpoint has settings where a caller has what they describe.
        if not isinstance(model, TunedModel):
            model = build_model(ModelConfig(**model["config"]), model["num_classes"], model["seed"])
        if not isinstance(config, TrainConfig):
            config = TrainConfig(**config)
        self.model, self.config, self.stage = model, config, stage
        self.optimizer_state = optimizer_state or {}
        self.only, self.teacher, self.anchors = only, teacher, anchors
        self._describe()
        self._given = labels
        self._know(labels)
        self.losses: list[tuple[Tensor, int]] = []
        """Mean and size of each batch of this epoch."""
        self.samples = 0
        """That it was trained on, each epoch counted."""

    def _describe(self) -> None:
        settings = {"config": dataclasses.asdict(self.config), "stage": self.stage}
        if (built_from := self.model.built_from) is not None:
            config, num_classes, seed = built_from
            made = {"config": dataclasses.asdict(config), "num_classes": num_classes, "seed": seed}
            settings["model"] = made
        self.save_hyperparameters(settings)

    def _know(self, labels: Tensor | None) -> None:
        """Make the loss for samples of these labels."""
        self.labels, head = labels, self.model.head
        self.loss_terms = Loss.of(self.config, labels, self.model, self.teacher, self.anchors)
        self.kept_rows: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        # Whose labels count for nothing has no classes that are absent.
        taught_alone = self.loss_terms.taught == 1
        if labels is not None and self.config.keep_absent_rows and not taught_alone:
            counts = torch.bincount(labels, minlength=head.out_features)
            absent = (counts == 0).nonzero()[:, 0].to(device_of(head))
            self.kept_rows = [(p, absent, p.detach()[absent]) for p in head.parameters()]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(batch, num_classes)``."""
        return self.model.forward_from(self.stage, inputs)

    def loss(self, inputs: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
        """Return the training loss of a batch, a scalar."""
        return self.loss_terms.on(self.model, self.stage, inputs, labels, teacher_logits)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the optimiser moves, by name."""
        named = named_tunables(self.model)
        return {name: p for name, p in named if self.only is None or name in self.only}

    @property
    def mean_loss(self) -> float:
        """Mean loss of the samples of the last epoch."""
        values = torch.stack([loss for loss, _ in self.losses]).tolist()
        sizes = [size for _, size in self.losses]
        return sum(v * size for v, size in zip(values, sizes, strict=True)) / sum(sizes)

    def setup(self, stage: str) -> None:
        """Take the labels of a fit's data module, and refuse what cannot be done without any."""
        if stage != "fit" or self._given is not None:
            return
        self._know(getattr(getattr(self.trainer, "datamodule", None), "labels", None))
        for name in NEED_LABELS if self.labels is None else ():
            if value := getattr(self.config, name):
                raise ConfigError(f"train.{name}", value, "needs `labels` of a Classifier")

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """One step of local training."""
        if (self.loss_terms.distillation or self.loss_terms.taught) and len(batch) < 3:
            accepted = "needs the arriving model's logits in each batch"
            raise ConfigError("train.distillation", self.config.distillation, accepted)
        loss, size = self.loss(*batch), len(batch[1])
        self.losses.append((loss.detach(), size))
        self.samples += size
        self.log_dict({"train_loss": loss.detach()}, on_step=False, on_epoch=True, batch_size=size)
        return loss

    def on_train_batch_end(self, *args: object) -> None:
        """Put the rows of absent classes back: an optimiser's momentum would move them too."""
        with torch.no_grad():
            for parameter, rows, values in self.kept_rows:
                parameter[rows] = values.to(parameter.device)

    def on_train_epoch_start(self) -> None:
        """Count the loss of this epoch only."""
        self.losses = []

    def on_validation_epoch_start(self) -> None:
        """Measure anew."""
        self.quality = Quality(self.model.head.out_features).to(device_of(self.model))

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Add one batch to the metrics."""
        self.quality.update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        self.log_dict({f"val_{name}": value for name, value in self.quality.compute().items()})

    def on_test_epoch_start(self) -> None:
        """Measure anew."""
        self.on_validation_epoch_start()

    def test_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Add one batch to the metrics."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        self.log_dict({f"test_{name}": value for name, value in self.quality.compute().items()})

    def predict_step(self, batch: Tensor | tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the probability of each class, ``(batch, num_classes)``."""
        inputs = batch if isinstance(batch, Tensor) else batch[0]
        return self(inputs).float().softmax(1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser that the settings name."""
        return configured_optimizer(self.trained(), self.config, self.trainer, self.optimizer_state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the tunables alone; who loads them has the frozen weights."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weights[name] for name in self._tunable_names()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the tunables of another model: what is missing would stay as it was drawn."""
        found, own = checkpoint["state_dict"].keys(), self._tunable_names()
        if found != own:
            names = ", ".join(sorted(found ^ own))
            raise ValueError(f"tunables of another model, not in both: {names}")
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}

    def _tunable_names(self) -> set[str]:
        return {f"model.{name}" for name, _ in named_tunables(self.model)}


class LocalUpdate(Classifier):
    """A node's local fit or evaluation, whose caller reads the numbers off the module itself.

    To log a step takes as long as to train a small model on it.
    """

    def _describe(self) -> None:
        """Describe nothing: it is not saved."""

    def log_dict(self, *args: Any, **keywords: Any) -> None:
        """Log nothing."""


class Quality(nn.Module):
    """Metrics of classification over the batches so far."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self.macro_f1 = MulticlassF1Score(classes, average="macro")
        self.recalls = MulticlassAccuracy(classes, average=None)
        self.losses: list[Tensor] = []
        self.samples = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch, logits ``(batch, num_classes)`` and labels ``(batch,)``."""
        for metric in (self.accuracy, self.macro_f1, self.recalls):
            metric.update(logits, labels)
        self.losses.append(F.cross_entropy(logits.float(), labels, reduction="sum"))
        self.samples += len(labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return sum(torch.stack(self.losses).tolist()) / self.samples

    def compute(self) -> dict[str, float | Tensor]:
        """Return ``loss``, ``acc`` and ``macro_f1``."""
        return {
            "loss": self.loss,
            "acc": self.accuracy.compute(),
            "macro_f1": self.macro_f1.compute(),
        }
