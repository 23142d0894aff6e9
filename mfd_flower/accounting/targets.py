"""How many bytes a run needs to reach an accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Point = Mapping[str, Any]
SHARES = (0.90, 0.95, 0.98, 0.99, 1.00)
"""Targets, as shares of the best accuracy that any row of a table reaches."""
HEADLINE_SHARE = 0.99


def first_reach(points: Sequence[Point], target: float, kind: str = "wire") -> float | None:
    """Return the bytes of a kind at the first point at or above `target`; None if none is."""
    return next((p["bytes"][kind] for p in points if p["accuracy"] >= target), None)


def targets_of(curve: Sequence[Point], best: float) -> list[dict[str, float | None]]:
    """Return the `wire` bytes by which a curve reaches each of `SHARES` of the best accuracy."""
    return [
        {
            "share": share,
            "accuracy": share * best,
            "kept_bytes": None,
            "first_bytes": first_reach(curve, share * best),
            "trailing_bytes": None,
        }
        for share in SHARES
    ]


def mean_curve(runs: Sequence[Sequence[Point]]) -> list[dict[str, Any]]:
    """Average runs of one strategy over seeds, point by point.

    Runs of one strategy measure at the same steps; where one ended early the curve ends there.
    """

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    return [
        {
            "step": points[0]["step"],
            "updates": mean([p["updates"] for p in points]),
            "accuracy": mean([p["accuracy"] for p in points]),
            "bytes": {k: mean([p["bytes"][k] for p in points]) for k in points[0]["bytes"]},
        }
        for points in zip(*runs, strict=False)
    ]
