"""Linear heads in closed form, from sums that any number of nodes add up in any order.

Of frozen features x with labels y a head needs ``G = sum x x^T`` and ``Q = sum x y^T`` alone:
recursive least squares, as one star in Fed3R (Fani et al. 2024, arXiv 2406.01116, section 3) and
AFL (He et al. 2024, arXiv 2405.16240). Features are whole numbers here, so that the sums are too:
they are the same to the last bit whoever came first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mfd_flower.models.sums import Sums

HeadKind = Literal["ridge", "discriminant"]
PENALTIES = 10.0 ** np.arange(-8, 3.25, 0.25)
"""Ridge penalties that are tried, as shares of the features' mean variance."""
MOST_FREEDOM = 0.5
"""Degrees of freedom that a penalty may leave, as a share of the samples. With no fewer features
than samples a fit without a penalty goes through all of them. Samples that are there twice then
predict each other without an error, and cross-validation takes that for the best there is."""
SHARPNESS = 10.0
"""The factor with which the log loss of regressed logits on held-out images was least lay between 8
and 15: fm-tiny on MNIST, Fashion-MNIST and digits, 200 to 4,000 samples."""
ABSENT = 10.0
"""Nats by which a class without samples lies below the least of the others."""


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


def ridge(
    sums: Sums,
    penalties: Sequence[float] | NDArray[np.float64] = PENALTIES,
    noise_sigma: float = 0.0,
) -> Head:
    """Regress one-hot labels on the features, the intercept without a penalty.

    Of the `penalties`, shares of the mean variance, it takes the one with the least generalised
    cross-validation error (Golub, Heath and Wahba 1979) among those that leave no more than
    `MOST_FREEDOM`. G, Q and the counts decide that alone: whoever has the same sums takes the same.
    Numbers with noise of a known standard deviation cross-validate nothing: then the penalty is the
    largest eigenvalue that such noise alone has, as AdaSSP takes it (Wang 2018, arXiv 1803.02596,
    algorithm 2).
    """
    return _regressed(sums, penalties, noise_sigma)[0]


def discriminant(sums: Sums, penalty: float | None = None) -> Head:
    """Tell classes apart by a Gaussian of each with one covariance, as if all were as frequent.

    For accuracy that counts classes and not samples: class weights in `ridge` would need a Gram
    matrix of each class. The scatter within the classes is penalised as in Hastie, Buja and
    Tibshirani 1995 (*Penalized Discriminant Analysis*, section 3): theirs is `ridge` with other
    scores of the labels, so that None takes its penalty. A class without samples is never chosen.
    """
    counts = sums.counts.astype(float)
    means = sums.cross[:-1].T / np.maximum(counts, 1)[:, None]
    within = sums.gram[:-1, :-1].astype(float) - (means.T * counts) @ means
    added = _regressed(sums, PENALTIES, 0.0)[1] if penalty is None else penalty
    within[np.diag_indices(len(within))] += added
    weight = np.linalg.solve(within / max(sums.samples, 1), means.T).T
    return _of_present(weight, -0.5 * (weight * means).sum(1), counts > 0)


def class_means(cross: NDArray[np.int64]) -> Head:
    """Choose the class whose mean has the largest cosine with a sample.

    FedNCM (Legate et al. 2023, arXiv 2306.05387, section 4); `cross` is ``(d + 1, classes)``.
    """
    counts = cross[-1].astype(float)
    means = cross[:-1].T / np.maximum(counts, 1)[:, None]
    return _of_present(_of_length_1(means), np.zeros(len(means)), counts > 0)


def fedcof(parts: Sequence[NDArray[np.int64]], shrinkage: float = 1.0) -> Head:
    """Solve for a head by covariances that follow from how the nodes' class means are spread.

    FedCOF (Goswami et al. 2025, arXiv 2412.14326): means of n samples scatter around their class's
    mean with its covariance over n. What lies between the classes is left out of the Gram matrix,
    but for the common mean, as there. `parts` are the `cross` of each node, ``(d + 1, classes)``;
    `shrinkage` is added to every variance, in squared features.
    """
    every = np.stack(parts).astype(float)
    counts = every[:, -1]
    totals, whole = counts.sum(0), every[:, :-1].sum(0)
    size = every.shape[1] - 1
    means = whole / np.maximum(totals, 1)
    gram = np.zeros((size, size))
    for label in np.flatnonzero(totals):
        have = counts[:, label] > 0
        weights = np.sqrt(counts[have, label])[:, None]
        off = (every[have, :-1, label] / counts[have, label, None] - means[:, label]) * weights
        covariance = off.T @ off / max(int(have.sum()) - 1, 1)
        covariance[np.diag_indices(size)] += shrinkage
        gram += (totals[label] - 1) * covariance
    centre = whole.sum(1) / max(totals.sum(), 1)
    gram += totals.sum() * np.outer(centre, centre)
    weight = np.linalg.lstsq(gram, whole, rcond=None)[0].T
    return _of_present(_of_length_1(weight), np.zeros(len(weight)), totals > 0)


