"""Measure a cell: everything that a run counts, and its final model in a few numbers."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from torch import Tensor

from mfd_flower.network.worlds import new_world
from mfd_flower.node import initial_tunables
from mfd_flower.records import tensors_of
from mfd_flower.runtime.curve import quality_of
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import local_grid
from mfd_flower.split.inference import train_then_serve
from mfd_flower.strategy import build_strategy, links_of
from tests.replay.cells import Cell
from tests.scheduled_faults import ScheduledGrid

PROJECTIONS = 4


def measure(cell: Cell) -> dict[str, Any]:
    """Return what a cell counts, plain values only."""
    run, points = cell.run(), defaultdict[str, list[Any]](list)
    strategy = build_strategy(run)
    with local_grid(run, workers=2) as inner:
        addresses = call_roll(
            inner, run.data.nodes, at_once=getattr(strategy, "concurrent_nodes", 1)
        )
        grid = ScheduledGrid(inner, cell.faults, addresses) if cell.faults else inner
        world = new_world(run.network, run.data.nodes, run.seed)
        meter = MeteredGrid(grid, links_of(type(strategy), run), world, addresses)

        def evaluate(step: int, arrays: ArrayRecord | Mapping[str, ArrayRecord]) -> MetricRecord:
            models = [arrays] if isinstance(arrays, ArrayRecord) else list(arrays.values())
            found = [quality_of(run, model)["accuracy"] for model in models]
            points["steps"].append(step)
            points["updates"].append(meter.updates)
            points["accuracies"].append(round(sum(found) / len(found), 6))
            points["bytes"].append(list(meter.totals().values()))
            points["virtual_seconds"].append(meter.virtual_seconds)
            points["joules"].append(meter.joules)
            points["flops"].append(meter.flops)
            # As the runner does: Flower's strategies sample nodes from Python's own generator.
            random.seed(f"{run.seed}/{step}")
            return MetricRecord({})

        result = strategy.start(
            meter,
            ArrayRecord(dict(initial_tunables(run))),
            num_rounds=run.strategy.rounds,
            evaluate_fn=evaluate,
            **({"timeout": 5} if cell.faults else {}),
        )
    print(*meter.failures)  # Shown where a test fails.
    found: dict[str, Any] = {
        **points,
        "visits": meter.visits,
        "sources": meter.sources,
        "failures": len(meter.failures),
        "peak_node_bytes": meter.peak_node_bytes,
        "wire_by_type": dict(sorted(meter.wire_by_type.items())),
        "entries": str(getattr(strategy, "replica", "")).count("\n"),
    }
    tensors = tensors_of(result.arrays)
    if cell.serves:
        served, tensors, _ = train_then_serve(run, cell.serves, tensors)
        found["served"] = [
            {name: value for name, value in vars(each).items() if name != "wall_s"}
            for each in served
        ]
    return {**found, "model": {name: sketch(name, t) for name, t in tensors.items()}}


def sketch(name: str, tensor: Tensor) -> list[float]:
    """Return a tensor's norm and its products with a few fixed random signs, over their length."""
    values = tensor.double().flatten().numpy()
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(PROJECTIONS, values.size))
    return [float(np.linalg.norm(values)), *(signs @ values / np.sqrt(values.size)).tolist()]
