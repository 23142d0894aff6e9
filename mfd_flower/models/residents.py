"""What stays in a process: models, and what their frozen parts made of each node's images."""

from __future__ import annotations

import copy
import functools
import hashlib
import threading
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from mfd_flower.canonical_json import dump_json
from mfd_flower.config import DataConfig, ModelConfig, RunConfig
from mfd_flower.data.federation import Part
from mfd_flower.data.samples import Rows, Samples
from mfd_flower.models.backbones import backbone_digest, load_backbone
from mfd_flower.models.build import build_model, input_spec
from mfd_flower.models.devices import autocast, device_for, device_of, held
from mfd_flower.models.features import BATCH, Files, Memory, Store, budget_bytes
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.tuned import TunedModel

KEPT_MODELS = 8
BEHIND = ("tune", "prompts", "deep", "prompt_dropout", "lora_rank", "lora_alpha")
"""Settings of a model that change nothing in front of its frozen stage, whose name tells them."""


class _Models(threading.local):
    def __init__(self) -> None:
        self.build = functools.lru_cache(KEPT_MODELS)(_built)


def _built(config: ModelConfig, num_classes: int, seed: int, device: torch.device) -> TunedModel:
    return placed(build_model(config, num_classes, seed), device)


_models = _Models()
_residents: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Frozen tensor to its copies by device, of which a process has one each, read-only."""
_copying = threading.Lock()


def model_for(run: RunConfig) -> TunedModel:
    """Return this thread's model of a run's kind, on the run's device.

    Only its tunables change from use to use; what is frozen it shares with all other models there.
    """
    kind = (run.model, federation_of(run).num_classes, run.seed, device_for(run.train))
    if device_of(model := _models.build(*kind)) != kind[-1]:
        # A Trainer of Lightning's own carries what it trained to the CPU.
        _models.build.cache_clear()
        model = _models.build(*kind)
    return model


def placed(model: TunedModel, device: torch.device) -> TunedModel:
    """Return a model on a device: its frozen tensors are the residents', its tunables its own."""
    if device_of(model) == device:
        return model
    moved: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.requires_grad:
            moved[id(tensor)] = nn.Parameter(tensor.detach().to(device))
        else:
            moved[id(tensor)] = _resident(tensor, device)
    return copy.deepcopy(model, moved)


def _resident(tensor: Tensor, device: torch.device) -> Tensor:
    with _copying:
        copies = _residents.setdefault(tensor, {})
        if device not in copies or copies[device].device != device:
            there = tensor.detach().to(device)
            is_parameter = isinstance(tensor, nn.Parameter)
            copies[device] = nn.Parameter(there, False) if is_parameter else there
        return copies[device]


_folder: Path | None = None
"""Where features are kept for other processes too."""
_budget_bytes: float | None = None


def keep_features(folder: Path | None, gigabytes: float | None = None) -> None:
    """Let this process keep features in files of a folder that others share, in so many GB."""
    global _folder, _budget_bytes
    _folder, _budget_bytes = folder, budget_bytes(gigabytes)
    _kept.cache_clear()


def shard(run: RunConfig, part: Part) -> Samples:
    """Prepare the samples of a node or of another part, once a federation in a row.

    Where all of them would not fit, they are made in batches whenever they are needed.
    """
    device = device_for(run.train)
    key = _key(run.data, run.model, run.seed, device.type)
    # Nodes that are unlike have several models, whose features are all in use.
    alike = f"{run.data}/{run.seed}/{run.profiles}" if run.node_profiles else key
    kept = _kept(alike, device)
    if key not in kept:
        kept[key] = _store(key, device), {}
    store, samples = kept[key]
    if part not in samples:
        samples[part] = _prepared(run, part, store)
    return samples[part]


@functools.lru_cache(maxsize=1)
def _kept(alike: str, device: torch.device) -> dict[str, tuple[Store, dict[Part, Samples]]]:
    """Return what was prepared for the runs that were asked for last, and where it is kept."""
    _memory.cache_clear()
    return {}


@functools.lru_cache(maxsize=1)
def _memory() -> Memory:
    """Return what all models' features share in this process."""
    return Memory(budget_bytes() if _budget_bytes is None else _budget_bytes)


def _store(key: str, device: torch.device) -> Store:
    if _folder is not None and device.type == "cpu":
        return Files(_folder, key, budget_bytes() if _budget_bytes is None else _budget_bytes)
    return _memory()


@functools.lru_cache(maxsize=32)
def _key(data: DataConfig, model: ModelConfig, seed: int, kind: str) -> str:
    """Name what a federation's features depend on: data, frozen weights, stage, kind of device."""
    stage = build_model(model, 2, seed).frozen_stage()
    front = {name: value for name, value in asdict(model).items() if name not in BEHIND}
    told = [asdict(data), seed, front, stage, kind]
    if model.tune != "full":
        told.append(backbone_digest(load_backbone(model, seed)))
    return hashlib.sha256(dump_json(told).encode()).hexdigest()[:32]


def _prepared(run: RunConfig, part: Part, store: Store) -> Samples:
    federation = federation_of(run)
    indices, spec = federation.part(part), input_spec(model_for(run).backbone)
    labels = torch.from_numpy(federation.images.labels[indices])

    def make(pick: NDArray[np.int64]) -> Tensor:
        return frozen_features(run, federation.samples(indices[pick], spec).inputs[:])

    def make_range(start: int, stop: int) -> Tensor:
        return make(np.arange(start, stop))

    kept = store.keep(str(part), len(indices), make_range) if len(indices) else None
    return Samples(Rows(len(indices), make) if kept is None else kept, labels)


def held_out_by(run: RunConfig, node: int) -> Samples:
    """Return what one node holds out for validation."""
    federation = federation_of(run)
    spec = input_spec(model_for(run).backbone)
    images = federation.samples(federation.held_out[node], spec)
    return at_frozen_stage(run, images) if len(images) else images


def images_of(run: RunConfig, part: Part) -> Samples:
    """Return the images of a node or of another part, as the backbone expects them."""
    federation = federation_of(run)
    return federation.samples(federation.part(part), input_spec(model_for(run).backbone))


def at_frozen_stage(run: RunConfig, images: Samples) -> Samples:
    """Run the frozen part of the model on images; labels stay."""
    inputs = images.inputs[:]
    return replace(images, inputs=frozen_features(run, inputs))


def frozen_features(run: RunConfig, images: Tensor) -> Tensor:
    """Return what stands in front of the model's first tunable makes of images.

    In fp32, where the model is, and in batches of one size: a sample's features do not depend on
    the samples beside it.
    """
    model, device = model_for(run), device_for(run.train)
    stage = model.frozen_stage()
    if stage == "images":
        return images.to(device)
    parts = []
    # A batch may be asked for in the midst of what is computed in another precision.
    with held(device, "32"), autocast(device, "32"):
        for batch in images.split(BATCH):
            filled = torch.zeros(BATCH, *batch.shape[1:], device=device)
            filled[: len(batch)] = batch
            parts.append(model.frozen_outputs(stage, filled)[: len(batch)])
    return torch.cat(parts) if len(parts) > 1 else parts[0].clone()
