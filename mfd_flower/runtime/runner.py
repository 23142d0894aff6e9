"""One run: a strategy on a grid, watched and billed."""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from joblib import cpu_count

from mfd_flower.adversary.attackers import poisoners, trigger_samples
from mfd_flower.config import RunConfig
from mfd_flower.handlers import StrategyClientApp
from mfd_flower.network.world import world_of
from mfd_flower.node import check_run, evaluate_tunables, initial_tunables
from mfd_flower.records import tensors_of
from mfd_flower.results import reason_of
from mfd_flower.runtime.faulty_grid import FaultyGrid
from mfd_flower.runtime.ledgers import admission_counts, entries_of, versions_of
from mfd_flower.runtime.local_grid import LocalGrid
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.strategy import build_strategy, find_strategy, links_of, source_of

Point = dict[str, Any]
OnPoint = Callable[[Point], None]


class RunFailedError(RuntimeError):
    """A run ended without a trained model."""


def run_locally(
    run: RunConfig, on_point: OnPoint | None = None, workers: int | None = None
) -> dict[str, Any]:
    """Run on a `LocalGrid` of this process; see `run_on`."""
    with local_grid(run, workers) as grid:
        return run_on(grid, run, on_point)


def local_grid(run: RunConfig, workers: int | None = None) -> LocalGrid:
    """Return a `LocalGrid` for a run, with a thread for each node that must run at once."""
    at_once = getattr(build_strategy(run), "concurrent_nodes", 1)
    threads = max(workers or cpu_count(), at_once)
    return LocalGrid(StrategyClientApp(), run.data.nodes, run.flat(), threads)


def metered(grid: Grid, run: RunConfig, addresses: Mapping[int, str]) -> MeteredGrid:
    """Return an engine with the run's faults, if it has any, and its bill around it."""
    links = links_of(find_strategy(run.strategy.name), run)
    if run.faults.total:
        # What goes from node to node is checked by nodes, what the star carries by Flower.
        grid = FaultyGrid(grid, run.faults, run.seed, addresses, self_checked=links)
    world = world_of(run.network, run.data.nodes, run.seed)
    return MeteredGrid(grid, links, world, addresses)


def run_on(grid: Grid, run: RunConfig, on_point: OnPoint | None = None) -> dict[str, Any]:
    """Run a strategy on any engine's grid, whose nodes hold the same settings.

    Returns
    -------
    dict
        One entry of ``results.json``'s ``runs``, without its place in a comparison. Of a strategy
        with a ledger also its ``versions``, and its lines as ``ledger``; with admission, how many
        versions were accepted and refused.

    Raises
    ------
    ConfigError
        If a setting does not fit the data or the strategy.
    NodesMissingError
        If the engine does not run the nodes, or not as many at once as the strategy needs.
    RunFailedError
        If no node returned a trained model.
    """
    started = time.perf_counter()
    strategy = build_strategy(run)
    check_run(run)
    initial = dict(initial_tunables(run))
    at_once = getattr(strategy, "concurrent_nodes", 1)
    one_process = getattr(strategy, "one_process", False)
    addresses = call_roll(grid, run.data.nodes, at_once=at_once, one_process=one_process)
    meter = metered(grid, run, addresses)
    points: list[Point] = []
    # The step during which each failure so far happened.
    failed_at: list[int] = []
    measured: list[tuple[ArrayRecord, dict[str, float]]] = []

    def evaluate(step: int, arrays: ArrayRecord | Sequence[ArrayRecord]) -> MetricRecord:
        models = [arrays] if isinstance(arrays, ArrayRecord) else list(arrays)
        # Of several walkers only one has moved since the last point.
        known = {id(model): metrics for model, metrics in measured}
        found = [known.get(id(model)) or quality_of(run, model) for model in models]
        measured[:] = zip(models, found, strict=True)
        quality = {name: sum(m[name] for m in found) / len(found) for name in found[0]}
        failed_at.extend([step] * (len(meter.failures) - len(failed_at)))
        points.append(
            {
                "step": step,
                "updates": meter.updates,
                **quality,
                "bytes": meter.totals(),
                "virtual_seconds": meter.virtual_seconds,
                "joules": meter.joules,
                "flops": meter.flops,
                "peak_node_bytes": meter.peak_node_bytes,
                "busiest_node_bytes": meter.busiest_node_bytes,
                "wall_seconds": time.perf_counter() - started,
            }
        )
        if on_point:
            on_point(points[-1])
        # Flower's strategies sample nodes from Python's own generator, right after this. Flower's
        # retries draw from it too: seeded once a run, a slow network would change the order.
        random.seed(f"{run.seed}/{step}")
        return MetricRecord({**quality})

    strategy.start(
        grid=meter,
        initial_arrays=ArrayRecord(initial),
        num_rounds=run.strategy.rounds,
        evaluate_fn=evaluate,
    )
    if meter.updates == 0:
        reason = meter.failures[-1] if meter.failures else "no training request was sent"
        raise RunFailedError(f"{run.strategy.name}: no node trained; last reason: {reason}")
    failed_at.extend([points[-1]["step"]] * (len(meter.failures) - len(failed_at)))
    record = {
        "strategy_file": strategy_file(run.strategy.name),
        "nodes": run.data.nodes,
        "model": None,
        "models": None,
        "tunables": sum(t.numel() for t in initial.values()),
        "settings": run.flat(),
        "points": points,
        "visits": meter.visits,
        "sources": meter.sources,
        "wire_by_type": dict(meter.wire_by_type),
        "node_flops": dict(meter.node_flops),
        "node_peak_bytes": dict(meter.node_peak_bytes),
        "failures": [
            {"node": node, "step": step, "reason": reason_of(reason)}
            for node, step, reason in zip(meter.failed, failed_at, meter.failures, strict=True)
        ],
    }
    if lines := getattr(strategy, "replica", ""):
        record["ledger"] = lines
        record["versions"] = versions = versions_of(entries_of(lines))
        if getattr(strategy, "admission", False):
            untaken = getattr(strategy, "not_taken", {})
            record["admission"] = admission_counts(versions, poisoners(run), untaken)
    return record


def quality_of(run: RunConfig, model: ArrayRecord) -> dict[str, float]:
    """Measure a model on the held-out test set, and a backdoor's success where there is one."""
    tensors = tensors_of(model)
    found = evaluate_tunables(run, tensors)
    quality = {name: getattr(found, name) for name in ("accuracy", "macro_accuracy", "loss")}
    if (triggered := trigger_samples(run)) is not None:
        quality["attack_success"] = evaluate_tunables(run, tensors, triggered).accuracy
    return quality


def strategy_file(name: str) -> dict[str, str]:
    """Return the path of a strategy's source file, as imports see it, and its SHA-256."""
    source = source_of(name).resolve()
    roots = [Path(folder).resolve() for folder in ("", *sys.path)]
    paths = [source.relative_to(root) for root in roots if source.is_relative_to(root)]
    path = min(paths, key=lambda path: len(path.parts), default=Path(source.name))
    return {"path": path.as_posix(), "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
