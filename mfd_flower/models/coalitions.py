"""What each node's samples are worth to a head in closed form: exactly, and without training.

Sums of a coalition are the sum of its parts, so that each coalition's regression is what it would
have learnt by itself. Whoever has the parts, as the server of a star does, can go through all
coalitions. Of the sums of a walk nobody has more than the whole and a part of its own, from which
leave-one-out follows, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mfd_flower.models.closed_form import squared_error
from mfd_flower.models.sums import Sums
from mfd_flower.services.incentives import (
    MOST_EXACT,
    Value,
    leave_one_out,
    shapley,
    shapley_estimate,
)

MOST_SOLVED = 2**MOST_EXACT
"""Regressions at most, where Shapley values are estimated: as many as are exact."""


def error_falls(parts: Mapping[str, Sums]) -> Value[str]:
    """Return the value of a coalition: by how much its samples lower the mean squared error.

    Over everybody's samples, `squared_error` of labels regressed on the coalition's sums. Without
    samples all logits are 0, and the error of one-hot labels is 1.
    """
    nothing = _nothing(parts)
    everybody = sum(parts.values(), nothing)

    def value(coalition: frozenset[str]) -> float:
        # In one order, so that equal coalitions are worth the same to the last bit.
        total = sum((parts[name] for name in sorted(coalition)), nothing)
        return 1.0 - squared_error(total, everybody) if coalition else 0.0

    return value


def contributions_of_parts(parts: Mapping[str, Sums], seed: int) -> list[dict[str, Any]]:
    """Return a row a node: samples, error without it and with it, Shapley value.

    The errors are those of the trait `contributions`. The Shapley value is exact for up to
    `MOST_EXACT` nodes; of more it is estimated, and ``shapley_error`` is its standard error.
    """
    value, names = error_falls(parts), sorted(parts)
    with_all = 1.0 - value(frozenset(names))
    falls = leave_one_out(value, names)
    worth: dict[str, dict[str, float]]
    if len(names) <= MOST_EXACT:
        worth = {name: {"shapley": each} for name, each in shapley(value, names).items()}
    else:
        found = shapley_estimate(value, names, max(MOST_SOLVED // len(names), 2), seed)
        worth = {
            name: {"shapley": found.values[name], "shapley_error": found.standard_errors[name]}
            for name in names
        }
    return [
        {
            "node": name,
            "samples": parts[name].samples,
            "squared_error_with": with_all,
            "squared_error_without": with_all + falls[name],
            **worth[name],
        }
        for name in names
    ]


def _nothing(parts: Mapping[str, Sums]) -> Sums:
    features, classes = next(iter(parts.values())).cross.shape
    return Sums.nothing(features - 1, classes)
