"""The optimisers by name: a new one is one more entry of `OPTIMIZERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import TrainConfig


@dataclass(frozen=True)
class Optimizer:
    """A torch optimiser and what it takes."""

    make: Callable[..., torch.optim.Optimizer]
    keywords: tuple[str, ...]
    """Settings of `TrainConfig` that it is called with."""
    slots: Callable[[TrainConfig], int]
    """Tensors of the parameter's size that it keeps for each trained parameter."""


OPTIMIZERS = {
    "adamw": Optimizer(torch.optim.AdamW, ("lr", "weight_decay"), lambda config: 2),
    "sgd": Optimizer(
        torch.optim.SGD, ("lr", "momentum", "weight_decay"), lambda config: int(config.momentum > 0)
    ),
}


def optimizer_of(config: TrainConfig) -> Optimizer:
    """Return the entry that the settings name, or refuse the name."""
    if config.optimizer not in OPTIMIZERS:
        accepted = f"accepted: {', '.join(OPTIMIZERS)}"
        raise ConfigError("train.optimizer", config.optimizer, accepted)
    return OPTIMIZERS[config.optimizer]


def configured_optimizer(
    tunables: Mapping[str, nn.Parameter],
    config: TrainConfig,
    trainer: lightning.Trainer,
    state: Mapping[str, Tensor] = {},
) -> OptimizerLRScheduler:
    """Return the optimiser of the tunables, with a cosine over the trainer's steps if asked for.

    It starts from `state`, ``<tunable>:<slot>``; what is of other tunables is passed over.
    """
    entry = optimizer_of(config)
    keywords = {name: getattr(config, name) for name in entry.keywords}
    optimizer = entry.make(tunables.values(), **keywords)
    for key, value in state.items():
        name, _, slot = key.rpartition(":")
        if name in tunables:
            # Lightning moves it to the device, save Adam's count of steps.
            optimizer.state[tunables[name]][slot] = value.clone()
    if config.lr_schedule == "constant":
        return optimizer
    steps = int(trainer.estimated_stepping_batches)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def optimizer_state(
    tunables: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return a copy of what the optimiser keeps, ``<tunable>:<slot>``, on the CPU."""
    return {
        f"{name}:{slot}": value.detach().to("cpu", copy=True)
        for name, parameter in tunables.items()
        for slot, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }
