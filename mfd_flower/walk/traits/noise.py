"""Noise on what a node adds, once a tour: (epsilon, delta)-differential privacy of each sample.

Whoever gets the packet, and whatever is made of it later, learns no more of a single sample. The
noise is in the sums for good: of n nodes the head has n times its variance.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mfd_flower.checks import bounded
from mfd_flower.models.privacy import gaussian_sigma, noised, sums_sensitivity
from mfd_flower.models.rounded import Rounding
from mfd_flower.models.sums import Sums
from mfd_flower.walk.trait import Trait
from mfd_flower.walk.visit import Visit

PURPOSE = 5
"""Of the generator that repeatable noise is drawn from."""


@dataclass(frozen=True)
class Noise(Trait):
    """Let each node add Gaussian noise to its own sums."""

    epsilon: float = bounded(8.0, 0.0, open_low=True)
    """Privacy budget of one sample."""
    delta: float = bounded(1e-5, 0.0, 0.5, open_low=True)
    """Chance that it does not hold; well below one over the samples of a node."""
    repeatable: bool = False
    """Draw from the run's seed, which others know: for experiments alone. Else from the operating
    system."""

    needs: ClassVar = ("summing",)
    excludes: ClassVar = ("admission", "contributions")

    def on(self, visit: Visit, own: Sums, rounding: Rounding) -> Sums:
        """Return a node's sums as it gives them away."""
        sigma = self.sigma(rounding, len(own.gram) - 1)
        if self.repeatable:
            rng = visit.node.rng(0, PURPOSE)
        else:
            rng = np.random.default_rng(secrets.randbits(256))
        return noised(own, sigma, rng)

    def sigma(self, rounding: Rounding, features: int) -> float:
        """Return the standard deviation of what one node adds to each number."""
        sensitivity = sums_sensitivity(rounding.longest(features), rounding.largest)
        return gaussian_sigma(self.epsilon, self.delta, sensitivity)
