"""Linear heads in closed form, from sums that any number of nodes add up in any order.

Of frozen features x with labels y a head needs ``G = sum x x^T`` and ``Q = sum x y^T`` alone:
recursive least squares, as one star in Fed3R (Fani et al. 2024, arXiv 2406.01116, section 3) and
AFL (He et al. 2024, arXiv 2405.16240). Features are whole numbers here, so that the sums are too:
they are the same to the last bit whoever came first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

EXACT = 2**53
"""From here on a float64 skips whole numbers, and a sum of them depends on its order."""
PENALTIES = 10.0 ** np.arange(-8, 3.25, 0.25)
"""Ridge penalties that are tried, as shares of the features' mean variance."""


class SumsError(ValueError):
    """Sums that are not those of features."""


@dataclass(frozen=True)
class Sums:
    """What is known of samples: whole numbers, of which those of disjoint samples add up."""

    gram: NDArray[np.int64]
    """``(d + 1, d + 1)``, sum of x x^T over samples; the last feature is 1."""
    cross: NDArray[np.int64]
    """``(d + 1, classes)``, sum of x over the samples of each class; its last row counts them."""

    @classmethod
    def of(cls, features: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> Self:
        """Sum over samples; ``(n, d)`` whole numbers and ``(n,)`` classes.

        Raises
        ------
        SumsError
            If a sum could be 2^53 or more.
        """
        largest = int(np.abs(features).max(initial=1))
        if len(features) * largest**2 >= EXACT:
            said = f"{len(features)} samples of features up to {largest}: a sum may pass 2^53"
            raise SumsError(said)
        # Products and sums of whole numbers below 2^53 are exact in float64, and BLAS is fast.
        rows = np.ones((len(features), features.shape[1] + 1))
        rows[:, :-1] = features
        hot = np.zeros((len(features), classes))
        hot[np.arange(len(features)), labels] = 1
        return cls((rows.T @ rows).astype(np.int64), (rows.T @ hot).astype(np.int64))

    @classmethod
    def nothing(cls, features: int, classes: int) -> Self:
        """Return the sums over no samples."""
        return cls(
            np.zeros((features + 1, features + 1), np.int64),
            np.zeros((features + 1, classes), np.int64),
        )

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over both; they must have no sample in common."""
        self._same_shape(other)
        total = Sums(self.gram + other.gram, self.cross + other.cross)
        if max(np.abs(total.gram).max(), np.abs(total.cross).max()) >= EXACT:
            raise SumsError(f"{total.samples} samples: a sum passes 2^53")
        return total

    def __sub__(self, part: Sums) -> Sums:
        """Return the sums as if the samples of `part`, which are in them, had never been added."""
        self._same_shape(part)
        return Sums(self.gram - part.gram, self.cross - part.cross)

    @property
    def samples(self) -> int:
        """How many there are."""
        return int(self.gram[-1, -1])

    @property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each class, ``(classes,)``."""
        return self.cross[-1]

    def digest(self) -> str:
        """Return 64 hexadecimal digits that stand for the sums, on every machine the same."""
        found = hashlib.sha256(np.array([*self.gram.shape, *self.cross.shape], "<i8").tobytes())
        for part in (self.gram, self.cross):
            found.update(np.ascontiguousarray(part, "<i8").tobytes())
        return found.hexdigest()

    def _same_shape(self, other: Sums) -> None:
        ours, theirs = (self.gram.shape, self.cross.shape), (other.gram.shape, other.cross.shape)
        if ours != theirs:
            raise SumsError(f"sums of {theirs[0][0] - 1} features and {theirs[1][1]} classes: "
                            f"these have {ours[0][0] - 1} and {ours[1][1]}")  # fmt: skip


@dataclass(frozen=True)
class Head:
    """A linear classifier: logits are ``features @ weight.T + bias``."""

    weight: NDArray[np.float64]
    """``(classes, d)``."""
    bias: NDArray[np.float64]
    """``(classes,)``."""

    def logits(self, features: NDArray[np.floating | np.integer]) -> NDArray[np.float64]:
        """Return ``(n, classes)`` for ``(n, d)``."""
        return features @ self.weight.T + self.bias


def ridge(sums: Sums, penalties: Sequence[float] | NDArray[np.float64] = PENALTIES) -> Head:
    """Regress one-hot labels on the features, the intercept without a penalty.

    Of the `penalties`, shares of the mean variance, it takes the one with the least generalised
    cross-validation error (Golub, Heath and Wahba 1979), which G, Q and the counts decide alone:
    whoever has the same sums takes the same.
    """
    mean, spread, covariance, labels = _centred(sums)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ labels
    samples, energy = sums.samples, (turned**2).sum(1)
    total = sums.samples - (sums.counts.astype(float) ** 2).sum() / max(sums.samples, 1)
    best, least = float(penalties[-1]), np.inf
    for share in penalties:
        kept = 1 / (values + share * spread)
        residual = total - (energy * kept * (2 - values * kept)).sum()
        freedom = samples - 1 - (values * kept).sum()
        error = samples * residual / freedom**2 if freedom > 0 else np.inf
        if error < least:
            best, least = float(share), error
    weight = (vectors @ (turned / (values + best * spread)[:, None])).T
    bias = sums.counts / max(sums.samples, 1) - weight @ mean
    return Head(weight, bias)


def discriminant(sums: Sums) -> Head:
    """Tell classes apart by a Gaussian of each with one covariance, as if all were as frequent.

    For accuracy that counts classes and not samples: class weights in `ridge` would need a Gram
    matrix of each class. The pooled covariance is drawn towards a multiple of the identity as far
    as the oracle approximating shrinkage says (Chen, Wiesel, Eldar and Hero 2010, equation 23).
    A class without samples is never chosen.
    """
    counts = sums.counts.astype(float)
    present = counts > 0
    means = sums.cross[:-1].T / np.maximum(counts, 1)[:, None]
    within = sums.gram[:-1, :-1].astype(float) - (means.T * counts) @ means
    freedom = max(sums.samples - int(present.sum()), 1)
    covariance = within / freedom
    size = len(covariance)
    trace, squares = np.trace(covariance), (covariance**2).sum()
    gap = (freedom + 1 - 2 / size) * (squares - trace**2 / size)
    share = min(1.0, ((1 - 2 / size) * squares + trace**2) / gap) if gap > 0 else 1.0
    shrunk = (1 - share) * covariance
    shrunk[np.diag_indices(size)] += share * trace / size or 1.0
    weight = np.linalg.solve(shrunk, means.T).T
    bias = np.where(present, -0.5 * (weight * means).sum(1), -np.inf)
    return Head(weight, np.where(present, bias, bias[present].min(initial=0.0) - 1e6))


def class_means(sums: Sums) -> Head:
    """Choose the class whose mean is nearest (FedNCM, Legate et al. 2023, arXiv 2306.05387)."""
    counts = sums.counts.astype(float)
    means = sums.cross[:-1].T / np.maximum(counts, 1)[:, None]
    bias = -0.5 * (means**2).sum(1)
    return Head(means, np.where(counts > 0, bias, bias.min() - 1e6))


def _centred(sums: Sums) -> tuple[NDArray[np.float64], ...]:
    """Return the features' mean, mean variance, scatter around the mean, and labels against it."""
    samples = max(sums.samples, 1)
    first = sums.gram[-1, :-1].astype(float)
    scatter = sums.gram[:-1, :-1] - np.outer(first, first) / samples
    labels = sums.cross[:-1] - np.outer(first, sums.counts) / samples
    spread = np.array(np.trace(scatter) / len(scatter) or 1.0)
    return first / samples, spread, scatter, labels
