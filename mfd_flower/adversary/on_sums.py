"""What a malicious node gives as its sums, and what it says of them.

Each function returns what could be sent: numbers of the right shape and size that no reader would
stumble over. Whether they could be sums of samples is for a receiver to find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mfd_flower.models.sums import Sums

Change = Callable[[Sums, float, np.random.Generator], Sums]
"""What a node gives, of its own sums, `threat.scale` and its generator."""


@dataclass(frozen=True)
class Claim:
    """What a node says beside the sums that it sends on."""

    included: frozenset[str]
    """Whose samples they are over, its own address among them."""
    samples: int
    """How many it added."""
    own: str
    nodes: Set[str]
    """Addresses of all."""


def repeated(own: Sums, factor: float, rng: np.random.Generator) -> Sums:
    """Count every sample `factor` times, as if the node had so many like it."""
    if factor == 1:
        return own
    counts = np.rint(own.counts * factor)
    return _sums(_inner(own) * factor, own.cross[:-1] * factor, counts)


def mirrored(own: Sums, factor: float, rng: np.random.Generator) -> Sums:
    """Turn the sign of the class sums, and multiply them: each class lies opposite its place."""
    return _sums(_inner(own), -factor * own.cross[:-1], own.counts)


def stretched(own: Sums, factor: float, rng: np.random.Generator) -> Sums:
    """Multiply all sums, of as many samples as before."""
    return _sums(_inner(own) * factor, own.cross[:-1] * factor, own.counts)


def noisy(own: Sums, factor: float, rng: np.random.Generator) -> Sums:
    """Add Gaussian noise whose norm is `factor` times that of the sums."""
    inner, firsts = _inner(own), own.cross[:-1]
    draws = [rng.standard_normal(part.shape) for part in (inner, firsts)]
    norms = [math.hypot(*(np.linalg.norm(p) for p in parts)) for parts in ((inner, firsts), draws)]
    ratio = factor * norms[0] / norms[1]
    return _sums(inner + ratio * draws[0], firsts + ratio * draws[1], own.counts)


def nothing(own: Sums, factor: float, rng: np.random.Generator) -> Sums:
    """Add nothing, like a free rider that sends what came."""
    return Sums.nothing(len(own.gram) - 1, own.cross.shape[1])


def with_another(claim: Claim, factor: float) -> Claim:
    """Say that another node is included, which then is never asked."""
    others = sorted(claim.nodes - claim.included)
    return replace(claim, included=claim.included | set(others[:1]))


def without_another(claim: Claim, factor: float) -> Claim:
    """Say that a node is not included whose samples are, so that it adds them again."""
    others = sorted(claim.included - {claim.own})
    return replace(claim, included=claim.included - set(others[:1]))


def of_more_samples(claim: Claim, factor: float) -> Claim:
    """Say that it added `factor` times as many samples."""
    return replace(claim, samples=round(claim.samples * factor))


def _inner(own: Sums) -> NDArray[np.int64]:
    return own.gram[:-1, :-1]


def _sums(
    inner: NDArray[np.floating | np.integer],
    firsts: NDArray[np.floating | np.integer],
    counts: NDArray[np.floating | np.integer],
) -> Sums:
    """Return rounded sums; of a class that has no samples it has none."""
    features = len(inner)
    cross = np.concatenate([firsts, counts[None]]) * (counts > 0)
    cells = np.concatenate([cross.T.ravel(), inner[np.triu_indices(features)]])
    return Sums.from_cells(np.rint(cells).astype(np.int64), features, len(counts))