def solve(kind: HeadKind, sums: Sums, noise_sigma: float = 0.0) -> Head:
    """Return the head of a kind, its logits sharp enough for their softmax to be likely.

    A `ridge` head's logits lie about 0 and 1: they are multiplied by `SHARPNESS`. Those of a
    `discriminant`, which takes its Gaussians for the truth, are brought to the same mean distance
    between a class and the others. No decision changes. `noise_sigma` is that of each number.
    """
    regressed, penalty = _regressed(sums, PENALTIES, noise_sigma)
    if kind == "ridge":
        return _times(regressed, SHARPNESS)
    head = discriminant(sums, penalty)
    wanted, found = _distance(regressed, sums), _distance(head, sums)
    return _times(head, SHARPNESS * wanted / found if wanted > 0 and found > 0 else 1.0)


def squared_error(sums: Sums, everybody: Sums) -> float:
    """Return the mean squared error over `everybody` of labels regressed on `sums`.

    Over one-hot labels: per sample ``sum over classes (logit - label)^2``, which follows from sums.
    """
    head = ridge(sums)
    weight = np.concatenate([head.weight, head.bias[:, None]], axis=1)
    explained = np.einsum("ci,ij,cj->", weight, everybody.gram.astype(float), weight)
    matched = (weight * everybody.cross.T).sum()
    return float((explained - 2 * matched) / max(everybody.samples, 1) + 1)


def _regressed(
    sums: Sums, penalties: Sequence[float] | NDArray[np.float64], noise_sigma: float
) -> tuple[Head, float]:
    """Return the head of `ridge`, and what it adds to each feature's scatter."""
    mean, spread, scatter, labels = _centred(sums)
    if noise_sigma:
        penalties = [2 * noise_sigma * len(scatter) ** 0.5 / float(spread)]
    values, vectors = np.linalg.eigh(scatter)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ labels
    samples, energy = sums.samples, (turned**2).sum(1)
    total = sums.samples - (sums.counts.astype(float) ** 2).sum() / max(sums.samples, 1)
    best, least = float(penalties[-1]), np.inf
    for share in penalties:
        kept = 1 / (values + share * spread)
        freedom = (values * kept).sum()
        if freedom > MOST_FREEDOM * samples:
            continue
        residual = total - (energy * kept * (2 - values * kept)).sum()
        left = samples - 1 - freedom
        error = samples * residual / left**2 if left > 0 else np.inf
        if error < least:
            best, least = float(share), error
    weight = (vectors @ (turned / (values + best * spread)[:, None])).T
    return Head(weight, sums.counts / max(sums.samples, 1) - weight @ mean), best * float(spread)


def _times(head: Head, factor: float) -> Head:
    return Head(head.weight * factor, head.bias * factor)


def _distance(head: Head, sums: Sums) -> float:
    """Return by how much a class's own logit lies above the others', at the classes' means."""
    present = np.flatnonzero(sums.counts)
    logits = head.logits(sums.cross[:-1, present].T / sums.counts[present, None])[:, present]
    others = max(len(present) - 1, 1)
    own = np.trace(logits) / len(present) if len(present) else 0.0
    return float(own - (logits.sum() / len(present) - own) / others) if len(present) else 0.0


def _of_present(
    weight: NDArray[np.float64], bias: NDArray[np.float64], present: NDArray[np.bool_]
) -> Head:
    """Return a head that never chooses a class without samples, and is finite for it.

    Such a class has the mean logit of the others, and less than the least bias.
    """
    if present.all() or not present.any():
        return Head(weight, bias)
    weight, bias = weight.copy(), bias.copy()
    weight[~present], bias[~present] = weight[present].mean(0), bias[present].min() - ABSENT
    return Head(weight, bias)


def _of_length_1(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def _centred(sums: Sums) -> tuple[NDArray[np.float64], ...]:
    """Return the features' mean, mean variance, scatter around the mean, and labels against it."""
    samples = max(sums.samples, 1)
    first = sums.gram[-1, :-1].astype(float)
    scatter = sums.gram[:-1, :-1] - np.outer(first, first) / samples
    labels = sums.cross[:-1] - np.outer(first, sums.counts) / samples
    spread = np.array(np.trace(scatter) / len(scatter) or 1.0)
    return first / samples, spread, scatter, labels
