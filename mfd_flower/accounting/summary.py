"""From measured runs to the comparison's answer: what it takes to reach an accuracy.

Targets are shares of the best accuracy that any row of a table reaches. A row's numbers are medians
over its seeds; a seed that never gets there is a loss, not a gap. The yardstick is the baseline
that keeps the target with the fewest bytes. Against the cheapest baseline of the same payload a
second ratio tells what the way of learning saves from what sending less saves.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mfd_flower.accounting.targets import by_metric, first_point, kept_point, trailing_point
from mfd_flower.comparison import Metric
from mfd_flower.network.clock import KINDS
from mfd_flower.network.world import EDGE

Run = Mapping[str, Any]
"""A run, or one of its measured points."""
Reached = Mapping[int, Run | None]
"""By seed, the point at which a target is reached."""
SHARES = (0.90, 0.95, 0.98, 0.99, 1.00)
"""Targets, as shares of the best accuracy that any row of a table reaches."""
HEADLINE_SHARE = 0.99
LINKS = ("up", "down", "d2d", "backhaul")
SPENT_ON = ("compute", "radio", "sensing")
SPENT: Mapping[str, Callable[[Run], float | None]] = {
    "bytes": lambda point: point["bytes"]["wire"],
    "payload_bytes": lambda point: point["bytes"]["payload"],
    "busiest_bytes": lambda point: point["busiest_node_bytes"],
    "flops": lambda point: point["flops"],
    "virtual_seconds": lambda point: point["virtual_seconds"],
    "joules": lambda point: point["joules"],
    "wall_seconds": lambda point: point["wall_seconds"],
}
"""What was spent up to a point."""


def summarise(runs: Sequence[Run], margin: float, metric: Metric = "accuracy") -> dict[str, Any]:
    """Summarise the runs of a comparison: scenario to its answer, with one row a strategy.

    ``best`` is the highest `metric` of any row's mean curve, ``target`` lies below it by `margin`
    as a share of it, ``cheapest`` is the row that keeps the target with the fewest wire bytes, and
    ``yardstick`` the cheapest baseline. A run that diverged reaches nothing.
    """
    scenarios: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        scenarios.setdefault(run["scenario"], {}).setdefault(run["strategy"], []).append(run)
    return {name: _scenario(found, margin, metric) for name, found in scenarios.items()}


def payload_name(settings: Mapping[str, Any]) -> str:
    """Name what is sent: the tuning method and what decides its size."""
    tune = settings["model.tune"]
    if tune == "prompts":
        depth = "deep" if settings["model.deep"] else "shallow"
        return f"prompts ({settings['model.prompts']}, {depth})"
    return f"lora (rank {settings['model.lora_rank']})" if tune == "lora" else str(tune)


def _scenario(
    by_strategy: Mapping[str, Sequence[Run]], margin: float, metric: Metric
) -> dict[str, Any]:
    measured = {n: [by_metric(run, metric) for run in runs] for n, runs in by_strategy.items()}
    sound = {name: [r for r in runs if not r["diverged"]] for name, runs in measured.items()}
    curves = [mean_curve([run["points"] for run in runs]) for runs in sound.values() if runs]
    best = max((point["accuracy"] for curve in curves for point in curve), default=0.0)
    target = (1 - margin) * best
    kept = {name: _reached(runs, target, kept_point) for name, runs in measured.items()}
    rows = [
        _row(name, by_strategy[name])
        | _targets(runs, best)
        | {"target": _spent(kept[name], "kept_")}
        for name, runs in measured.items()
    ]
    yardstick = _cheapest([row for row in rows if row["yardstick"]])
    for row in rows:
        alike = [r for r in rows if r["yardstick"] and r["payload"] == row["payload"]]
        for name, other in (("ratio", yardstick), ("alike_ratio", _cheapest(alike))):
            row[name] = other and _ratio(kept[row["strategy"]], kept[other["strategy"]])
    cheapest = _cheapest(rows)
    return {
        "metric": metric,
        "target": target,
        "best": best,
        "cheapest": cheapest and cheapest["strategy"],
        "yardstick": yardstick and yardstick["strategy"],
        "yardstick_bytes": yardstick and yardstick["target"]["kept_bytes"],
        "rows": rows,
    }


def _targets(runs: Sequence[Run], best: float) -> dict[str, Any]:
    """Return ``targets`` of a row, and its wire bytes at the headline's share."""
    targets = []
    for share in SHARES:
        target = share * best
        spent = _spent(_reached(runs, target, kept_point), "kept_")
        for name, find in (("first_bytes", _first), ("trailing_bytes", trailing_point)):
            spent[name] = _median(_reached(runs, target, find), SPENT["bytes"])
        targets.append({"share": share, "accuracy": target, **spent})
    headline = targets[SHARES.index(HEADLINE_SHARE)]
    readings = ("kept_bytes", "first_bytes", "trailing_bytes")
    return {"targets": targets, **{name: headline[name] for name in readings}}


