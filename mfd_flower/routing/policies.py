"""Next-hop policies: pure functions of what the holding node knows.

The whitepaper (section 2.6) lets the packet go where the Kullback-Leibler divergence of the label
distributions is smallest, or where compute and link are fastest; Tram-FL (arXiv 2308.04762) where
the labels seen so far stay most even. Each policy is one function here, and `choose` is their door.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.config import ConfigError

KL_SMOOTHING = 1.0
"""Pseudo-count added to each class before counts become shares."""


@dataclass(frozen=True)
class Candidate:
    """A node as a routing table knows it.

    Attributes
    ----------
    address : str
        Such as ``n3``.
    label_counts : tuple of float
        Samples of each class.
    samples : int
        Samples in all.
    flops_per_s, link_bps : float
        Compute rate, and rate of the link from the holder to it.
    degree : int
        Neighbours it has.
    interest : float
        Its announced data-interest value.
    last_visit : int
        Hop at which the packet was there last, -1 if never.
    """

    address: str
    label_counts: tuple[float, ...] = ()
    samples: int = 0
    flops_per_s: float = 1.0
    link_bps: float = 1.0
    degree: int = 1
    interest: float = 0.0
    last_visit: int = -1


def kl_divergence(p: ArrayLike, q: ArrayLike) -> float:
    """Return the divergence D(p || q) of two label histograms in nats.

    Counts or shares; `KL_SMOOTHING` is added to every entry of both before they are normalised, so
    the result is finite where `q` lacks a class, and zero for equal histograms.

    Parameters
    ----------
    p, q : array_like
        ``(num_classes,)``, not negative.
    """
    shares = [np.asarray(v, dtype=float) + KL_SMOOTHING for v in (p, q)]
    p_share, q_share = (v / v.sum() for v in shares)
    return float(np.sum(p_share * np.log(p_share / q_share)))


def random(
    here: Candidate,
    candidates: Sequence[Candidate],
    seen: NDArray[np.float64],
    rng: np.random.Generator,
) -> str:
    """Pick a neighbour uniformly: the simple random walk."""
    return candidates[int(rng.integers(len(candidates)))].address


def round_robin(
    here: Candidate,
    candidates: Sequence[Candidate],
    seen: NDArray[np.float64],
    rng: np.random.Generator,
) -> str:
    """Pick the next address after this one, around the circle: cyclic visiting."""
    ordered = sorted(candidates, key=lambda c: _address_order(c.address))
    later = [c for c in ordered if _address_order(c.address) > _address_order(here.address)]
    return (later or ordered)[0].address


def kl_near(
    here: Candidate,
    candidates: Sequence[Candidate],
    seen: NDArray[np.float64],
    rng: np.random.Generator,
) -> str:
    """Pick the smallest divergence between the neighbour's and this node's labels (W 2.6).

    The longest unvisited wins among equals. Alone it moves between the two most alike nodes for
    ever; candidates that the packet left recently should have been taken out by the caller.
    """
    return min(
        candidates,
        key=lambda c: (
            kl_divergence(c.label_counts, here.label_counts),
            c.last_visit,
            _address_order(c.address),
        ),
    ).address


def label_balance(
    here: Candidate,
    candidates: Sequence[Candidate],
    seen: NDArray[np.float64],
    rng: np.random.Generator,
    batch: float = 0.0,
) -> str:
    """Pick the neighbour that leaves the labels seen so far most even (Tram-FL, section III).

    Minimises the population variance of the cumulative label counts plus the labels expected in
    `batch` samples of the candidate; without `batch` in all its samples.
    """

    def variance_after(candidate: Candidate) -> float:
        counts = np.asarray(candidate.label_counts, dtype=float)
        total = counts.sum()
        expected = counts * (batch / total) if batch and total else counts
        return float(np.var(seen + expected))

    return min(candidates, key=lambda c: (variance_after(c), _address_order(c.address))).address


Policy = Callable[..., str]
POLICIES: dict[str, Policy] = {
    "random": random,
    "round-robin": round_robin,
    "kl-near": kl_near,
    "label-balance": label_balance,
}


def choose(
    policy: str,
    here: Candidate,
    candidates: Sequence[Candidate],
    seen: ArrayLike,
    rng: np.random.Generator,
    **options: float,
) -> str:
    """Choose the address that a packet travels to next.

    Parameters
    ----------
    policy : str
        A key of `POLICIES`.
    here : Candidate
        The node that holds the packet.
    candidates : sequence of Candidate
        Its routing table, not empty.
    seen : array_like
        Cumulative label counts of what the packet has trained on, ``(num_classes,)``.
    rng : numpy.random.Generator
        The only randomness.
    **options
        Further arguments of the policy.

    Raises
    ------
    ConfigError
        If there is no such policy, or no candidate.
    """
    if policy not in POLICIES:
        raise ConfigError("policy", policy, f"accepted: {', '.join(POLICIES)}")
    if not candidates:
        raise ConfigError("candidates", [], f"node {here.address} knows no neighbour")
    counts = np.asarray(seen, dtype=float)
    return POLICIES[policy](here, candidates, counts, rng, **options)


def _address_order(address: str) -> tuple[int, str]:
    number = re.search(r"\d+$", address)
    return (int(number.group()) if number else -1, address)
