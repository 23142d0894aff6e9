"""How much Gaussian noise hides one sample in sums: the analytic Gaussian mechanism.

Balle and Wang 2018, *Improving the Gaussian Mechanism for Differential Privacy* (arXiv 1805.06530,
theorem 8): exact for any epsilon, where the classical bound holds below 1 and is larger.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr

from mfd_flower.models.sums import Sums


def delta_of(sigma: float, epsilon: float, sensitivity: float) -> float:
    """Return the least delta with which noise of this standard deviation is (epsilon, delta)-DP."""
    half, shift = sensitivity / (2 * sigma), epsilon * sigma / sensitivity
    return float(np.exp(log_ndtr(half - shift)) - np.exp(epsilon + log_ndtr(-half - shift)))


def gaussian_sigma(epsilon: float, delta: float, sensitivity: float) -> float:
    """Return the standard deviation of the noise that is (epsilon, delta)-DP for one release.

    `sensitivity` is the Euclidean norm by which one sample more or less can move what is released.
    """
    low, high = 1e-6, 1.0
    while delta_of(high, epsilon, 1.0) > delta:
        high *= 2
    found = brentq(lambda s: delta_of(s, epsilon, 1.0) - delta, low, high, xtol=1e-12, rtol=1e-9)
    # The root may lie on the wrong side by its tolerance.
    return sensitivity * float(found) * (1 + 1e-6)


def epsilon_of(sigma: float, delta: float, sensitivity: float) -> float:
    """Return the least epsilon with which noise of this standard deviation is (epsilon, delta)-DP.

    Of a release whose noise was chosen before. What is released k times, each with noise of its own
    and whatever came before known, is as private as once with ``sqrt(k)`` times the sensitivity
    (Dong, Roth and Su 2019, *Gaussian differential privacy*, arXiv 1905.02383, corollary 3.3).
    """
    if delta_of(sigma, 0.0, sensitivity) <= delta:
        return 0.0
    high = 1.0
    while delta_of(sigma, high, sensitivity) > delta:
        high *= 2
    return float(brentq(lambda e: delta_of(sigma, e, sensitivity) - delta, 0.0, high))


def sums_sensitivity(longest: float, largest: int) -> float:
    """Return by how much one sample moves sums: G's upper triangle and Q with its counts.

    `longest` bounds the norm of its features x, `largest` each of them: the triangle of x x^T has
    the squares ``(|x|^4 + sum x_i^4) / 2``, and its column of Q has ``|x|^2 + 1``.
    """
    square = longest**2
    return float(np.sqrt((square**2 + square * largest**2) / 2 + square + 1))


def noised(own: Sums, sigma: float, rng: np.random.Generator) -> Sums:
    """Return sums with Gaussian noise on every number, rounded; a class of no samples has none.

    What is done to noised numbers takes nothing of their privacy.
    """
    features, classes = len(own.gram) - 1, own.cross.shape[1]
    cells = own.cells + np.rint(rng.normal(scale=sigma, size=len(own.cells))).astype(np.int64)
    cross = cells[: (features + 1) * classes].reshape(classes, features + 1)
    cross[cross[:, -1] <= 0] = 0
    return Sums.from_cells(cells, features, classes)
