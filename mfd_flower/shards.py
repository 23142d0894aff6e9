"""What a node's images become in front of its model, and the models themselves, once a process."""

from __future__ import annotations

import functools
import threading
from dataclasses import replace

import torch

from mfd_flower.config import DataConfig, ModelConfig
from mfd_flower.data import Samples, load_federation
from mfd_flower.models import PromptedViT, build_model, input_spec

CHUNK = 250
_models = threading.local()


@functools.lru_cache(maxsize=128)
def shard(data: DataConfig, model: ModelConfig, seed: int, index: int | None) -> Samples:
    """Prepare the samples of node `index`, or the held-out test set for None.

    The inputs are what the frozen part of the model makes of the images: it never changes, so it
    is computed once a process.
    """
    return at_frozen_stage(images_of(data, model, seed, index), data, model, seed)


def images_of(data: DataConfig, model: ModelConfig, seed: int, index: int | None) -> Samples:
    """Return the images of node `index`, or of the test set, as the backbone expects them."""
    federation = load_federation(data, seed)
    indices = federation.test if index is None else federation.shares[index]
    backbone = model_for(model, federation.num_classes, seed).backbone
    return federation.samples(indices, input_spec(backbone))


def at_frozen_stage(images: Samples, data: DataConfig, model: ModelConfig, seed: int) -> Samples:
    """Run the frozen part of the model on images; labels stay."""
    network = model_for(model, load_federation(data, seed).num_classes, seed)
    stage = network.frozen_stage()
    parts = [network.frozen_outputs(stage, part) for part in images.inputs.split(CHUNK)]
    return replace(images, inputs=torch.cat(parts))


def model_for(config: ModelConfig, num_classes: int, seed: int) -> PromptedViT:
    """Return this thread's model of a kind; only its tunables change from use to use."""
    kept: dict[tuple[ModelConfig, int, int], PromptedViT] = _models.__dict__.setdefault("kept", {})
    key = (config, num_classes, seed)
    if key not in kept:
        if len(kept) > 3:
            kept.pop(next(iter(kept)))
        kept[key] = build_model(config, num_classes, seed)
    return kept[key]
