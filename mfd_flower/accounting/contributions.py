"""What each node contributed to a run, by its record in ``results.json``, and what it gave for it.

Where sums travel, contributions are exact (`mfd_flower.models.coalitions`). Elsewhere they are read
off the curve: the test loss falls by so much from one point to the next, and who trained in between
has an even share of that. This is the experimenter's instrument, since nodes have no test set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

Run = Mapping[str, Any]
Measure = Literal["Shapley value", "leave-one-out", "fall of the loss"]

GIVEN = ("samples", "bytes", "joules", "flops")
"""Of each node, tables of a record by address, under ``node_samples`` and so on."""


@dataclass(frozen=True)
class Contributions:
    """By how much nodes made a model better; less than 0 is worse."""

    measure: Measure
    """Of the first two, how much less the mean squared error over everybody's samples is, labels
    being regressed on sums; of the last, the loss on the test set, in nats."""
    by_node: Mapping[str, float]
    """By address; who is not in it was not measured."""


def contributions_of(run: Run) -> Contributions | None:
    """Return what each node contributed; None if a run's record does not tell.

    Shapley values and leave-one-out where the record has them under ``contributions``. Else the
    sum, over a node's visits, of the fall of the test loss from the point before them to the point
    behind them, split evenly among all visits in between: in a walk of one model that is one visit,
    in FedAvg a round's. What a visit is worth depends on who came before, so that early ones fare
    well. A change without a visit in between, as where walkers meet, counts for nobody.
    """
    if told := run.get("contributions"):
        if all("shapley" in each for each in told):
            return Contributions("Shapley value", {each["node"]: each["shapley"] for each in told})
        falls = {e["node"]: e["squared_error_without"] - e["squared_error_with"] for e in told}
        return Contributions("leave-one-out", falls)
    losses = [point.get("loss") for point in run["points"]]
    until = _visits_until(run)
    if until is None or not all(_is_finite(loss) for loss in losses):
        return None
    found = {f"n{place}": 0.0 for place in range(run["nodes"])}
    for (before, loss), (since, end) in zip(pairwise(losses), pairwise(until), strict=True):
        visits = run["visits"][since:end]
        for address in visits:
            found[address] += (before - loss) / len(visits)
    return Contributions("fall of the loss", found)


def gave(run: Run) -> list[dict[str, Any]]:
    """Return a row a node: samples it trains on, wire bytes, joules, FLOPs, and contribution.

    Bytes are those sent and received. What a record does not tell is None.
    """
    found = contributions_of(run)
    contributed = found.by_node if found else {}
    tables = {name: run.get(f"node_{name}") for name in GIVEN}
    # Who was never billed anything is not in a table that is there.
    return [
        {
            "node": (node := f"n{place}"),
            **{name: None if of is None else of.get(node, 0) for name, of in tables.items()},
            "contribution": contributed.get(node),
        }
        for place in range(run["nodes"])
    ]


def _visits_until(run: Run) -> Sequence[int] | None:
    """Return how many visits led to what each point shows; None if that is not known."""
    points = run["points"]
    until = [point.get("visits") for point in points]
    if None in until:
        # Records from before points told it: as many as updates, if each visit was one.
        until = [point["updates"] for point in points]
        if until[-1] != len(run["visits"]):
            return None
    if "admission" in run:
        # A point shows what was accepted: of one walker that is the version of the visit before.
        if len({version["walker"] for version in run["versions"]}) > 1:
            return None
        until = [0, *until[:-1]]
    return until


def _is_finite(loss: Any) -> bool:
    return isinstance(loss, int | float) and math.isfinite(loss)
