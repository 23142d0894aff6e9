"""What each node's part in a coalition is worth, and what it is paid for it.

GaisNet (arXiv 2401.02668), section VI-C: nodes take part if what they give is paid. A part is worth
its Shapley value (Shapley 1953, *A Value for n-Person Games*), the one that adds up, treats like
alike, gives nothing to who adds nothing, and is additive; or what all others would lack, which
takes n + 1 values instead of 2^n, and does not add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Generic, TypeVar

import numpy as np

from mfd_flower.checks import Bounds, ConfigError, checked

MOST_EXACT = 12
"""Players whose 4,096 coalitions `shapley` goes through."""
MOST_PERMUTATIONS = 100_000
AMOUNT = Bounds(0.0, 1e18)
"""Of money: sums of so much stay finite."""

P = TypeVar("P", bound=Hashable)
Value = Callable[[frozenset[P]], float]
"""What a coalition is worth."""


@dataclass(frozen=True)
class ShapleyEstimate(Generic[P]):
    """Shapley values by sampling, and how far off they may be."""

    values: Mapping[P, float]
    standard_errors: Mapping[P, float]
    """Of each value: the sample's standard deviation over the root of the permutations."""


def shapley(value: Value[P], players: Sequence[P]) -> dict[P, float]:
    """Return the exact Shapley values, from 2^n values of coalitions.

    Parameters
    ----------
    value
        What a coalition is worth; asked once of each, the empty one too.
    players
        All there are, `MOST_EXACT` at most.

    Raises
    ------
    ConfigError
        For players twice, none or too many, and a value that is no finite number.
    """
    count = len(_distinct(players, MOST_EXACT))
    masks = np.arange(2**count)
    inside = masks[:, None] >> np.arange(count) & 1
    worth = np.array([_worth(value, list(compress(players, row))) for row in inside])
    sizes = inside.sum(1)
    weights = np.array([1 / (count * math.comb(count - 1, size)) for size in range(count)])
    found = {}
    for place, player in enumerate(players):
        without = masks[inside[:, place] == 0]
        gains = worth[without | 1 << place] - worth[without]
        found[player] = math.fsum(weights[sizes[without]] * gains)
    return found


def shapley_estimate(
    value: Value[P], players: Sequence[P], permutations: int, seed: int | None = None
) -> ShapleyEstimate[P]:
    """Return means of what each player adds to those before it, over orders that are drawn.

    Castro, Gomez and Tejada 2009, *Polynomial calculation of the Shapley value based on sampling*.
    Without bias; the values add up as the exact ones do, since those of each order do. It takes
    about `permutations` times the number of players values of coalitions.

    Raises
    ------
    ConfigError
        As `shapley`, and for fewer than two permutations, which have no spread.
    """
    names = _distinct(players)
    checked("permutations", permutations, int, {"low": 2, "high": MOST_PERMUTATIONS})
    rng = np.random.default_rng(seed)
    nobody, everybody = _worth(value, []), _worth(value, names)
    gains = np.empty((permutations, len(names)))
    for row in gains:
        order = rng.permutation(len(names))
        before = (_worth(value, [names[i] for i in order[:end]]) for end in range(1, len(order)))
        row[order] = np.diff([nobody, *before, everybody])
    errors = gains.std(0, ddof=1) / math.sqrt(permutations)
    return ShapleyEstimate(
        dict(zip(names, gains.mean(0).tolist(), strict=True)),
        dict(zip(names, errors.tolist(), strict=True)),
    )


def leave_one_out(value: Value[P], players: Sequence[P]) -> dict[P, float]:
    """Return what everybody is worth, less what all others are, for each player."""
    names = _distinct(players)
    whole = _worth(value, names)
    return {name: whole - _worth(value, [n for n in names if n != name]) for name in names}


def payments(
    contributions: Mapping[str, float], profit: float, costs: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Share a profit out: costs first, what is left in proportion to contributions.

    In proportion as in Song, Tong and Wei 2019 (*Profit Allocation for Federated Learning*); that
    costs go first, and that who harms is not charged, is ours. Of nodes that contribute more than
    0, with costs c, contributions s and profit v:

    - each gets ``c_i + s_i / sum(s) * (v - sum(c))`` if v is at least ``sum(c)``, so that nobody
      loses by taking part;
    - else ``v * c_i / sum(c)``, so that nobody gets more than its costs.

    All others get 0, whatever they cost. Payments add up to the profit, to rounding; none is below
    0; like is treated alike; a node gets no less for more profit, nor for a larger contribution.
    They depend on the proportions of contributions alone, not on their unit. Costs have to be
    counted and not told by nodes: who overstates them gets more.

    Parameters
    ----------
    contributions
        By node, in any one unit.
    profit, costs
        In one unit, that of the payments. Who is not among the costs has none.

    Raises
    ------
    ConfigError
        For what is no amount, costs of unknown nodes, and a profit that nobody contributed to.
    """
    gave = {name: Bounds().number(f"contributions.{name}", each)
            for name, each in contributions.items()}  # fmt: skip
    total = AMOUNT.number("profit", profit)
    spent = {name: AMOUNT.number(f"costs.{name}", each) for name, each in (costs or {}).items()}
    if unknown := sorted(spent.keys() - gave.keys()):
        raise ConfigError(f"costs.{unknown[0]}", spent[unknown[0]], "must be of a contributor")
    paid = dict.fromkeys(gave, 0.0)
    of = [name for name, each in gave.items() if each > 0]
    if not of:
        if total:
            accepted = "must have one above 0, to be paid the profit"
            raise ConfigError("contributions", dict(contributions), accepted)
        return paid
    due = np.array([spent.get(name, 0.0) for name in of])
    left = total - math.fsum(due)
    amounts = due + left * _shares([gave[n] for n in of]) if left >= 0 else total * _shares(due)
    return paid | dict(zip(of, amounts.tolist(), strict=True))


def _shares(amounts: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return shares of 1; over the largest first, so that no sum is too large."""
    scaled = np.asarray(amounts) / np.max(amounts)
    return scaled / scaled.sum()


def _distinct(players: Sequence[P], most: float = math.inf) -> list[P]:
    names = list(players)
    if not names or len(set(names)) < len(names) or len(names) > most:
        up_to = "" if most == math.inf else f", {most} at most; shapley_estimate takes more"
        raise ConfigError("players", names, f"must be at least one, each once{up_to}")
    return names


def _worth(value: Value[P], coalition: Sequence[P]) -> float:
    found = float(value(frozenset(coalition)))
    if not math.isfinite(found):
        raise ConfigError("value", found, f"must be finite, of {len(coalition)} players too")
    return found
