"""Next-hop policies: pure functions of what the holding node knows.

The whitepaper (section 2.6) lets the packet go where the Kullback-Leibler divergence of the label
distributions is smallest, where compute and link are fastest, or where a mix says; Tram-FL (arXiv
2308.04762) where the labels seen so far stay most even. A new policy is one function here and its
line in `POLICIES`, and nothing else: it takes a `Known` and returns an address; its further
parameters are the policy's options, checked by their types. `choose` is the door to all of them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfd_flower.checks import Bounds, ConfigError, checked
from mfd_flower.routing.candidate import Candidate, Known, address_order, kl_divergence
from mfd_flower.routing.interest import interest_of
from mfd_flower.routing.sketch import Sketch, gaussian_divergence

Amount = Annotated[float, Bounds(0.0)]
HopNumber = Annotated[int, Bounds(0)]
VISIT_FLOPS = 1e10
"""FLOPs of a visit when nobody says: 2 s on the default device of `NetworkConfig`."""
VISIT_BITS = 1e7
"""Bits of a packet when nobody says: 0.2 s on its default ``d2d`` link."""


def random(known: Known) -> str:
    """Pick a neighbour uniformly: the simple random walk."""
    return known.candidates[int(known.rng.integers(len(known.candidates)))].address


def round_robin(known: Known) -> str:
    """Pick the next address after this one, around the circle: cyclic visiting."""
    ordered = sorted((c.address for c in known.candidates), key=address_order)
    here = address_order(known.here.address)
    return next((address for address in ordered if address_order(address) > here), ordered[0])


def kl_near(known: Known, by: Literal["labels", "features"] = "labels") -> str:
    """Pick the smallest divergence between the neighbour's labels or features and this node's.

    W 2.6. By ``features`` the divergence is that of the sketches that nodes announce. The longest
    unvisited wins among equals. Alone it moves between the two most alike nodes for ever;
    candidates that the packet left recently should have been taken out by the caller. Who keeps its
    labels or features to itself comes last.
    """
    unlike = _unlike_labels if by == "labels" else _unlike_features
    return _cheapest(known, [unlike(c, known.here) for c in known.candidates])


def label_balance(known: Known, batch: Amount = 0.0) -> str:
    """Pick the neighbour that leaves the labels seen so far most even (Tram-FL, section III).

    Minimises the population variance of the cumulative label counts plus the labels expected in
    `batch` samples of the candidate; without `batch` in all its samples.
    """
    costs = _variances_after(known, batch).tolist()
    best = min(costs)
    equal = [c.address for c, cost in zip(known.candidates, costs, strict=True) if cost == best]
    return min(equal, key=address_order)


def interest(
    known: Known, hop: HopNumber | None = None, task: bool = False, loss: bool = False
) -> str:
    """Pick the largest data-interest value, each candidate's as `interest_of` has it.

    `hop` is the number of the hop to come; without it, one more than the latest visit known. With
    `task` a node whose data are for another task than the packet's model has none, and with `loss`
    a node has less of it the better the last model that came there did.
    """
    return _cheapest(known, _missing_interest(known, hop, known.task if task else "", loss))


def fastest(known: Known, flops: Amount = VISIT_FLOPS, bits: Amount = VISIT_BITS) -> str:
    """Pick the smallest transfer plus compute time (W 2.6), for a visit of `flops` and `bits`."""
    return _cheapest(known, [_visit_seconds(c, flops, bits) for c in known.candidates])


def weighted(
    known: Known,
    w_balance: Amount = 1.0,
    w_speed: Amount = 1.0,
    w_interest: Amount = 1.0,
    w_recency: Amount = 1.0,
    batch: Amount = 0.0,
    flops: Amount = VISIT_FLOPS,
    bits: Amount = VISIT_BITS,
    hop: HopNumber | None = None,
) -> str:
    """Pick the smallest weighted sum of four costs (the mix of W 2.6).

    Over the candidates each cost is brought to 0 (best) to 1 (worst), 0 for all if they are equal:
    label variance after the visit (`w_balance`), time of the visit (`w_speed`), missing interest
    (`w_interest`), how recently the packet was there (`w_recency`). Not all weights are 0; the
    other options are those of the policies named in `POLICIES`.
    """
    weights = np.array([w_balance, w_speed, w_interest, w_recency])
    if not weights.any():
        raise ConfigError("options", weights.tolist(), "at least one weight must be above 0")
    terms = (
        _variances_after(known, batch).tolist(),
        [_visit_seconds(c, flops, bits) for c in known.candidates],
        _missing_interest(known, hop),
        [float(c.last_visit) for c in known.candidates],
    )
    return _cheapest(known, (weights @ np.array([_to_unit(t) for t in terms])).tolist())


def metropolis(
    known: Known,
    target: Literal["uniform", "samples"] = "uniform",
    epsilon: Annotated[float, Bounds(0.0, 1.0)] = 0.0,
) -> str:
    """Propose a candidate uniformly, and go there or stay as Metropolis-Hastings says.

    Metropolis et al. 1953, Hastings 1970: nodes are visited as often as a chosen distribution says.
    The jumps against entrapment follow "The Entrapment Problem in Random Walk Decentralized
    Learning" (MHLJ, arXiv 2407.20611); there a jump is several blind steps along links, here it is
    one blind step in the holder's table, which spans as many hops as adverts.

    A proposal from i to j is accepted with probability min(1, pi_j d_i / (pi_i d_j)), d being the
    degrees; a refused one returns the address of `here`, where the packet then trains again. Where
    tables are symmetric and `degree` is the size of a node's table, the walk's stationary
    distribution is pi exactly, whatever the graph. Leaving out recently visited nodes breaks that.

    With probability `epsilon` the test is left out: a jump. With P the Metropolis walk and Q the
    simple walk on the same tables, the walk is (1 - epsilon) P + epsilon Q, and its stationary
    distribution nu is no longer pi but the solution of

        nu - pi = epsilon nu (Q - P) Z,    Z = sum over k >= 0 of (P^k - 1 pi),

    a bias towards well-linked nodes that is linear in small `epsilon` (the sum in Abel's sense if P
    is periodic); at `epsilon` = 1 nu is proportional to the degree. It is zero for every `epsilon`
    if pi itself is proportional to the degree, such as the uniform target on tables of one size.

    The `target` pi is ``uniform``, or ``samples`` for proportional to the samples a node holds.
    """
    here, candidates, rng = known.here, known.candidates, known.rng
    proposal = candidates[int(rng.integers(len(candidates)))]
    if rng.random() < epsilon:
        return proposal.address
    pi_here, pi_there = (here.amount, proposal.amount) if target == "samples" else (1.0, 1.0)
    # A holder that was given no degree has at least the neighbours it can choose from.
    degree_here = max(here.degree, len(candidates))
    bar = pi_here * proposal.degree
    accepted = bar == 0 or rng.random() * bar < pi_there * degree_here
    return proposal.address if accepted else here.address


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
def policy_options(policy: str) -> Mapping[str, Any]:
    """Return the options that a policy of `POLICIES` takes, each with the type that checks it."""
    hints = get_type_hints(POLICIES[policy], include_extras=True)
    return {name: hints[name] for name in [*inspect.signature(POLICIES[policy]).parameters][1:]}


def check_options(
    policy: str, options: Mapping[str, Any], where: str = "options."
) -> dict[str, Any]:
    """Return the options of a policy as it takes them; `where` stands before a name in an error.

    `ConfigError` if there is no such policy or option, or a value is not accepted.
    """
    if not isinstance(policy, str) or policy not in POLICIES:
        raise ConfigError("options.policy", policy, f"accepted: {', '.join(POLICIES)}")
    accepted = policy_options(policy)
    if strange := [name for name in options if name not in accepted]:
        said = f"accepted by {policy}: {', '.join(accepted) or 'none'}"
        raise ConfigError(f"{where}{strange[0]}", options[strange[0]], said)
    return {name: checked(f"{where}{name}", v, accepted[name]) for name, v in options.items()}


def choose(
    policy: str,
    here: Candidate,
    candidates: Sequence[Candidate],
    seen: ArrayLike,
    rng: np.random.Generator,
    task: str = "",
    /,
    **options: float | str,
) -> str:
    """Choose the address that a packet travels to next, by a policy of `POLICIES`.

    It is one among `candidates`; ``metropolis`` may also stay at `here`. For what the holder knows
    see `Known`; `options` are those that `policy_options` names, an option ``task`` among them.
    `ConfigError` if there is no such policy, option or candidate.
    """
    told = check_options(policy, options)
    if not candidates:
        raise ConfigError("candidates", [], f"node {here.address} knows no neighbour")
    known = Known(here, candidates, np.asarray(seen, dtype=float), rng, task)
    return POLICIES[policy](known, **told)


def _variances_after(known: Known, batch: float) -> NDArray[np.float64]:
    """Return of each candidate the variance of the label counts after a visit there.

    `batch` 0 is its whole shard. A candidate that keeps its labels to itself is taken to add none,
    an empty `seen` for no labels.
    """
    seen, told = known.seen, [each.label_counts for each in known.candidates]
    classes = seen.size or max(map(len, told))
    if not classes:
        return np.zeros(len(told))
    counts = np.array([each or (0.0,) * classes for each in told], dtype=float)
    if batch:
        totals = counts.sum(1, keepdims=True)
        counts *= np.divide(batch, totals, out=np.ones_like(totals), where=totals > 0)
    return np.var(seen + counts if seen.size else counts, axis=1)


def _visit_seconds(candidate: Candidate, flops: float, bits: float) -> float:
    """Return the seconds to send `bits` there and compute `flops`; infinite at a rate of 0."""
    work = ((flops, candidate.flops_per_s), (bits, candidate.link_bps))
    return sum(amount / rate if rate > 0 else math.inf for amount, rate in work)


def _to_unit(costs: ArrayLike) -> NDArray[np.float64]:
    """Bring costs onto [0, 1]; infinite ones count twice the largest finite one."""
    values = np.asarray(costs, dtype=float)
    finite = values[np.isfinite(values)]
    values = np.nan_to_num(values, posinf=2 * finite.max() if finite.size else 0.0)
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread else np.zeros_like(values)


def _unlike_labels(candidate: Candidate, here: Candidate) -> float:
    """Return how unlike a candidate's labels are the holder's; infinite where it tells none."""
    told, own = candidate.label_counts, here.label_counts
    return kl_divergence(told, own) if len(told) == len(own) else math.inf


def _unlike_features(candidate: Candidate, here: Candidate) -> float:
    """Return how unlike a candidate's features are the holder's; infinite where it tells none."""
    if not (candidate.sketch and here.sketch):
        return math.inf
    told, own = Sketch.from_text(candidate.sketch), Sketch.from_text(here.sketch)
    return gaussian_divergence(told, own)


def _missing_interest(
    known: Known, hop: int | None, task: str = "", use_loss: bool = False
) -> list[float]:
    last = max(c.last_visit for c in (known.here, *known.candidates))
    now = last + 1 if hop is None else hop
    return [-interest_of(c, known.seen, now, task, use_loss) for c in known.candidates]


def _cheapest(known: Known, costs: Sequence[float]) -> str:
    """Return the address of the smallest cost; ties fall to the node left longest ago."""
    ranked = zip(costs, known.candidates, strict=True)
    _, best = min(ranked, key=lambda r: (r[0], r[1].last_visit, address_order(r[1].address)))
    return best.address
