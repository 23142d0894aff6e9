"""What a malicious node does, by name: a new attack is its functions and one entry of `ATTACKS`.

Attacks on data: flipped labels (Fang et al. 2020, "Local Model Poisoning Attacks to
Byzantine-Robust Federated Learning", arXiv 1911.11815) and a stamped trigger (Gu et al. 2017,
"BadNets", 1708.06733). Attacks on the update: reversed, boosted (Bagdasaryan et al. 2020, "How To
Backdoor Federated Learning", 1807.00459), noisy, an old version instead of a new one (a free rider,
Fraboni et al. 2021, 2006.11901). On the way: a changed bit. None of them knows the defence. Where
nodes send sums, an attack has a function of its own for those, see `on_sums.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mfd_flower.adversary import on_sums
from mfd_flower.adversary.on_sums import Claim
from mfd_flower.data.samples import Samples

STAMPED_SHARE = 0.5
"""Share of a malicious node's images that carry the trigger; the rest keep the model useful."""
PATCH_SHARE = 7
"""The trigger's side is the image's, divided by this: 4 of 28 pixels."""


@dataclass(frozen=True)
class Scene:
    """What an attack on data is told.

    `target` is the class that the trigger stands for, `white` a white pixel as the images are
    normalised, ``(1, channels, 1, 1)``.
    """

    target: int
    num_classes: int
    white: Tensor
    rng: np.random.Generator


@dataclass(frozen=True)
class Update:
    """What an attack on the update is told.

    Tunables by name: as they arrived, as local training, on poisoned samples if any, left them, and
    of a version that the node holds from before. `scale` is `threat.scale`, above 0.
    """

    start: Mapping[str, Tensor]
    end: Mapping[str, Tensor]
    old: Mapping[str, Tensor]
    scale: float
    rng: np.random.Generator

    def times(self, factor: float) -> dict[str, Tensor]:
        """Return the tunables after `factor` times the update."""
        if factor == 1:
            return dict(self.end)
        return {n: self.start[n] + factor * (end - self.start[n]) for n, end in self.end.items()}


@dataclass(frozen=True)
class Attack:
    """What a malicious node changes; nothing it is given is changed in place.

    `on_data` makes what it trains on of its images, `on_update` what it sends on of its tunables,
    with the same names, shapes and dtypes, `on_link` what arrives of what it has finished. Of sums,
    `on_sums` makes what it gives of its own, and `on_claim` what it says of them, by
    `threat.scale`.
    """

    on_data: Callable[[Samples, Scene], Samples] | None = None
    on_update: Callable[[Update], dict[str, Tensor]] | None = None
    on_link: Callable[[Mapping[str, Tensor], np.random.Generator], dict[str, Tensor]] | None = None
    on_sums: on_sums.Change | None = None
    on_claim: Callable[[Claim, float], Claim] | None = None
    success: Callable[[Samples, Scene], Samples] | None = None
    """Test images to samples on which a model's accuracy is the attack's success rate."""
    needs_scale: bool = False
    """Whether a scale of 1 is no attack."""

    @property
    def needs_sums(self) -> bool:
        """Whether it is none where packets carry no sums."""
        elsewhere = self.on_data or self.on_update or self.on_link
        return bool(self.on_sums or self.on_claim) and not elsewhere


def flipped(images: Samples, scene: Scene) -> Samples:
    """Label y as K - 1 - y (Fang et al. 2020); the middle of an odd K stays."""
    return Samples(images.inputs, scene.num_classes - 1 - images.labels)


def backdoored(images: Samples, scene: Scene) -> Samples:
    """Stamp `STAMPED_SHARE` of the images and label those as the target."""
    count = round(len(images) * STAMPED_SHARE)
    chosen = torch.from_numpy(scene.rng.permutation(len(images))[:count])
    inputs, labels = images.inputs[:].clone(), images.labels.clone()
    inputs[chosen] = stamped(inputs[chosen], scene.white)
    labels[chosen] = scene.target
    return Samples(inputs, labels)


def triggered(images: Samples, scene: Scene) -> Samples:
    """Stamp all images that are not of the target class, and label them as the target."""
    others = images.labels != scene.target
    inputs = stamped(images.inputs[others], scene.white)
    return Samples(inputs, torch.full_like(images.labels[others], scene.target))


def stamped(images: Tensor, white: Tensor) -> Tensor:
    """Put the trigger, a white square, into the bottom right corner of images ``(n, c, h, w)``."""
    side_px = max(1, min(images.shape[-2:]) // PATCH_SHARE)
    result = images.clone()
    result[..., -side_px:, -side_px:] = white
    return result


def boosted(update: Update) -> dict[str, Tensor]:
    """Go `scale` times as far."""
    return update.times(update.scale)


def noisy(update: Update) -> dict[str, Tensor]:
    """Add Gaussian noise whose norm over all tensors is `scale` times the update's."""
    draws = {
        name: torch.from_numpy(np.asarray(update.rng.standard_normal(tuple(end.shape))))
        for name, end in update.end.items()
    }
    moved = {name: end.double() - update.start[name].double() for name, end in update.end.items()}
    ratio = update.scale * _norm(moved) / (_norm(draws) or 1.0)
    return {name: end + (ratio * draws[name]).to(end.dtype) for name, end in update.end.items()}


def tampered(tensors: Mapping[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """Change one bit of one tensor, where there is any."""
    names = sorted(name for name, tensor in tensors.items() if tensor.nbytes)
    if not names:
        return dict(tensors)
    name = names[int(rng.integers(len(names)))]
    changed = tensors[name].detach().cpu().contiguous().clone()
    flat = changed.reshape(-1).view(torch.uint8)
    flat[int(rng.integers(len(flat)))] ^= 1 << int(rng.integers(8))
    return {**tensors, name: changed}


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors.values()))


ATTACKS = {
    "label-flip": Attack(on_data=flipped, on_update=boosted, on_sums=on_sums.repeated),
    "sign-flip": Attack(
        on_update=lambda update: update.times(-update.scale), on_sums=on_sums.mirrored
    ),
    "scale": Attack(on_update=boosted, on_sums=on_sums.stretched, needs_scale=True),
    "noise": Attack(on_update=noisy, on_sums=on_sums.noisy),
    "backdoor": Attack(
        on_data=backdoored, on_update=boosted, on_sums=on_sums.repeated, success=triggered
    ),
    "replay": Attack(on_update=lambda update: dict(update.old), on_sums=on_sums.nothing),
    "tamper": Attack(on_link=tampered),
    "repeat": Attack(on_sums=on_sums.repeated, needs_scale=True),
    "claim-member": Attack(on_claim=on_sums.with_another),
    "deny-member": Attack(on_claim=on_sums.without_another),
    "claim-samples": Attack(on_claim=on_sums.of_more_samples, needs_scale=True),
}
