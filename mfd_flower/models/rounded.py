"""Features as whole numbers, whose sums are exact, and heads for the features themselves.

A feature is what the frozen part of a model makes of an image: the input of its head. Rounding
begins from a scale that needs no data, so that all nodes have the same: what stands in front of the
head is a layer norm, without whose learned weight and bias a feature has mean 0 and variance 1 over
a token. Head, norm and a projection are linear, so that a head for rounded features is one for the
model's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mfd_flower.canonical_json import dump_json
from mfd_flower.checks import ConfigError, bounded
from mfd_flower.config import RunConfig
from mfd_flower.data.samples import Samples
from mfd_flower.models.backbones import backbone_digest, load_backbone
from mfd_flower.models.build import input_spec
from mfd_flower.models.closed_form import Head
from mfd_flower.models.devices import autocast, device_for, held
from mfd_flower.models.features import BATCH
from mfd_flower.models.residents import model_for
from mfd_flower.models.tuned import TunedModel
from mfd_flower.packets.digest import version_digest

LEAST_WEIGHT = 1e-6
"""A norm's weight below it says that a feature is nothing but its bias."""
PROJECTION = 3
"""Purpose of the generator that draws projections."""


@dataclass(frozen=True)
class Rounding:
    """How a feature becomes a whole number."""

    clip: float = bounded(3.0, 0.0, open_low=True)
    """Standard deviations at which a feature is cut off."""
    bits: int = bounded(4, 2, 16)
    """Of a feature, its sign among them."""
    projection: int = bounded(0, 0)
    """Random directions that are left of the features, drawn from the seed; 0 leaves all."""
    norm: float = bounded(0.0, 0.0)
    """Longest vector of features, as a multiple of the length that standard deviations of 1 give;
    longer ones are scaled down to it. 0 bounds none but by `clip`."""

    @property
    def largest(self) -> int:
        """Largest whole number."""
        return 2 ** (self.bits - 1) - 1

    def longest(self, features: int) -> float:
        """Return the greatest length that a vector of whole numbers may have."""
        most = np.sqrt(features) * self.largest
        return min(most, self.norm * np.sqrt(features) / self.step) if self.norm else most

    @property
    def step(self) -> float:
        """Standard deviations from one whole number to the next."""
        return self.clip / self.largest


class Scale(NamedTuple):
    """The way from a model's features x to whole numbers, ``round((x - shift) * factor @ P)``."""

    shift: NDArray[np.float64]
    """``(d,)``."""
    factor: NDArray[np.float64]
    """``(d,)``."""
    projection: NDArray[np.float64] | None
    """``(d, k)``, random signs in columns of length 1 (Achlioptas 2003); None leaves k = d."""
    rounding: Rounding

    @classmethod
    def of(cls, model: TunedModel, rounding: Rounding, seed: int) -> Scale:
        """Return the scale that whoever has the model, and the run's seed, knows.

        Raises
        ------
        ConfigError
            If the projection has more directions than the features.
        """
        features = model.head.in_features
        shift, factor = _standardised(model, features)
        if not rounding.projection:
            return cls(shift, factor, None, rounding)
        if rounding.projection >= features:
            accepted = f"less than {features}, the features that there are; 0 leaves all"
            raise ConfigError("options.features.projection", rounding.projection, accepted)
        rng = np.random.default_rng([seed, PROJECTION])
        signs = rng.integers(0, 2, (features, rounding.projection)) * 2.0 - 1
        return cls(shift, factor, signs / np.sqrt(features), rounding)

    @property
    def features(self) -> int:
        """How many whole numbers an image has."""
        return len(self.shift) if self.projection is None else self.projection.shape[1]

    def rounded(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return whole numbers ``(n, k)`` of features ``(n, d)``."""
        parts = [np.zeros((0, self.features), np.int64)]
        for start in range(0, len(features), BATCH):
            batch = features[start : start + BATCH]
            scaled = np.zeros((BATCH, len(self.shift)))
            scaled[: len(batch)] = (batch - self.shift) * self.factor
            if self.projection is not None:
                # In batches of one size: how a product is rounded depends on it.
                scaled = scaled @ self.projection
            whole = np.rint(scaled[: len(batch)] / self.rounding.step)
            most = self.rounding.largest
            clipped = np.clip(whole, -most, most)
            if self.rounding.norm:
                lengths = np.linalg.norm(clipped, axis=1, keepdims=True)
                share = self.rounding.longest(self.features) / np.maximum(lengths, 1e-300)
                # Towards zero, or a shortened vector may be longer again.
                clipped = np.trunc(clipped * np.minimum(share, 1.0))
            parts.append(clipped.astype(np.int64))
        return np.concatenate(parts)

    def unrounded(self, head: Head) -> tuple[Tensor, Tensor]:
        """Return weight ``(classes, d)`` and bias for the model's features, of a `rounded` head."""
        weight = head.weight / self.rounding.step
        if self.projection is not None:
            weight = weight @ self.projection.T
        weight = weight * self.factor
        bias = head.bias - weight @ self.shift
        return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def scale_of(run: RunConfig, rounding: Rounding) -> Scale:
    """Return the scale for the features of a run's model."""
    return Scale.of(model_for(run), rounding, run.seed)


def features_digest(run: RunConfig, tensors: Mapping[str, Tensor], rounding: Rounding) -> str:
    """Name what sums are of: backbone, input, tunables before the head, and rounding."""
    frozen = {name: t for name, t in tensors.items() if not name.startswith("head.")}
    backbone = load_backbone(run.model, run.seed)
    told = {
        "backbone": "" if run.model.tune == "full" else backbone_digest(backbone),
        "input": asdict(input_spec(backbone)),
        "tunables": version_digest(frozen) if frozen else "",
        "rounding": asdict(rounding),
        "seed": run.seed if rounding.projection else 0,
    }
    return hashlib.sha256(dump_json(told).encode()).hexdigest()


@torch.no_grad()
def head_inputs(run: RunConfig, model: TunedModel, samples: Samples) -> NDArray[np.float32]:
    """Return what a model's head gets of samples at its frozen stage, ``(n, d)``.

    In fp32, and in batches of one size: no sample's depend on those beside it.
    """
    stage, device = model.frozen_stage(), device_for(run.train)
    inputs = samples.inputs[:]
    if stage == "features":
        return inputs.cpu().numpy()
    model.eval()
    parts = [np.zeros((0, model.head.in_features), np.float32)]
    with held(device, "32"), autocast(device, "32"):
        for batch in inputs.split(BATCH):
            filled = torch.zeros(BATCH, *batch.shape[1:], device=device)
            filled[: len(batch)] = batch
            parts.append(model.features_from(stage, filled)[: len(batch)].cpu().numpy())
    return np.concatenate(parts)


def _standardised(model: TunedModel, features: int) -> tuple[NDArray[np.float64], ...]:
    """Return shift and factor that undo the weight and bias of the norm in front of the head."""
    found = [getattr(model.backbone, name, None) for name in ("fc_norm", "norm")]
    norm = next((m for m in found if isinstance(m, nn.LayerNorm)), None)
    shift, factor = np.zeros(features), np.ones(features)
    if model.levels or norm is None or norm.weight is None or len(norm.weight) != features:
        return shift, factor
    weight = norm.weight.detach().cpu().double().numpy()
    learned = np.abs(weight) >= LEAST_WEIGHT
    factor[learned] = 1 / weight[learned]
    if norm.bias is not None:
        shift = norm.bias.detach().cpu().double().numpy()
    return shift, factor
