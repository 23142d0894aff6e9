"""From measured runs to the comparison's answer: bytes to the best FedAvg's accuracy.

Two questions are kept apart. At the same payload: what did the way of learning save? And with
another payload (full, LoRA, prompts): what did sending less save on top?
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]
"""A run, or one of its measured points."""
SHARES = (0.90, 0.95, 0.98, 0.99, 1.00)
"""Targets, as shares of the best accuracy that any row of a table reaches."""
HEADLINE_SHARE = 0.99


def summarise(runs: Sequence[Run], margin: float) -> dict[str, Any]:
    """Summarise the runs of a comparison: scenario to its answer, with one row a strategy.

    ``target`` is the final accuracy of the most accurate yardstick entry less `margin`,
    ``yardstick`` the entry that reaches it with the fewest `wire` bytes, ``best`` the best accuracy
    of any row's mean curve.
    """
    scenarios: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        scenarios.setdefault(run["scenario"], {}).setdefault(run["strategy"], []).append(run)
    return {name: _scenario(by_strategy, margin) for name, by_strategy in scenarios.items()}


def payload_name(settings: Mapping[str, Any]) -> str:
    """Name what is sent: the tuning method and what decides its size."""
    tune = settings["model.tune"]
    if tune == "prompts":
        depth = "deep" if settings["model.deep"] else "shallow"
        return f"prompts ({settings['model.prompts']}, {depth})"
    return f"lora (rank {settings['model.lora_rank']})" if tune == "lora" else str(tune)


def _scenario(by_strategy: Mapping[str, Sequence[Run]], margin: float) -> dict[str, Any]:
    curves = {name: mean_curve([r["points"] for r in runs]) for name, runs in by_strategy.items()}
    best = max(point["accuracy"] for curve in curves.values() for point in curve)
    rows = [_row(name, runs) | _shares(curves[name], best) for name, runs in by_strategy.items()]
    # A baseline of which nodes failed is a weaker one than its name says.
    yardsticks = [row for row in rows if row["yardstick"] and not row["failures"]]
    target = max((row["final"]["mean"] - margin for row in yardsticks), default=None)

    def reach(points: Sequence[Run], kind: str = "wire") -> float | None:
        return None if target is None else first_reach(points, target, kind)

    for row in rows:
        curve, runs = curves[row["strategy"]], by_strategy[row["strategy"]]
        row["target_wire"] = reach(curve)
        row["target_payload"] = reach(curve, "payload")
        row["seeds_target_wire"] = [reach(run["points"]) for run in runs]
    reaching = [row for row in yardsticks if row["target_wire"]]
    yardstick = min(reaching, key=lambda row: row["target_wire"], default=None)
    for row in rows:
        row["ratio"] = None
        if yardstick and row["target_wire"] is not None:
            row["ratio"] = row["target_wire"] / yardstick["target_wire"]
        row["same_payload"] = yardstick is not None and row["payload"] == yardstick["payload"]
    return {
        "target": target,
        "best": best,
        "yardstick": yardstick and yardstick["strategy"],
        "yardstick_bytes": yardstick and yardstick["target_wire"],
        "rows": rows,
    }


def _row(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    last = [run["points"][-1] for run in runs]

    def mean(key: str) -> float:
        return statistics.mean(p[key] for p in last)

    sent = mean_curve([[point] for point in last])[0]["bytes"]
    busiest = [p["busiest_node_bytes"] for p in last]
    return {
        "strategy": name,
        "payload": payload_name(runs[0]["settings"]),
        "tunables": runs[0]["tunables"],
        "yardstick": runs[0]["yardstick"],
        "seeds": len(runs),
        "final": spread([p["accuracy"] for p in last]),
        "macro": spread([p["macro_accuracy"] for p in last]),
        "best": spread([max(p["accuracy"] for p in run["points"]) for run in runs]),
        "tour": spread([_last_tour(run) for run in runs]),
        "total_wire": sent["wire"],
        "total_payload": sent["payload"],
        "total_relay": sent["relay"],
        **_control(runs),
        "visits_entropy": spread([visits_entropy(run["visits"], run["nodes"]) for run in runs]),
        "virtual_seconds": mean("virtual_seconds"),
        "joules": mean("joules"),
        "flops": mean("flops"),
        "peak_node_bytes": max(p["peak_node_bytes"] for p in last),
        "busiest_node_bytes": None if None in busiest else max(busiest),
        "failures": sum(len(run["failures"]) for run in runs),
    }


def _shares(curve: Sequence[Run], best: float) -> dict[str, Any]:
    """Return ``targets`` of a row, and its bytes at the headline's share."""
    targets = targets_of(curve, best)
    headline = targets[SHARES.index(HEADLINE_SHARE)]
    return {"targets": targets} | {k: v for k, v in headline.items() if k.endswith("_bytes")}


def _control(runs: Sequence[Run]) -> dict[str, float]:
    """Return the `wire` bytes a run, and their share, that neither train nor evaluate."""
    kinds = [item for run in runs for item in run["wire_by_type"].items()]
    total = sum(size for _, size in kinds)
    control = sum(size for kind, size in kinds if kind.startswith("query"))
    return {
        "control_bytes": control / len(runs),
        "control_share": control / total if total else 0.0,
    }


def first_reach(points: Sequence[Run], target: float, kind: str = "wire") -> float | None:
    """Return the bytes of a kind at the first point at or above `target`; None if none is."""
    return next((p["bytes"][kind] for p in points if p["accuracy"] >= target), None)


def targets_of(curve: Sequence[Run], best: float) -> list[dict[str, float | None]]:
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


def mean_curve(runs: Sequence[Sequence[Run]]) -> list[dict[str, Any]]:
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


def visits_entropy(visits: Sequence[str], nodes: int) -> float:
    """Return how evenly nodes are visited: 1 if all are equally often, 0 if always the same one.

    The Shannon entropy of the visit shares over its largest value, ``ln(nodes)``.
    """
    shares = [count / len(visits) for count in Counter(visits).values()]
    entropy = -sum(share * math.log(share) for share in shares)
    return entropy / math.log(nodes) if nodes > 1 else 1.0


def _last_tour(run: Run) -> float:
    points, nodes = run["points"], run["nodes"]
    end = points[-1]["updates"]
    return statistics.mean(p["accuracy"] for p in points if p["updates"] > end - nodes)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean and sample standard deviation (0 for one value)."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "std": deviation}
