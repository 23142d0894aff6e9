"""What a generator gives away of the images that it was trained on, as an attacker would see it.

Two measures, on drawn images alone. *Distance*: how much nearer a drawn image lies to the nearest
image of the training set than to the nearest of as many that were not trained on (Meehan, Chaudhuri
and Dasgupta 2020, arXiv 2004.05675, section 3). *Membership*: how well the distance to the nearest
drawn image tells who was trained on from who was not, as area under the curve; one half is chance
(Hilprecht, Haerterich and Bernau 2019, *Monte Carlo and reconstruction membership inference attacks
against generative models*).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Leakage:
    """Of one generator."""

    distance_ratio: float
    """Median over drawn images of the distance to the nearest training image over that to the
    nearest other one; 1 is nothing, 0 is a copy."""
    membership_auc: float
    """From 0.5 (nothing) to 1."""


def leakage_of(drawn: Tensor, members: Tensor, others: Tensor) -> Leakage:
    """Measure images, each ``(n, channels, height, width)`` with values from 0 to 1.

    As many of the `members`, or of the `others`, are left out as there are more of them.
    """
    count = min(len(members), len(others))
    flat, own, rest = (part.flatten(1) for part in (drawn, members[:count], others[:count]))
    to_own, to_rest = torch.cdist(flat, own), torch.cdist(flat, rest)
    ratio = to_own.amin(1) / to_rest.amin(1).clamp(min=1e-9)
    return Leakage(float(ratio.median()), _auc(-to_own.amin(0), -to_rest.amin(0)))


def _auc(positive: Tensor, negative: Tensor) -> float:
    """Return how often a positive has the larger score than a negative, ties as a half."""
    apart = positive[:, None] - negative[None]
    return float((apart > 0).float().mean() + 0.5 * (apart == 0).float().mean())
