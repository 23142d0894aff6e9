"""What a policy weighs: the cost of a visit to one candidate, in several units."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.routing.candidate import Candidate
from mfd_flower.routing.interest import freshness, interest

VISIT_FLOPS = 1e10
"""FLOPs of a visit when nobody says: 2 s on the default device of `NetworkConfig`."""
VISIT_BITS = 1e7
"""Bits of a packet when nobody says: 0.2 s on its default ``d2d`` link."""


def variance_after(candidate: Candidate, seen: NDArray[np.float64], batch: float) -> float:
    """Return the variance of the label counts after a visit; `batch` 0 is the whole shard.

    A candidate that keeps its labels to itself is taken to add none, an empty `seen` for no labels.
    """
    counts = np.asarray(candidate.label_counts or np.zeros_like(seen), dtype=float)
    if not counts.size:
        return 0.0
    total = counts.sum()
    expected = counts * (batch / total) if batch and total else counts
    return float(np.var(seen + expected if seen.size else expected))


def interest_of(candidate: Candidate, seen: NDArray[np.float64], hop: int) -> float:
    """Return a candidate's data-interest value at hop `hop`.

    With label counts it is derived against the packet's own `seen`. Without, it is the announced
    value, which is against an empty history, times the freshness that only the packet knows.
    """
    age = None if candidate.last_visit < 0 else max(0, hop - candidate.last_visit)
    if not candidate.label_counts:
        return candidate.interest * freshness(age)
    return interest(candidate.label_counts, seen, samples=candidate.amount, age=age)


def visit_seconds(candidate: Candidate, flops: float, bits: float) -> float:
    """Return the seconds to send `bits` there and compute `flops`; infinite at a rate of 0."""
    work = ((flops, candidate.flops_per_s), (bits, candidate.link_bps))
    return sum(amount / rate if rate > 0 else math.inf for amount, rate in work)


def to_unit(costs: ArrayLike) -> NDArray[np.float64]:
    """Bring costs onto [0, 1]; infinite ones count twice the largest finite one."""
    values = np.asarray(costs, dtype=float)
    finite = values[np.isfinite(values)]
    values = np.nan_to_num(values, posinf=2 * finite.max() if finite.size else 0.0)
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread else np.zeros_like(values)
