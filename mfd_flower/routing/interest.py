"""The data-interest value: how much a node's data wants this model (whitepaper, section 2.3).

A node announces the value against an empty `seen`, since it cannot know what a packet has trained
on; a holder with the node's label counts derives it anew from the packet's own history.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.routing.candidate import Candidate

HALF_SAMPLES = 100.0
"""Samples at which the amount term is one half: a local update of a few batches."""
HALF_AGE_HOPS = 10.0
"""Hops since the last visit at which the freshness term is one half: a tour of ten nodes."""


def interest(
    label_counts: ArrayLike, seen: ArrayLike, *, samples: float, age: float | None = None
) -> float:
    r"""Return what a node's data adds to what a packet has seen, from 0 to 1 (no unit).

    .. math::

        I = \underbrace{\frac{-\sum_c p_c \ln q_c}{\ln(S + K)}}_{\text{novelty}}
            \cdot \underbrace{\frac{n}{n + n_0}}_{\text{amount}}
            \cdot \underbrace{\frac{a}{a + a_0}}_{\text{freshness}},
        \qquad q_c = \frac{s_c + 1}{S + K}

    with :math:`p` the node's label shares, :math:`s_c` the samples of class :math:`c` seen,
    :math:`S` their sum, :math:`K` the number of classes, :math:`n` the node's samples, :math:`a`
    the hops since the last visit, and the constants :math:`n_0` (`HALF_SAMPLES`) and :math:`a_0`
    (`HALF_AGE_HOPS`).

    Novelty is the cross-entropy of the node's labels under the (add-one smoothed) mix that the
    packet has seen: its mean surprise at them, as a share of the surprise at a class never seen.
    All labels unseen give 1, an empty history gives 1. Unlike a divergence between the two mixes
    it does not vanish for every node once the packet has seen an even mix, so amount and freshness
    go on telling nodes apart, and it cannot be negative. Amount saturates, for gradients of one
    visit average over its samples; freshness does, for a model forgets most in the first hops.

    `label_counts` and `seen` are ``(num_classes,)``, or else it is a `ConfigError`; an empty `seen`
    is no history, and an `age` of None that the packet was never there (freshness 1).
    """
    counts = np.asarray(label_counts, dtype=float)
    history = np.asarray(seen, dtype=float)
    if not history.size:
        history = np.zeros_like(counts)
    if history.shape != counts.shape:
        raise ConfigError("seen", history.size, f"as many classes as the node has: {counts.size}")
    total = counts.sum()
    if samples <= 0 or total <= 0:
        return 0.0
    amount = samples / (samples + HALF_SAMPLES)
    return novelty(counts / total, history) * amount * freshness(age)


def interest_of(candidate: Candidate, seen: NDArray[np.float64], hop: int) -> float:
    """Return a candidate's data-interest value at hop `hop`.

    With label counts it is derived against the packet's own `seen`. Without, it is the announced
    value, which is against an empty history, times the freshness that only the packet knows.
    """
    age = None if candidate.last_visit < 0 else max(0, hop - candidate.last_visit)
    if not candidate.label_counts:
        return candidate.interest * freshness(age)
    return interest(candidate.label_counts, seen, samples=candidate.amount, age=age)


def novelty(shares: NDArray[np.float64], seen: NDArray[np.float64]) -> float:
    """Return the surprise at labels of these shares, from 0 to 1; both ``(num_classes,)``."""
    most_nats = np.log(seen.sum() + seen.size)
    if not seen.any() or most_nats == 0:
        return 1.0
    return float(shares @ (most_nats - np.log(seen + 1)) / most_nats)


def freshness(age: float | None) -> float:
    """Return 0 right after a visit, rising to 1 with the hops since; 1 if there was none."""
    return 1.0 if age is None else age / (age + HALF_AGE_HOPS)
