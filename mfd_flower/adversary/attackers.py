"""Which nodes of a run are malicious, and where an attack of `attacks.py` takes hold of it."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict

from mfd_flower.adversary.attacks import ATTACKS, Attack, Scene
from mfd_flower.adversary.on_sums import Claim
from mfd_flower.checks import ConfigError
from mfd_flower.config import RunConfig
from mfd_flower.data import Samples
from mfd_flower.models import input_spec
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.residents import at_frozen_stage, images_of, model_for, shard
from mfd_flower.records import tensors_of

UPDATE, TRIGGER, LINK = 3, 4, 5
"""Purposes of a malicious node's generators."""
HONEST = Attack()


@functools.lru_cache(maxsize=64)
def attack_of(run: RunConfig) -> Attack:
    """Return what the malicious nodes of a run do, if there are any.

    Raises ConfigError if there is no such attack, or a setting does not fit it or the data.
    """
    threat = run.threat
    if not threat.kind:
        return HONEST
    if threat.kind not in ATTACKS:
        accepted = f"accepted: {', '.join(ATTACKS)}, or empty for none"
        raise ConfigError("threat.kind", threat.kind, accepted)
    attack = ATTACKS[threat.kind]
    if attack.needs_scale and threat.scale == 1:
        accepted = f"kind {threat.kind} needs a factor other than 1"
        raise ConfigError("threat.scale", threat.scale, accepted)
    classes = federation_of(run).num_classes
    if threat.target >= classes:
        raise ConfigError("threat.target", threat.target, f"must be below {classes} classes")
    return attack


@functools.lru_cache(maxsize=64)
def malicious_nodes(run: RunConfig) -> frozenset[int]:
    """Draw the malicious nodes by the seed: at most their share, but one for any share above 0."""
    if attack_of(run) is HONEST:
        return frozenset()
    nodes, share = run.data.nodes, run.threat.share
    # The slack keeps 0.29 x 100 at 29 although the product of the floats is below it.
    count = max(share > 0, math.floor(nodes * share + 1e-9))
    order = np.random.default_rng([run.seed, nodes]).permutation(nodes)
    return frozenset(order[:count].tolist())


def attack_by(run: RunConfig, index: int) -> Attack:
    """Return what node `index` does; an honest one changes nothing."""
    return attack_of(run) if index in malicious_nodes(run) else HONEST


def poisoners(run: RunConfig) -> frozenset[str]:
    """Return the addresses of nodes whose own part is poisoned, not what arrives of it."""
    attack = attack_of(run)
    poisons = attack.on_update or attack.on_sums or attack.on_claim
    return frozenset(f"n{i}" for i in malicious_nodes(run) if poisons)


def claimed(run: RunConfig, index: int, included: frozenset[str], samples: int) -> Claim:
    """Return what node `index` says of the sums that it sends on, the truth if it is honest."""
    told = Claim(included, samples, f"n{index}", {f"n{i}" for i in range(run.data.nodes)})
    on_claim = attack_by(run, index).on_claim
    return told if on_claim is None else on_claim(told, run.threat.scale)


def training_samples(run: RunConfig, index: int) -> Samples:
    """Return what node `index` trains on: its shard, unless it attacks by data."""
    on_data, kept = attack_by(run, index).on_data, _poisoned(run)
    if on_data is None:
        return shard(run, index)
    if index not in kept:
        scene = _scene(run, np.random.default_rng([run.seed, index, 0, TRIGGER]))
        kept[index] = at_frozen_stage(run, on_data(images_of(run, index), scene))
    return kept[index]


@functools.lru_cache(maxsize=1)
def _poisoned(run: RunConfig) -> dict[int, Samples]:
    """Return what was prepared for malicious nodes of the run that was asked for last."""
    return {}


def change_on_link(
    run: RunConfig, index: int, content: RecordDict, rng: np.random.Generator
) -> None:
    """Change the arrays or the packet in a message that is ready, if node `index` does so."""
    if (on_link := attack_by(run, index).on_link) is None:
        return
    for name, arrays in content.array_records.items():
        content[name] = ArrayRecord(on_link(tensors_of(arrays), rng))
        return
    for record in content.config_records.values():
        for key, value in record.items():
            if isinstance(value, bytes):
                data = torch.frombuffer(bytearray(value), dtype=torch.uint8)
                record[key] = on_link({key: data}, rng)[key].numpy().tobytes()
                return


@functools.lru_cache(maxsize=4)
def trigger_samples(run: RunConfig) -> Samples | None:
    """Return samples on which accuracy is the attack's success rate; None for most attacks."""
    if (success := attack_of(run).success) is None:
        return None
    scene = _scene(run, np.random.default_rng([run.seed, TRIGGER]))
    return at_frozen_stage(run, success(images_of(run, "test"), scene))


def _scene(run: RunConfig, rng: np.random.Generator) -> Scene:
    spec = input_spec(model_for(run).backbone)
    white = spec.normalised(torch.ones(1, spec.channels, 1, 1))
    classes = federation_of(run).num_classes
    return Scene(run.threat.target, classes, white, rng)
