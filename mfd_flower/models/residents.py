"""What stays in a process: models, and what their frozen parts made of each node's images."""

from __future__ import annotations

import functools
import threading
from dataclasses import replace

import torch

from mfd_flower.config import DataConfig, ModelConfig, RunConfig
from mfd_flower.data.federation import load_federation
from mfd_flower.data.samples import Samples
from mfd_flower.models.build import build_model, input_spec
from mfd_flower.models.prompts import PromptedViT

CHUNK = 250
KEPT_MODELS = 4
_models = threading.local()


def model_for(run: RunConfig) -> PromptedViT:
    """Return this thread's model of a run's kind; only its tunables change from use to use."""
    kept: dict[tuple[ModelConfig, int, int], PromptedViT] = _models.__dict__.setdefault("kept", {})
    key = (run.model, load_federation(run.data, run.seed).num_classes, run.seed)
    if key not in kept:
        if len(kept) >= KEPT_MODELS:
            kept.pop(next(iter(kept)))
        kept[key] = build_model(*key)
    return kept[key]


def shard(run: RunConfig, index: int | None) -> Samples:
    """Prepare the samples of node `index`, or the held-out test set for None.

    The inputs are what the frozen part of the model makes of the images: it never changes, so it
    is computed once for all runs in a row on the same federation.
    """
    kept = _shards(run.data, run.model, run.seed)
    if index not in kept:
        kept[index] = at_frozen_stage(run, images_of(run, index))
    return kept[index]


@functools.lru_cache(maxsize=1)
def _shards(data: DataConfig, model: ModelConfig, seed: int) -> dict[int | None, Samples]:
    """Return what was prepared of the federation that was asked for last: nodes and test set."""
    return {}


def images_of(run: RunConfig, index: int | None) -> Samples:
    """Return the images of node `index`, or of the test set, as the backbone expects them."""
    federation = load_federation(run.data, run.seed)
    indices = federation.test if index is None else federation.shares[index]
    return federation.samples(indices, input_spec(model_for(run).backbone))


def at_frozen_stage(run: RunConfig, images: Samples) -> Samples:
    """Run the frozen part of the model on images; labels stay."""
    model = model_for(run)
    stage = model.frozen_stage()
    parts = [model.frozen_outputs(stage, part) for part in images.inputs.split(CHUNK)]
    return replace(images, inputs=torch.cat(parts))
