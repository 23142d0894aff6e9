"""The data-interest value: how much a node's task and data want this model (whitepaper, 2.3).

A node announces the value against an empty `seen`, since it cannot know what a packet has trained
on; a holder with the node's label counts derives it anew from the packet's own history.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.routing.candidate import Candidate

HALF_SAMPLES = 100.0
"""Samples at which the amount term is one half: a local update of a few batches."""
HALF_AGE_HOPS = 10.0
"""Hops since the last visit at which the freshness term is one half: a tour of ten nodes."""


def interest(
    label_counts: ArrayLike,
    seen: ArrayLike,
    *,
    samples: float,
    age: float | None = None,
    loss: float | None = None,
) -> float:
    r"""Return what a node's data adds to what a packet has seen, from 0 to 1 (no unit).

    .. math::

        I = \underbrace{\frac{-\sum_c p_c \ln q_c}{\ln(S + K)}}_{\text{novelty}}
            \cdot \underbrace{\frac{n}{n + n_0}}_{\text{amount}}
            \cdot \underbrace{\frac{a}{a + a_0}}_{\text{freshness}}
            \cdot \underbrace{1 - e^{-\ell}}_{\text{unlearnt}},
        \qquad q_c = \frac{s_c + 1}{S + K}

    with :math:`p` the node's label shares, :math:`s_c` the samples of class :math:`c` seen,
    :math:`S` their sum, :math:`K` the number of classes, :math:`n` the node's samples, :math:`a`
    the hops since the last visit, :math:`\ell` the loss, and the constants :math:`n_0`
    (`HALF_SAMPLES`) and :math:`a_0` (`HALF_AGE_HOPS`).

    Novelty is the cross-entropy of the node's labels under the (add-one smoothed) mix that the
    packet has seen: its mean surprise at them, as a share of the surprise at a class never seen.
    All labels unseen give 1, an empty history gives 1. Unlike a divergence between the two mixes
    it does not vanish for every node once the packet has seen an even mix, so amount and freshness
    go on telling nodes apart, and it cannot be negative. Amount saturates, for gradients of one
    visit average over its samples; freshness does, for a model forgets most in the first hops.
    What is unlearnt is one less the geometric mean of the probabilities that a model gave the
    node's own labels, whose mean cross-entropy is the loss.

    `label_counts` and `seen` are ``(num_classes,)``, or else it is a `ConfigError`; an empty `seen`
    is no history, an `age` of None that the packet was never there (freshness 1), and a `loss` of
    None that nobody knows how a model does there (unlearnt 1).
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
    return novelty(counts / total, history) * amount * freshness(age) * unlearnt(loss)


def interest_of(
    candidate: Candidate,
    seen: NDArray[np.float64],
    hop: int,
    task: str = "",
    use_loss: bool = False,
) -> float:
    """Return a candidate's data-interest value at hop `hop`, for a packet of a task.

    With label counts it is derived against the packet's own `seen`. Without, it is the announced
    value, which is against an empty history, times the freshness that only the packet knows. It is
    0 for a node that says that its data are for another task.
    """
    if task and candidate.task not in ("", task):
        return 0.0
    loss = candidate.loss if use_loss else None
    age = None if candidate.last_visit < 0 else max(0, hop - candidate.last_visit)
    if not candidate.label_counts:
        return candidate.interest * freshness(age) * unlearnt(loss)
    return interest(candidate.label_counts, seen, samples=candidate.amount, age=age, loss=loss)


def novelty(shares: NDArray[np.float64], seen: NDArray[np.float64]) -> float:
    """Return the surprise at labels of these shares, from 0 to 1; both ``(num_classes,)``."""
    most_nats = np.log(seen.sum() + seen.size)
    if not seen.any() or most_nats == 0:
        return 1.0
    return float(shares @ (most_nats - np.log(seen + 1)) / most_nats)


def freshness(age: float | None) -> float:
    """Return 0 right after a visit, rising to 1 with the hops since; 1 if there was none."""
    return 1.0 if age is None else age / (age + HALF_AGE_HOPS)


def unlearnt(loss: float | None) -> float:
    """Return 0 for a model that is sure and right, rising to 1 with its loss; 1 if unknown."""
    return 1.0 if loss is None else -math.expm1(-loss)
