"""Where models are computed: the accelerator, its precision, and a Trainer that moves nothing.

A node's model stays on the device on which `mfd_flower.models.residents` placed it, with frozen
weights that other threads use at the same time. Lightning's own strategies carry a module to the
device as a fit begins and back to the CPU as it ends, which would tear those weights from a
neighbour.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lightning
import torch
from lightning.fabric.utilities import registry
from lightning.pytorch.accelerators import AcceleratorRegistry, CPUAccelerator, CUDAAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from mfd_flower.checks import ConfigError
from mfd_flower.config import TrainConfig

LIGHTNING_PRECISIONS = {
    "32": "32-true",
    "tf32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
"""What Lightning calls a `TrainConfig.precision`; TF32 is fp32 whose products torch may round."""
PRODUCTS: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
"""Whose `allow_tf32` decides how matrix products and convolutions of fp32 are rounded."""
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_locks: defaultdict[torch.device, threading.RLock] = defaultdict(threading.RLock)
_asking = threading.Lock()
"""Held while a Trainer asks for its data."""


# A Trainer asks every installed package whether it brings callbacks, and reads its files for that:
# six of the seven milliseconds that it takes to make one. Packages stay what they are meanwhile.
vars(registry)["entry_points"] = functools.cache(importlib.metadata.entry_points)


class Resident(SingleDeviceStrategy):
    """A device on which the module is already, and stays."""

    strategy_name = "resident"

    def model_to_device(self) -> None:
        """Leave the module where it is."""

    def teardown(self) -> None:
        """Leave the module where it is, and the device's memory to the next fit."""
        self.precision_plugin.teardown()
        self.checkpoint_io.teardown()


class ResidentCUDA(CUDAAccelerator):
    """A CUDA card whose memory goes from one fit to the next; Lightning's empties it in between."""

    def setup(self, trainer: lightning.Trainer) -> None:
        """Leave the memory as it is."""


@functools.lru_cache(maxsize=16)
def _device(accelerator: str) -> torch.device:
    known = sorted({"auto", "gpu", *AcceleratorRegistry.available_accelerators()})
    if accelerator not in known:
        raise ConfigError("train.accelerator", accelerator, f"accepted: {', '.join(known)}")
    try:
        trainer = quiet(accelerator=accelerator)
    except (ValueError, MisconfigurationException) as error:
        said = " ".join(str(error).split())
        raise ConfigError("train.accelerator", accelerator, said) from None
    return trainer.strategy.root_device


def device_for(config: TrainConfig) -> torch.device:
    """Return the device that the settings ask for.

    Raises ConfigError if Lightning has no such accelerator, there is none here, or it has no such
    precision.
    """
    device = _device(config.accelerator)
    needs = {"tf32": ("cuda",), "fp16": ("cuda", "mps")}.get(config.precision, (device.type,))
    if device.type not in needs:
        accepted = f"accepted on {device.type}: 32, bf16"
        raise ConfigError("train.precision", config.precision, accepted)
    return device


def device_name(device: torch.device) -> str:
    """Return the device with the name of its card, if it has one."""
    if device.type != "cuda":
        return device.type
    return f"{device} ({torch.cuda.get_device_name(device)})"


def device_of(module: nn.Module) -> torch.device:
    """Return the device that a module's parameters are on."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


@contextmanager
def held(device: torch.device, precision: str) -> Iterator[None]:
    """Keep an accelerator to this thread, with products as precise as asked for.

    On an accelerator one fit runs after another: side by side they would only share its memory. On
    the CPU they run side by side.
    """
    if device.type == "cpu":
        yield
        return
    with _locks[device]:
        # Also in the midst of what is computed in another precision.
        flags = [(each, each.allow_tf32) for each in PRODUCTS] if device.type == "cuda" else []
        set_products(device, precision)
        try:
            yield
        finally:
            for backend, allowed in flags:
                backend.allow_tf32 = allowed


def set_products(device: torch.device, precision: str) -> None:
    """Tell torch whether matrix products and convolutions of fp32 may be rounded to TF32."""
    if device.type == "cuda":
        for backend in PRODUCTS:
            backend.allow_tf32 = precision == "tf32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Compute in the precision of `TrainConfig` what runs outside of a Trainer.

    Also in the midst of what is computed in another one.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    dtype = AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def resident_trainer(module: nn.Module, precision: str, **keywords: Any) -> lightning.Trainer:
    """Return a quiet Trainer for a module that is where it is to be trained."""
    device = device_of(module)
    set_products(device, precision)
    accelerators = {"cuda": ResidentCUDA, "meta": CPUAccelerator}
    return quiet(
        accelerator=accelerators[device.type]() if device.type in accelerators else device.type,
        strategy=Resident(device),
        precision=LIGHTNING_PRECISIONS[precision],
        **keywords,
    )


def quiet(**keywords: Any) -> lightning.Trainer:
    """Return a Trainer that writes nothing, to a screen or to a disk."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    trainer = lightning.Trainer(
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **keywords,
    )
    for loop in (trainer.fit_loop, trainer.test_loop):
        loop.setup_data = _one_at_a_time(loop.setup_data)  # type: ignore[method-assign]
    return trainer


def _one_at_a_time(setup: Callable[[], None]) -> Callable[[], None]:
    """Keep other threads' Trainers from asking for their data meanwhile.

    Lightning puts methods of its own into torch's classes while it asks, and takes them out again;
    two threads at it take out each other's.
    """

    def alone() -> None:
        with _asking:
            setup()

    return alone
