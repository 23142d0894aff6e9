"""A Gaussian sketch of features: what a node's pictures are like, where labels cannot tell.

The whitepaper (section 2.6) compares nodes by their label or feature distributions. Of features in
a few directions that all nodes have in common a sketch keeps mean and covariance, and two sketches
are compared by the divergence of these Gaussians. A sketch travels in an advert as `CHARS` letters
for `SIZE_BYTES` bytes. The covariance is told by its Cholesky factor, whose diagonal is above 0 for
every byte, so that any text of that length is the sketch of some Gaussian, and comparing two of
them takes constant time and gives a finite number.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular

from mfd_flower.checks import Form

DIRECTIONS = 6
"""Directions that features are seen in, k."""
SIZE_BYTES = DIRECTIONS * (DIRECTIONS + 3) // 2
"""A byte for each of k means and k (k + 1) / 2 entries of the factor: 27."""
CHARS = 4 * SIZE_BYTES // 3
"""In base64: 36, without padding since `SIZE_BYTES` is a multiple of 3."""
STEP = 1 / 32
"""From one mean, or entry below the factor's diagonal, to the next; both are cut off at 4."""
STEPS_AN_OCTAVE = 16
"""The factor's diagonal is told by its binary logarithm, from 2^-8 to 2^8."""
SketchText = Annotated[
    str, Form(rf"(?:[A-Za-z0-9_-]{{{CHARS}}})?", f"a sketch of {CHARS} letters, digits, - _")
]
_BELOW = np.tril_indices(DIRECTIONS, -1)


@dataclass(frozen=True, eq=False)
class Sketch:
    """A Gaussian in `DIRECTIONS` directions."""

    mean: NDArray[np.float64]
    """``(k,)``."""
    factor: NDArray[np.float64]
    """Lower Cholesky factor of the covariance, ``(k, k)``, its diagonal above 0."""

    @classmethod
    def of(cls, features: ArrayLike) -> Self:
        """Return the sketch of samples' features, ``(n, k)``, at least one.

        They are about of variance 1, and as a label count has a pseudo-count added, the covariance
        has one pseudo-sample of variance 1 in every direction: it is definite for any n.
        """
        rows = np.asarray(features, dtype=float)
        mean = rows.mean(0)
        scatter = (rows - mean).T @ (rows - mean)
        covariance = (scatter + np.eye(rows.shape[1])) / (len(rows) + 1)
        return cls(mean, np.linalg.cholesky(covariance))

    def to_text(self) -> str:
        """Return the sketch as it travels, each number rounded to a byte."""
        diagonal = STEPS_AN_OCTAVE * np.log2(np.diag(self.factor))
        parts = [self.mean / STEP, diagonal, self.factor[_BELOW] / STEP]
        whole = np.clip(np.rint(np.concatenate(parts)), -128, 127).astype(np.int8)
        return base64.urlsafe_b64encode(whole.tobytes()).decode()

    @classmethod
    @lru_cache(maxsize=4096)
    def from_text(cls, text: str) -> Self:
        """Rebuild a sketch from a text of the form `SketchText`, not empty."""
        whole = np.frombuffer(base64.urlsafe_b64decode(text), np.int8).astype(float)
        mean, diagonal, below = np.split(whole, [DIRECTIONS, 2 * DIRECTIONS])
        factor = np.diag(np.exp2(diagonal / STEPS_AN_OCTAVE))
        factor[_BELOW] = below * STEP
        return cls(mean * STEP, factor)


def gaussian_divergence(p: Sketch, q: Sketch) -> float:
    r"""Return the Kullback-Leibler divergence D(p || q) of two Gaussians in nats.

    .. math::

        D = \tfrac12 \left( \lVert M^{-1} L \rVert_F^2 + \lVert M^{-1} (\mu_q - \mu_p) \rVert^2 - k
            \right) + \sum_i \ln \frac{M_{ii}}{L_{ii}}

    with :math:`\Sigma_p = L L^T`, :math:`\Sigma_q = M M^T`, both lower triangular.
    """
    rows = np.column_stack([p.factor, q.mean - p.mean])
    whitened = solve_triangular(q.factor, rows, lower=True)
    logs = np.log(np.diag(q.factor)) - np.log(np.diag(p.factor))
    return float((np.sum(whitened**2) - len(p.mean)) / 2 + logs.sum())
