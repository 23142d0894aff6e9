"""Measure what the runtime adds: message round trips, and a FedAvg run against a bare loop.

    python experiments/bench/overhead.py                # both, about 2 minutes
    python experiments/bench/overhead.py --no-flower    # without starting Flower's simulation

(a) Median round trip of an empty message on LocalGrid, and on Flower's simulation engine.
(b) Wall time of `fedavg` under our runner against a bare PyTorch loop that does the same fits from
    the same data in the same order, in one run, alternating. The bare loop is measured as it is
    mostly written (one fit after the other) and at its best (two fits side by side in threads).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from mfd_flower.config import RunConfig
from mfd_flower.models import build_model, get_tunables, set_tunables
from mfd_flower.models.tunables import named_tunables
from mfd_flower.node import Node, evaluate_tunables
from mfd_flower.runtime import LocalGrid
from mfd_flower.runtime.runner import run_locally

NODES, ROUNDS, TRIPS = 10, 3, 200


def echo_app() -> ClientApp:
    """Return an app that sends an empty message back."""
    app = ClientApp()

    @app.query()
    def echo(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    return app


def round_trips(grid: Grid, trips: int) -> float:
    """Return the median round trip of an empty message in seconds."""
    while not list(grid.get_node_ids()):
        time.sleep(0.5)
    node_id = next(iter(grid.get_node_ids()))
    content = RecordDict({"config": ConfigRecord({"ask": 1})})
    taken: list[float] = []
    while len(taken) < trips + 3:
        start = time.perf_counter()
        replies = list(grid.send_and_receive([Message(content, node_id, "query")]))
        if replies and replies[0].has_content():
            taken.append(time.perf_counter() - start)
    return statistics.median(taken[3:])


def flower_round_trip() -> float:
    """Measure on Flower's simulation engine, in a process of its own FLWR_HOME."""
    from flwr.simulation import run_simulation

    found: list[float] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        found.append(round_trips(grid, 20))

    with tempfile.TemporaryDirectory() as home:
        os.environ["FLWR_HOME"] = home
        run_simulation(server, echo_app(), num_supernodes=1)
    return found[0]


def bare_fedavg(run: RunConfig, workers: int) -> float:
    """Do the runner's fits, averages and evaluations with nothing around them; seconds."""
    start = time.perf_counter()
    nodes = [Node(run, index) for index in range(run.data.nodes)]
    shards = [node.samples for node in nodes]
    models = [build_model(run.model, 10, run.seed) for _ in nodes]
    current = get_tunables(models[0])
    evaluate_tunables(run, current)

    def fit(index: int, number: int) -> dict[str, torch.Tensor]:
        torch.set_num_threads(run.train.threads)
        model, shard = models[index], shards[index]
        set_tunables(model, current)
        model.train()
        generator = torch.Generator().manual_seed(int(nodes[index].rng(number).integers(2**62)))
        optimiser = torch.optim.AdamW(
            [p for _, p in named_tunables(model)],
            lr=run.train.lr,
            weight_decay=run.train.weight_decay,
        )
        for _ in range(run.train.local_epochs):
            order = torch.randperm(len(shard), generator=generator)
            for pick in order.split(run.train.batch_size):
                loss = F.cross_entropy(
                    model.forward_from("tokens", shard.inputs[pick]), shard.labels[pick]
                )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
        return get_tunables(model)

    total = sum(len(shard) for shard in shards)
    with ThreadPoolExecutor(workers) as pool:
        for number in range(1, run.strategy.rounds + 1):
            ends = list(pool.map(lambda i, n=number: fit(i, n), range(len(nodes))))
            current = {
                name: sum(
                    (e[name] * (len(s) / total) for e, s in zip(ends, shards, strict=True)),
                    start=torch.zeros_like(current[name]),
                )
                for name in current
            }
            evaluate_tunables(run, current)
    return time.perf_counter() - start


def main() -> None:
    """Print the measurements, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description="Overhead of the runtime.")
    parser.add_argument("--no-flower", action="store_true", help="skip Flower's simulation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    found: dict[str, float | list[float]] = {}
    with LocalGrid(echo_app(), 1) as grid:
        found["local_round_trip_s"] = local_s = round_trips(grid, TRIPS)
    print(f"empty round trip, LocalGrid: {local_s * 1e3:.3f} ms")

    run = RunConfig.from_tables(
        {
            "data": {"nodes": NODES, "train_samples": 1500, "test_samples": 500, "validation": 0.0},
            "strategy": {"name": "fedavg", "rounds": ROUNDS},
        }
    )
    run_locally(run)  # loads the data and the backbone, which both sides share
    times: dict[str, list[float]] = {"ours": [], "bare, one thread": [], "bare, two threads": []}
    for _ in range(args.repeats):
        start = time.perf_counter()
        run_locally(run)
        times["ours"].append(time.perf_counter() - start)
        times["bare, one thread"].append(bare_fedavg(run, 1))
        times["bare, two threads"].append(bare_fedavg(run, 2))
    for name, taken in times.items():
        print(f"fedavg, {NODES} nodes x {ROUNDS} rounds, {name}: {min(taken):.2f} s")
        found[name] = taken
    for bare in ("bare, one thread", "bare, two threads"):
        print(f"ratio ours / {bare}: {min(times['ours']) / min(times[bare]):.3f}")
    if not args.no_flower:
        found["flower_round_trip_s"] = flower_s = flower_round_trip()
        print(f"empty round trip, Flower simulation: {flower_s * 1e3:.0f} ms")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
