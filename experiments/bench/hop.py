"""What a hop costs beside training and evaluation: parsing, routing, packing, signing, in ms.

    python experiments/bench/hop.py

Nothing is trained: a fit returns the tunables moved by a little, so that every byte travels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord

from mfd_flower.config import RunConfig
from mfd_flower.models.training import FitResult
from mfd_flower.network.worlds import world_of
from mfd_flower.node import Node, initial_tunables
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import local_grid
from mfd_flower.strategy import build_strategy, links_of

WALKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "int8, delta": {"codec": {"name": "int8"}, "delta": {}},
    "ledger": {"ledger": {}},
}
NODES, TOURS = 10, 5


def quick_fit(
    node: Node, tensors: Mapping[str, torch.Tensor], step: int, **keywords: Any
) -> tuple[dict[str, torch.Tensor], FitResult]:
    """Move every tunable by a hundredth instead of training it."""
    return {name: tensor + 0.01 for name, tensor in tensors.items()}, FitResult(0.0, 1, 0.0, 0, {})


def hop_ms(traits: Mapping[str, Any]) -> float:
    """Return the wall milliseconds of a hop in a walk with these traits."""
    options = {"policy": "random", "traits": traits}
    run = RunConfig.from_tables(
        {
            "data": {
                "name": "digits",
                "nodes": NODES,
                "train_samples": 200,
                "test_samples": 50,
                "validation": 0.0,
            },
            "strategy": {"name": "mfd-walk", "options": json.dumps(options)},
        }
    )
    strategy = build_strategy(run)
    with local_grid(run) as inner:
        addresses = call_roll(inner, NODES)
        world = world_of(run.network, NODES, run.seed)
        grid = MeteredGrid(inner, links_of(type(strategy), run), world, addresses)
        initial = ArrayRecord(dict(initial_tunables(run)))
        times: list[float] = []

        def note(step: int, arrays: object) -> None:
            times.append(time.perf_counter())

        strategy.start(grid, initial, num_rounds=TOURS, evaluate_fn=note)
    gaps = [
        later - earlier for earlier, later in zip(times[NODES:], times[NODES + 1 :], strict=False)
    ]
    return 1e3 * statistics.median(gaps)


def main() -> None:
    """Measure each walk and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    chosen = parser.parse_args()
    Node.fit = quick_fit  # type: ignore[method-assign,assignment]
    found = {name: round(hop_ms(traits), 3) for name, traits in WALKS.items()}
    for name, value in found.items():
        print(f"{name:12} {value:6.2f} ms a hop")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