def _first(points: Sequence[Run], target: float, nodes: int) -> Run | None:
    return first_point(points, target)


def _reached(
    runs: Sequence[Run], target: float, find: Callable[[Sequence[Run], float, int], Run | None]
) -> Reached:
    """Return the point at which each seed reaches a target, as `find` reads its curve."""
    return {
        run["seed"]: None if run["diverged"] else find(run["points"], target, run["nodes"])
        for run in runs
    }


def _spent(reached: Reached, prefix: str) -> dict[str, float | int | None]:
    """Return the medians of what was spent to reach a target, and how many seeds reach it."""
    found = {f"{prefix}{name}": _median(reached, of) for name, of in SPENT.items()}
    return {**found, "seeds": sum(point is not None for point in reached.values())}


def _median(reached: Reached, of: Callable[[Run], float | None]) -> float | None:
    """Return the median over seeds; None if half of them never get there, or one is not known."""
    values = [math.inf if point is None else of(point) for point in reached.values()]
    if None in values:
        return None
    middle = statistics.median(values)  # type: ignore[type-var]
    return None if middle == math.inf else middle


def _cheapest(rows: Sequence[Run]) -> Run | None:
    reaching = [row for row in rows if row["target"]["kept_bytes"] is not None]
    return min(reaching, key=lambda row: row["target"]["kept_bytes"], default=None)


def _ratio(here: Reached, there: Reached) -> dict[str, float | None] | None:
    """Return a row's wire bytes over another one's on the same seeds: median, least and most.

    The least and the most of n seeds hold the true median with a confidence of 1 - 2 / 2^n, as
    order statistics do for any distribution: 94 % with five seeds. A ratio without end is None.
    """
    found = []
    for seed in here.keys() & there.keys():
        ours, theirs = here[seed], there[seed]
        if ours is None and theirs is None:
            continue
        size, other = (math.inf if p is None else p["bytes"]["wire"] for p in (ours, theirs))
        if other:
            found.append(size / other)
    if not found:
        return None
    all_of_it = {"median": statistics.median(found), "low": min(found), "high": max(found)}
    return {name: None if ratio == math.inf else ratio for name, ratio in all_of_it.items()}


def _row(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    last = [run["points"][-1] for run in runs]

    def mean(key: str) -> float:
        return statistics.mean(p[key] for p in last)

    sent = mean_curve([[point] for point in last])[0]["bytes"]
    return {
        "strategy": name,
        "payload": runs[0].get("payload") or payload_name(runs[0]["settings"]),
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
        "wall_seconds": mean("wall_seconds"),
        "joules": mean("joules"),
        "flops": mean("flops"),
        "peak_node_bytes": max(p["peak_node_bytes"] for p in last),
        "busiest_node_bytes": max(p["busiest_node_bytes"] for p in last),
        **{f"{link}_bytes": sent[link] for link in LINKS},
        **_metrics(runs),
        "failures": sum(len(run["failures"]) for run in runs),
        "diverged": {run["seed"]: run["diverged"] for run in runs if run["diverged"]},
    }


def _metrics(runs: Sequence[Run]) -> dict[str, float | None]:
    """Return what GaisNet asks of every method (sections III-C and III-D), means over seeds.

    All are None where a run does not tell.
    """
    of: dict[str, Callable[[Run], float | None]] = {
        "spectrum_hz_s": lambda run: run["spectrum_hz_s"],
        "sum_node_bytes": lambda run: sum(run["node_peak_bytes"].values()),
        "most_joules": _most_joules,
        "in_time_share": lambda run: _share_moved(run, "in_time"),
        "at_rate_share": lambda run: _share_moved(run, "at_rate"),
    }
    for table, keys in (("seconds", KINDS), ("joules", SPENT_ON)):
        of |= {f"{table}_{key}": partial(_of_table, f"{table}_by", key) for key in keys}
    if not all("seconds_by" in run for run in runs):
        return dict.fromkeys(of)
    return {name: _mean([value(run) for run in runs]) for name, value in of.items()}


def _of_table(table: str, key: str, run: Run) -> float:
    return float(run[table][key])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


def _most_joules(run: Run) -> float:
    """Return what the node spent that spent most."""
    return max((j for name, j in run["node_joules"].items() if name != EDGE), default=0.0)


def _share_moved(run: Run, how: str) -> float | None:
    """Return the share of a run's models that were moved so; None if none was."""
    moved = run["model_transfers"]
    return moved[how] / moved["all"] if moved["all"] else None


def _control(runs: Sequence[Run]) -> dict[str, float]:
    """Return the `wire` bytes a run, and their share, that neither train nor evaluate."""
    kinds = [item for run in runs for item in run["wire_by_type"].items()]
    total = sum(size for _, size in kinds)
    control = sum(size for kind, size in kinds if kind.startswith("query"))
    return {
        "control_bytes": control / len(runs),
        "control_share": control / total if total else 0.0,
    }


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
