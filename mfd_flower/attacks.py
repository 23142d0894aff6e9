"""What a malicious node does to its local update, and which nodes are malicious.

Attacks on data: flipped labels (Fang et al. 2020, "Local Model Poisoning Attacks to
Byzantine-Robust Federated Learning", arXiv 1911.11815) and a stamped trigger (Gu et al. 2017,
"BadNets", 1708.06733). Attacks on the update: reversed, boosted (Bagdasaryan et al. 2020, "How To
Backdoor Federated Learning", 1807.00459), noisy, an old version instead of a new one (a free rider,
Fraboni et al. 2021, 2006.11901), bits changed on the way. None of them knows the defence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mfd_flower.checks import ConfigError

KINDS = ("label-flip", "sign-flip", "scale", "noise", "backdoor", "replay", "tamper")
STAMPED_SHARE = 0.5
"""Share of a malicious node's images that carry the trigger; the rest keep the model useful."""
PATCH_SHARE = 7
"""The trigger's side is the image's, divided by this: 4 of 28 pixels."""


@dataclass(frozen=True)
class Attack:
    """One kind of attack and how strong it is.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    share : float
        Share of the nodes that are malicious, from 0 to 1.
    scale : float
        Factor on the update, above 0: of its reversal (``sign-flip``), of the update itself
        (``scale``, ``label-flip``, ``backdoor``), of the noise's norm to the update's (``noise``).
    target : int
        Class that the trigger stands for (``backdoor``).

    Raises
    ------
    ConfigError
        If a value is outside of these.
    """

    kind: str
    share: float = 0.2
    scale: float = 1.0
    target: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError("attack.kind", self.kind, f"accepted: {', '.join(KINDS)}")
        _check_number("attack.share", self.share)
        _check_number("attack.scale", self.scale)
        if not 0 <= self.share <= 1:
            raise ConfigError("attack.share", self.share, "must be from 0 to 1")
        if not 0 < self.scale < math.inf:
            raise ConfigError("attack.scale", self.scale, "must be above 0 and finite")
        if self.kind == "scale" and self.scale == 1:
            raise ConfigError("attack.scale", self.scale, "kind scale needs a factor other than 1")
        if type(self.target) is not int or self.target < 0:
            raise ConfigError("attack.target", self.target, "a class: a whole number from 0")


def malicious(nodes: int, share: float, seed: int) -> frozenset[int]:
    """Draw the malicious ones among `nodes` nodes, the same for one seed.

    Never more than `share` of them, except that any share above 0 makes one.
    """
    # The slack keeps 0.29 x 100 at 29 although the product of the floats is below it.
    count = math.floor(nodes * share + 1e-9)
    if share > 0:
        count = max(1, count)
    drawn = np.random.default_rng([seed, nodes]).permutation(nodes)[:count]
    return frozenset(int(index) for index in drawn)


def poisoned_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Return label y as K - 1 - y (Fang et al. 2020); the middle of an odd K stays."""
    return num_classes - 1 - labels


def stamped(images: Tensor, white: Tensor | float = 1.0) -> Tensor:
    """Return images with the trigger, a white square in the bottom right corner.

    Parameters
    ----------
    images : Tensor
        ``(n, c, h, w)``; not changed.
    white : Tensor or float
        A white pixel as these images are normalised, broadcast to ``(n, c, side, side)``.
    """
    side_px = max(1, min(images.shape[-2:]) // PATCH_SHARE)
    result = images.clone()
    result[..., -side_px:, -side_px:] = white
    return result


def with_backdoor(
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    rng: np.random.Generator,
    white: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Stamp `STAMPED_SHARE` of the images and label those as the target.

    Parameters
    ----------
    images : Tensor
        ``(n, c, h, w)``.
    labels : Tensor
        int64 ``(n,)``.
    attack : Attack
        Names the target.
    rng : Generator
        Picks the images.
    white
        See `stamped`.

    Returns
    -------
    tuple of Tensor
        Images and labels in the same order.
    """
    count = round(len(labels) * STAMPED_SHARE)
    chosen = torch.from_numpy(rng.permutation(len(labels))[:count])
    images, labels = images.clone(), labels.clone()
    images[chosen] = stamped(images[chosen], white)
    labels[chosen] = attack.target
    return images, labels


def trigger_test(
    images: Tensor, labels: Tensor, attack: Attack, white: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return images and labels on which a model's accuracy is the backdoor's success rate.

    They are the images not of the target class, stamped, each labelled as the target.
    """
    others = labels != attack.target
    return stamped(images[others], white), torch.full_like(labels[others], attack.target)


def poisoned_update(
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    attack: Attack,
    rng: np.random.Generator,
    old: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the tunables that a malicious node sends on.

    Parameters
    ----------
    start : mapping of str to Tensor
        Arriving tunables.
    end : mapping of str to Tensor
        What local training made of them; for ``label-flip`` and ``backdoor`` the training was on
        poisoned samples, and here its update is boosted by the scale.
    attack : Attack
        What to do; ``tamper`` happens on the way and changes nothing here.
    rng : Generator
        Draws the noise.
    old : mapping, optional
        What ``replay`` sends: a version that the node holds from before; `start` if it has none.

    Returns
    -------
    dict of str to Tensor
        Same names, shapes and dtypes as `end`.
    """
    if attack.kind == "replay":
        return dict(start if old is None else old)
    if attack.kind == "noise":
        return _noisy(start, end, attack.scale, rng)
    if attack.kind == "tamper" or (attack.scale == 1 and attack.kind != "sign-flip"):
        return dict(end)
    factor = -attack.scale if attack.kind == "sign-flip" else attack.scale
    return {name: start[name] + factor * (end[name] - start[name]) for name in end}


def tampered(tensors: Mapping[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """Return a copy in which one bit of one tensor is another, as after a change on the way.

    Raises
    ------
    ValueError
        If there is no bit to change.
    """
    names = sorted(name for name, tensor in tensors.items() if tensor.nbytes)
    if not names:
        raise ValueError("tensors: all empty, no bit to change")
    name = names[int(rng.integers(len(names)))]
    changed = tensors[name].detach().cpu().contiguous().clone()
    flat = changed.reshape(-1).view(torch.uint8)
    place = int(rng.integers(len(flat)))
    flat[place] ^= 1 << int(rng.integers(8))
    return {**tensors, name: changed}


def _noisy(
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    factor: float,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """Add Gaussian noise whose norm over all tensors is `factor` times the update's."""
    draws = {
        name: torch.from_numpy(np.asarray(rng.standard_normal(tuple(end[name].shape))))
        for name in end
    }
    update_norm = _norm({name: end[name].double() - start[name].double() for name in end})
    ratio = factor * update_norm / (_norm(draws) or 1.0)
    return {name: end[name] + (ratio * draws[name]).to(end[name].dtype) for name in end}


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors.values()))


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(name, value, "must be a number")
