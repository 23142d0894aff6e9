"""How many bytes a run needs to reach an accuracy, and to keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Reach:
    """Bytes at which a target accuracy is reached; None if it never is.

    Attributes
    ----------
    sustained : int or None
        At the first point from which the mean accuracy over the next N local updates is at or
        above the target, N being the number of nodes: one tour of a walk, one round of FedAvg.
    first : int or None
        At the first point that touches the target. It flatters a curve that goes up and down.
    """

    sustained: int | None
    first: int | None


def bytes_to_target(
    points: Sequence[Point], target: float, nodes: int, kind: str = "payload"
) -> Reach:
    """Find where a run reaches `target`.

    Parameters
    ----------
    points : sequence of mapping
        The measured points in order; each has ``updates``, ``accuracy`` and ``bytes``.
    target : float
        Accuracy in [0, 1].
    nodes : int
        Window of local updates over which `sustained` averages. A window that the run ends in the
        middle of proves nothing and does not count.
    kind : str
        Which bytes, a key of a point's ``bytes``.
    """
    first = next((p["bytes"][kind] for p in points if p["accuracy"] >= target), None)
    last = points[-1]["updates"] if points else 0
    for index, point in enumerate(points):
        end = point["updates"] + nodes
        # The points lie `gap` updates apart: the last one stands for the updates that follow it.
        gap = last - points[-2]["updates"] if len(points) > 1 else 0
        if end > last + gap:
            break
        window = [p["accuracy"] for p in points[index:] if p["updates"] < end]
        if sum(window) / len(window) >= target:
            return Reach(point["bytes"][kind], first)
    return Reach(None, first)


def mean_curve(runs: Sequence[Sequence[Point]]) -> list[dict[str, Any]]:
    """Average runs of one strategy over seeds, point by point.

    Runs of one strategy measure at the same steps; where one ended early the curve ends there.
    """
    curve = []
    for same_step in zip(*runs, strict=False):
        count = len(same_step)
        kinds = same_step[0]["bytes"]
        curve.append(
            {
                "step": same_step[0]["step"],
                "updates": sum(p["updates"] for p in same_step) / count,
                "accuracy": sum(p["accuracy"] for p in same_step) / count,
                "bytes": {k: sum(p["bytes"][k] for p in same_step) / count for k in kinds},
            }
        )
    return curve
