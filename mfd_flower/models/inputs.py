"""The data of a run as its backbone takes it."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mfd_flower.config import ModelConfig, RunConfig
from mfd_flower.data.augmentation import Augmentation
from mfd_flower.data.federation import Federation, load_federation
from mfd_flower.data.samples import InputSpec, Rows, Samples
from mfd_flower.models.backbones import load_backbone
from mfd_flower.models.build import input_spec
from mfd_flower.models.devices import device_for


def federation_of(run: RunConfig) -> Federation:
    """Return who holds what in a run, picture files decoded at the size of its backbone."""
    return load_federation(run.data, run.seed, _wanted(run.model, run.seed))


@functools.lru_cache(maxsize=32)
def _wanted(model: ModelConfig, seed: int) -> InputSpec:
    return input_spec(load_backbone(model, seed))


def spec_of(run: RunConfig) -> InputSpec:
    """Return what a run's backbone expects, and how the run's images are brought to it."""
    return federation_of(run).spec


def augmented(run: RunConfig, node: int, seed: int) -> Samples:
    """Return the images that a node trains on, another view of each whenever it is asked for."""
    federation, device = federation_of(run), device_for(run.train)
    share = federation.shares[node]
    augment = Augmentation(run.train.augmentation, _wanted(run.model, run.seed), seed)

    def views(pick: NDArray[np.int64]) -> Tensor:
        return augment(federation.images.images[share[pick]]).to(device)

    return Samples(Rows(len(share), views), torch.from_numpy(federation.images.labels[share]))
