"""What every Lightning module here trains with: a quiet Trainer, an optimiser by the settings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from mfd_flower.config import TrainConfig


def configured_optimizer(
    tunables: Mapping[str, nn.Parameter],
    config: TrainConfig,
    trainer: lightning.Trainer,
    state: Mapping[str, Tensor],
) -> OptimizerLRScheduler:
    """Return AdamW or SGD over the tunables, with a cosine over all steps if asked for.

    Parameters
    ----------
    tunables : mapping of str to nn.Parameter
        What trains, by name.
    config : TrainConfig
        Optimiser and schedule.
    trainer : lightning.Trainer
        Knows the number of steps.
    state : mapping of str to Tensor
        Where the optimiser starts from, ``<tunable>:<slot>``.
    """
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            tunables.values(), lr=config.lr, weight_decay=config.weight_decay
        )
    else:
        optimizer = torch.optim.SGD(
            tunables.values(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
    for key, value in state.items():
        name, _, slot = key.rpartition(":")
        optimizer.state[tunables[name]][slot] = value.clone()
    if config.lr_schedule == "constant":
        return optimizer
    steps = int(trainer.estimated_stepping_batches)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def optimizer_state(
    tunables: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return a copy of what the optimiser keeps, ``<tunable>:<slot>``."""
    return {
        f"{name}:{slot}": value.detach().clone()
        for name, parameter in tunables.items()
        for slot, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


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
