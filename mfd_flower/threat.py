"""Malicious nodes in an experiment: which they are, what they train on, who changes their packets.

The attacks are those of `mfd_flower.attacks`; here they meet the settings and data of a run. No
strategy and no honest node asks this module anything.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from mfd_flower.attacks import (
    Attack,
    malicious,
    poisoned_labels,
    tampered,
    trigger_test,
    with_backdoor,
)
from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data import Samples, load_federation
from mfd_flower.models import input_spec
from mfd_flower.records import tensors_of
from mfd_flower.shards import at_frozen_stage, images_of, model_for, shard

UPDATE, TRIGGER, LINK = 3, 4, 5
"""Purposes of a malicious node's generators."""


@functools.lru_cache(maxsize=64)
def attack_of(run: RunConfig) -> Attack | None:
    """Return what the malicious nodes of a run do, None if there are none.

    Raises
    ------
    ConfigError
        If the target is no class of the data.
    """
    threat = run.threat
    if not threat.kind:
        return None
    classes = load_federation(run.data, run.seed).num_classes
    if threat.target >= classes:
        raise ConfigError("threat.target", threat.target, f"must be below {classes} classes")
    return Attack(threat.kind, threat.share, threat.scale, threat.target)


@functools.lru_cache(maxsize=64)
def malicious_nodes(run: RunConfig) -> frozenset[int]:
    """Return the indices of the malicious nodes."""
    attack = attack_of(run)
    return malicious(run.data.nodes, attack.share, run.seed) if attack else frozenset()


def poisoners(run: RunConfig) -> frozenset[str]:
    """Return the addresses of nodes whose updates are poisoned; tampering leaves those whole."""
    if run.threat.kind == "tamper":
        return frozenset()
    return frozenset(f"n{index}" for index in malicious_nodes(run))


@functools.lru_cache(maxsize=32)
def poisoned_shard(run: RunConfig, index: int) -> Samples:
    """Return what malicious node `index` trains on; its shard, for an attack on updates alone."""
    attack = attack_of(run)
    samples = shard(run.data, run.model, run.seed, index)
    if attack is None or attack.kind not in ("label-flip", "backdoor"):
        return samples
    if attack.kind == "label-flip":
        classes = load_federation(run.data, run.seed).num_classes
        return replace(samples, labels=poisoned_labels(samples.labels, classes))
    images = images_of(run.data, run.model, run.seed, index)
    rng = np.random.default_rng([run.seed, index, 0, TRIGGER])
    inputs, labels = with_backdoor(images.inputs, images.labels, attack, rng, white_pixel(run))
    return at_frozen_stage(Samples(inputs, labels), run.data, run.model, run.seed)


@functools.lru_cache(maxsize=4)
def trigger_samples(run: RunConfig) -> Samples | None:
    """Return samples on which accuracy is the backdoor's success rate; None for other attacks."""
    attack = attack_of(run)
    if attack is None or attack.kind != "backdoor":
        return None
    images = images_of(run.data, run.model, run.seed, None)
    inputs, labels = trigger_test(images.inputs, images.labels, attack, white_pixel(run))
    return at_frozen_stage(Samples(inputs, labels), run.data, run.model, run.seed)


def white_pixel(run: RunConfig) -> Tensor:
    """Return a white pixel as the backbone's images are normalised, ``(1, channels, 1, 1)``."""
    classes = load_federation(run.data, run.seed).num_classes
    spec = input_spec(model_for(run.model, classes, run.seed).backbone)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return (1 - mean) / std


def tamper(content: RecordDict, rng: np.random.Generator) -> None:
    """Change one bit of the first arrays in a message that its sender has finished."""
    name, arrays = next(iter(content.array_records.items()))
    content[name] = ArrayRecord(tampered(tensors_of(arrays), rng))
