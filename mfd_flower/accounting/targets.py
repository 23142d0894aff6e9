"""What it takes a run to reach an accuracy: three readings of one curve.

With N nodes, and an accuracy a target:

- *first*: at the first point at or above it. A lucky point counts.
- *kept*: at the first point at or above it **and** from which the mean accuracy over the next N
  local updates is too: one tour of a walk, all nodes once of FedAvg. The headline; never before
  *first*, and the same where a curve only rises.
- *trailing*: at the end of the first N updates over which the mean accuracy is at or above it. Says
  nothing about later, and bills all updates that it rests on.

What is billed is all that was spent up to and including that point. A run that has ended keeps its
last value, for its model stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfd_flower.comparison import Metric

Point = Mapping[str, Any]
ROUNDING = 1e-9
"""Less than one test sample makes; sums of many accuracies are not exact."""


def by_metric(run: Point, metric: Metric) -> Point:
    """Return a run whose curve is that of a metric: its targets are to be of that one."""
    if metric == "accuracy":
        return run
    return {**run, "points": [{**point, "accuracy": point[metric]} for point in run["points"]]}


def first_point(points: Sequence[Point], target: float) -> Point | None:
    """Return the first point at or above an accuracy."""
    return next((point for point in points if point["accuracy"] >= target), None)


def kept_point(points: Sequence[Point], target: float, nodes: int) -> Point | None:
    """Return the first point at or above an accuracy that the next updates of all nodes keep."""
    updates = _column(points, "updates")
    ahead = _mean_behind(points, updates, nodes)
    reached = _column(points, "accuracy") >= target
    return _first(points, reached & (ahead >= target - ROUNDING))


def trailing_point(points: Sequence[Point], target: float, nodes: int) -> Point | None:
    """Return the end of the first updates of all nodes that are at an accuracy on the mean."""
    updates = _column(points, "updates")
    before = _mean_behind(points, updates - nodes, nodes)
    found = _first(points, (updates >= nodes) & (before >= target - ROUNDING))
    stays = points[-1]["accuracy"] >= target
    return points[-1] if found is None and stays else found


def diverged(points: Sequence[Point], classes: int) -> str:
    """Say why a curve ends nowhere, or worse than guessing among classes; empty if it does not."""
    last = points[-1]
    if not math.isfinite(last["loss"]):
        return "the loss is not finite"
    chance = 1 / classes
    return f"the accuracy ends below chance, {chance:.3g}" if last["accuracy"] < chance else ""


def _mean_behind(
    points: Sequence[Point], starts: NDArray[np.float64], nodes: int
) -> NDArray[np.float64]:
    """Return the mean accuracy over the `nodes` updates behind each number of updates.

    What an update led to is seen at the first point behind it.
    """
    updates, accuracies = _column(points, "updates"), _column(points, "accuracy")
    sums = np.cumsum(accuracies * np.diff(updates, prepend=updates[0]))
    updates = np.append(updates, updates[-1] + nodes)
    sums = np.append(sums, sums[-1] + accuracies[-1] * nodes)
    before, after = (np.interp(starts + n, updates, sums) for n in (0, nodes))
    return (after - before) / nodes


def _column(points: Sequence[Point], name: str) -> NDArray[np.float64]:
    return np.array([point[name] for point in points], float)


def _first(points: Sequence[Point], holds: NDArray[np.bool_]) -> Point | None:
    return points[int(holds.argmax())] if holds.any() else None
