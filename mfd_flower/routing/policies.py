"""Next-hop policies: pure functions of what the holding node knows.

The whitepaper (section 2.6) lets the packet go where the Kullback-Leibler divergence of the label
distributions is smallest, where compute and link are fastest, or where a mix says; Tram-FL (arXiv
2308.04762) where the labels seen so far stay most even. Each policy is one function, its keyword
arguments are the policy's options, and `choose` is their door.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.checks import ConfigError
from mfd_flower.routing.candidate import Candidate, address_order, kl_divergence
from mfd_flower.routing.costs import (
    VISIT_BITS,
    VISIT_FLOPS,
    interest_of,
    to_unit,
    variance_after,
    visit_seconds,
)
from mfd_flower.routing.metropolis import metropolis


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
    ordered = sorted(candidates, key=lambda c: address_order(c.address))
    later = [c for c in ordered if address_order(c.address) > address_order(here.address)]
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
    costs = [kl_divergence(c.label_counts, here.label_counts) for c in candidates]
    return _cheapest(candidates, costs)


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
    return min(
        candidates,
        key=lambda c: (variance_after(c, seen, batch), address_order(c.address)),
    ).address


def interest(
    here: Candidate,
    candidates: Sequence[Candidate],
    seen: NDArray[np.float64],
    rng: np.random.Generator,
    hop: int | None = None,
) -> str:
    """Pick the largest data-interest value, each candidate's as `interest_of` has it.

    `hop` is the number of the hop to come; without it, one more than the latest visit known.
    """
    now = _hop_to_come(here, candidates) if hop is None else hop
    return _cheapest(candidates, [-interest_of(c, seen, now) for c in candidates])


def fastest(
    here: Candidate,
    candidates: Sequence[Candidate],
    seen: NDArray[np.float64],
    rng: np.random.Generator,
    flops: float = VISIT_FLOPS,
    bits: float = VISIT_BITS,
) -> str:
    """Pick the smallest transfer plus compute time (W 2.6), for a visit of `flops` and `bits`."""
    return _cheapest(candidates, [visit_seconds(c, flops, bits) for c in candidates])


def weighted(
    here: Candidate,
    candidates: Sequence[Candidate],
    seen: NDArray[np.float64],
    rng: np.random.Generator,
    w_balance: float = 1.0,
    w_speed: float = 1.0,
    w_interest: float = 1.0,
    w_recency: float = 1.0,
    batch: float = 0.0,
    flops: float = VISIT_FLOPS,
    bits: float = VISIT_BITS,
    hop: int | None = None,
) -> str:
    """Pick the smallest weighted sum of four costs (the mix of W 2.6).

    Over the candidates each cost is brought to 0 (best) to 1 (worst), 0 for all if they are equal:
    label variance after the visit (`w_balance`), time of the visit (`w_speed`), missing interest
    (`w_interest`), how recently the packet was there (`w_recency`). Weights are not negative and
    not all 0; the other options are those of the policies named in `POLICIES`.
    """
    weights = {
        "w_balance": w_balance,
        "w_speed": w_speed,
        "w_interest": w_interest,
        "w_recency": w_recency,
    }
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"options.{name}", weight, "must be at least 0 and finite")
    if not any(weights.values()):
        raise ConfigError("options", weights, "at least one weight must be above 0")
    now = _hop_to_come(here, candidates) if hop is None else hop
    terms = (
        [variance_after(c, seen, batch) for c in candidates],
        [visit_seconds(c, flops, bits) for c in candidates],
        [-interest_of(c, seen, now) for c in candidates],
        [float(c.last_visit) for c in candidates],
    )
    costs = np.array(list(weights.values())) @ np.array([to_unit(t) for t in terms])
    return _cheapest(candidates, costs.tolist())


Policy = Callable[..., str]
POLICIES: dict[str, Policy] = {
    "random": random,
    "round-robin": round_robin,
    "kl-near": kl_near,
    "label-balance": label_balance,
    "interest": interest,
    "fastest": fastest,
    "weighted": weighted,
    "metropolis": metropolis,
}


@cache
def policy_options(policy: str) -> tuple[str, ...]:
    """Return the names of the options that a policy of `POLICIES` takes."""
    return tuple(inspect.signature(POLICIES[policy]).parameters)[4:]


def choose(
    policy: str,
    here: Candidate,
    candidates: Sequence[Candidate],
    seen: ArrayLike,
    rng: np.random.Generator,
    **options: float | str,
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
        Further arguments of the policy: `policy_options` names them.

    Returns
    -------
    str
        An address among `candidates`; ``metropolis`` may also stay at `here`.

    Raises
    ------
    ConfigError
        If there is no such policy, option or candidate.
    """
    if policy not in POLICIES:
        raise ConfigError("policy", policy, f"accepted: {', '.join(POLICIES)}")
    accepted = policy_options(policy)
    for name, value in options.items():
        if name not in accepted:
            names = ", ".join(accepted) or "none"
            raise ConfigError(f"options.{name}", value, f"accepted by {policy}: {names}")
    if not candidates:
        raise ConfigError("candidates", [], f"node {here.address} knows no neighbour")
    counts = np.asarray(seen, dtype=float)
    return POLICIES[policy](here, candidates, counts, rng, **options)


def _hop_to_come(here: Candidate, candidates: Sequence[Candidate]) -> int:
    return max(c.last_visit for c in (here, *candidates)) + 1


def _cheapest(candidates: Sequence[Candidate], costs: Sequence[float]) -> str:
    """Return the address of the smallest cost; ties fall to the node left longest ago."""
    ranked = zip(costs, candidates, strict=True)
    return min(ranked, key=lambda r: (r[0], r[1].last_visit, address_order(r[1].address)))[
        1
    ].address
