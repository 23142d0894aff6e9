"""What stays in a process: models, and what their frozen parts made of each node's images."""

from __future__ import annotations

import functools
import threading
from dataclasses import replace

import torch

from mfd_flower.config import DataConfig, ModelConfig, RunConfig
from mfd_flower.data.federation import Part
from mfd_flower.data.samples import Samples
from mfd_flower.models.build import build_model, input_spec
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.prompts import PromptedViT

CHUNK = 250
KEPT_MODELS = 4


class _Models(threading.local):
    def __init__(self) -> None:
        self.build = functools.lru_cache(KEPT_MODELS)(build_model)


_models = _Models()


def model_for(run: RunConfig) -> PromptedViT:
    """Return this thread's model of a run's kind; only its tunables change from use to use."""
    classes = federation_of(run).num_classes
    return _models.build(run.model, classes, run.seed)


def shard(run: RunConfig, part: Part) -> Samples:
    """Prepare the samples of a node or of another part, once a federation in a row."""
    kept = _shards(run.data, run.model, run.seed)
    if part not in kept:
        kept[part] = at_frozen_stage(run, images_of(run, part))
    return kept[part]


@functools.lru_cache(maxsize=1)
def _shards(data: DataConfig, model: ModelConfig, seed: int) -> dict[Part, Samples]:
    """Return what was prepared of the federation that was asked for last."""
    return {}


def images_of(run: RunConfig, part: Part) -> Samples:
    """Return the images of a node or of another part, as the backbone expects them."""
    federation = federation_of(run)
    return federation.samples(federation.part(part), input_spec(model_for(run).backbone))


def at_frozen_stage(run: RunConfig, images: Samples) -> Samples:
    """Run the frozen part of the model on images; labels stay."""
    model = model_for(run)
    stage = model.frozen_stage()
    parts = [model.frozen_outputs(stage, part) for part in images.inputs.split(CHUNK)]
    return replace(images, inputs=torch.cat(parts))
