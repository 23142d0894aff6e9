"""A node as its would-be visitor knows it, and how unlike two nodes' labels are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

KL_SMOOTHING = 1.0
"""Pseudo-count added to each class before counts become shares."""


@dataclass(frozen=True)
class Candidate:
    """A node as a routing table knows it."""

    address: str
    """Such as ``n3``."""
    label_counts: tuple[float, ...] = ()
    """Samples of each class; empty if it keeps them to itself."""
    samples: int = 0
    """Samples in all."""
    flops_per_s: float = 1.0
    link_bps: float = 1.0
    """Rate of the link from the holder to it."""
    degree: int = 1
    """Neighbours it has."""
    interest: float = 0.0
    """Its announced data-interest value."""
    last_visit: int = -1
    """Hop at which the packet was there last, -1 if never."""
    task: str = ""
    """What its data are for; empty if it does not say."""
    loss: float | None = None
    """Of the last model that came there, in nats a sample; None if it does not say."""
    sketch: str = ""
    """Text of its `routing.sketch.Sketch`; empty if it does not say."""

    @property
    def amount(self) -> float:
        """Samples in all: as announced, or else what the label counts sum to."""
        return float(self.samples or sum(self.label_counts))


class Known(NamedTuple):
    """What a holder knows when it chooses where its packet goes."""

    here: Candidate
    """The holder."""
    candidates: Sequence[Candidate]
    """Its routing table, not empty."""
    seen: NDArray[np.float64]
    """Cumulative label counts of what the packet has trained on, ``(num_classes,)``."""
    rng: np.random.Generator
    """The only randomness."""
    task: str = ""
    """What the packet's model is for; empty if it does not say."""


def kl_divergence(p: ArrayLike, q: ArrayLike) -> float:
    """Return the divergence D(p || q) of two label histograms in nats.

    Counts or shares; `KL_SMOOTHING` is added to every entry of both before they are normalised, so
    the result is finite where `q` lacks a class, and zero for equal histograms.
    `p` and `q` are ``(num_classes,)`` and not negative.
    """
    smoothed = (np.asarray(v, dtype=float) + KL_SMOOTHING for v in (p, q))
    p_share, q_share = (v / v.sum() for v in smoothed)
    return float(np.sum(p_share * np.log(p_share / q_share)))


def address_order(address: str) -> tuple[int, str]:
    """Return the key that sorts ``n2`` before ``n10``."""
    number = re.search(r"\d+$", address)
    return (int(number.group()) if number else -1, address)
