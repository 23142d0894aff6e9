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

from mfd_flower.accounting.targets import bytes_to_target, mean_curve

Run = Mapping[str, Any]


def summarise(runs: Sequence[Run], margin: float) -> dict[str, Any]:
    """Summarise the runs of a comparison, scenario by scenario.

    Parameters
    ----------
    runs : sequence of mapping
        Entries of ``results.json``'s ``runs``.
    margin : float
        How far below the yardstick's final accuracy the target lies.

    Returns
    -------
    dict
        Scenario to ``{"target", "yardstick", "yardstick_bytes", "rows"}``.
    """
    scenarios = dict.fromkeys(run["scenario"] for run in runs)
    return {
        name: _scenario([run for run in runs if run["scenario"] == name], margin)
        for name in scenarios
    }


def payload_name(settings: Mapping[str, Any]) -> str:
    """Name what is sent: the tuning method and what decides its size."""
    tune = settings["model.tune"]
    if tune == "prompts":
        depth = "deep" if settings["model.deep"] else "shallow"
        return f"prompts ({settings['model.prompts']}, {depth})"
    return f"lora (rank {settings['model.lora_rank']})" if tune == "lora" else str(tune)


def _scenario(runs: Sequence[Run], margin: float) -> dict[str, Any]:
    by_strategy: dict[str, list[Run]] = {}
    for run in runs:
        by_strategy.setdefault(run["strategy"], []).append(run)
    rows = {name: _row(name, same) for name, same in by_strategy.items()}
    yardsticks = [row for row in rows.values() if row["yardstick"]]
    target = max((row["final"]["mean"] for row in yardsticks), default=None)
    if target is not None:
        target -= margin
        for name, same in by_strategy.items():
            rows[name] |= _reach(same, target)
    reaching = [row for row in yardsticks if row.get("sustained_bytes")]
    best = min(reaching, key=lambda row: row["sustained_bytes"], default=None)
    for row in rows.values():
        for ratio, kind in (("ratio", "sustained_bytes"), ("first_ratio", "first_bytes")):
            row[ratio] = row[kind] / best[kind] if best and row.get(kind) is not None else None
        row["same_payload"] = best is not None and row["payload"] == best["payload"]
    return {
        "target": target,
        "yardstick": best["strategy"] if best else None,
        "yardstick_bytes": best["sustained_bytes"] if best else None,
        "rows": list(rows.values()),
    }


def _row(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    last = [run["points"][-1] for run in runs]
    return {
        "strategy": name,
        "payload": payload_name(runs[0]["settings"]),
        "tunables": runs[0]["tunables"],
        "yardstick": runs[0]["yardstick"],
        "seeds": len(runs),
        "final": spread([p["accuracy"] for p in last]),
        "best": spread([max(p["accuracy"] for p in run["points"]) for run in runs]),
        "tour": spread([_last_tour(run) for run in runs]),
        "total_payload": statistics.mean(p["bytes"]["payload"] for p in last),
        "total_wire": statistics.mean(p["bytes"]["wire"] for p in last),
        "total_relay": statistics.mean(p["bytes"]["relay"] for p in last),
        **_control(runs),
        "visits_entropy": spread([visits_entropy(run["visits"], run["nodes"]) for run in runs]),
        "virtual_seconds": statistics.mean(p["virtual_seconds"] for p in last),
        "joules": statistics.mean(p["joules"] for p in last),
        "flops": statistics.mean(p["flops"] for p in last),
        "peak_node_bytes": max(p["peak_node_bytes"] for p in last),
        "failed_replies": sum(run["failed_replies"] for run in runs),
    }


def _reach(runs: Sequence[Run], target: float) -> dict[str, Any]:
    nodes = runs[0]["nodes"]
    curve = bytes_to_target(mean_curve([run["points"] for run in runs]), target, nodes)
    wire = bytes_to_target(mean_curve([run["points"] for run in runs]), target, nodes, "wire")
    each = [bytes_to_target(run["points"], target, nodes) for run in runs]
    return {
        "sustained_bytes": curve.sustained,
        "sustained_wire_bytes": wire.sustained,
        "first_bytes": curve.first,
        "seeds_sustained": [r.sustained for r in each],
        "seeds_first": [r.first for r in each],
    }


def _control(runs: Sequence[Run]) -> dict[str, float]:
    """Return the `wire` bytes a run, and their share, that neither train nor evaluate."""
    kinds = [item for run in runs for item in run["wire_by_type"].items()]
    total = sum(size for _, size in kinds)
    control = sum(size for kind, size in kinds if kind.startswith("query"))
    return {
        "control_bytes": control / len(runs),
        "control_share": control / total if total else 0.0,
    }


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
