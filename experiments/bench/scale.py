"""Measure what one machine needs: for a walk over many nodes, and for a set larger than the budget.

    apt-get install dataset-fashion-mnist
    python experiments/bench/scale.py                         # both
    python experiments/bench/scale.py --nodes 100,1000        # a walk, 5 samples a node
    python experiments/bench/scale.py --samples 10000         # tokens of ViT-B/16 in two processes

(a) Resident memory, and wall and CPU time of a hop: training, routing, packing, without evaluation.
Nodes reach four others (``regular``): on a full mesh adverts alone grow with the square of the
nodes. (b) Two processes that share `cache_gb` of features of ViT-B/16 (random weights), 197 x 768
in fp32 for each sample, each going once through the test set and through every shard: resident
memory of each (anonymous, and mapped from files), and what is on disk. Each number is of a process
of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord

from mfd_flower.config import RunConfig
from mfd_flower.models.residents import keep_features, shard
from mfd_flower.network.worlds import world_of
from mfd_flower.node import initial_tunables
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.roll_call import call_roll
from mfd_flower.runtime.runner import local_grid
from mfd_flower.strategy import build_strategy, links_of

SAMPLES_A_NODE = 5
HOPS = 300


def memory_mb() -> dict[str, float]:
    """Return this process's resident memory: its own, and mapped from files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {"own_mb": int(fields["RssAnon"]) / 1e3, "files_mb": int(fields["RssFile"]) / 1e3}


def walk(nodes: int, hops: int, images: str) -> dict[str, Any]:
    """Walk over `nodes`; returns what a hop takes, and the memory at the end."""
    run = RunConfig.from_tables(
        {
            "data": {
                "nodes": nodes,
                "train_samples": SAMPLES_A_NODE * nodes,
                "test_samples": 100,
                "name": images,
                "validation": 0.0,
            },
            "train": {"accelerator": "cpu"},
            "network": {"topology": "regular"},
            "strategy": {"name": "mfd-walk", "options": json.dumps({"policy": "random"})},
        }
    )
    strategy = build_strategy(run)
    wall, cpu = [], []

    class _EnoughError(Exception):
        """So many hops were measured."""

    def note(step: int, arrays: object) -> None:
        wall.append(time.perf_counter())
        cpu.append(time.process_time())
        if step >= hops:
            raise _EnoughError

    before = memory_mb()["own_mb"]
    with local_grid(run, 1) as inner:
        addresses = call_roll(inner, nodes)
        world = world_of(run.network, nodes, run.seed)
        grid = MeteredGrid(inner, links_of(type(strategy), run), world, addresses)
        initial = ArrayRecord(dict(initial_tunables(run)))
        with contextlib.suppress(_EnoughError):
            strategy.start(grid, initial, num_rounds=-(-hops // nodes), evaluate_fn=note)
        found = memory_mb()

    def median_ms(times: list[float]) -> float:
        gaps = [later - earlier for earlier, later in itertools.pairwise(times[20:])]
        return round(1e3 * statistics.median(gaps), 2)

    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    grown = {"grown_mb": round(found["own_mb"] - before, 1), "peak_mb": round(peak_mb, 1)}
    return {"nodes": nodes, "wall_ms": median_ms(wall), "cpu_ms": median_ms(cpu), **grown}


def go_through(
    samples: int, folder: Path, cache_gb: float, arch: str, images: str
) -> dict[str, Any]:
    """Read every sample's features twice, as training and evaluation do; returns the memory."""
    nodes = 10
    run = RunConfig.from_tables(
        {
            "data": {
                "name": images,
                "nodes": nodes,
                "train_samples": samples - samples // 5,
                "test_samples": samples // 5,
                "validation": 0.0,
            },
            "model": {"backbone": "random", "arch": arch, "prompts": 10},
            "train": {"accelerator": "cpu"},
        }
    )
    torch.set_num_threads(1)
    keep_features(folder, cache_gb)
    initial_tunables(run)
    before, started, total = memory_mb()["own_mb"], time.perf_counter(), 0.0
    most_mb = 0.0
    for _ in range(2):
        for part in ("test", *range(nodes)):
            for inputs in shard(run, part).inputs.split(250):
                total += float(inputs.double().sum())
                most_mb = max(most_mb, memory_mb()["own_mb"])
    return {
        "own_before_mb": round(before, 1),
        "own_most_mb": round(most_mb, 1),
        "files_mb": round(memory_mb()["files_mb"], 1),
        "seconds": round(time.perf_counter() - started, 1),
        "sum": total,
    }


def in_processes(
    work: Callable[..., dict[str, Any]], *arguments: tuple[Any, ...]
) -> list[dict[str, Any]]:
    """Do the work on each of the arguments at the same time, in processes of their own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(arguments), maxtasksperchild=1) as pool:
        return pool.starmap(work, arguments, chunksize=1)


def main() -> None:
    """Print the measurements, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", default="100,1000", help="sizes of a walk, empty for none")
    parser.add_argument("--hops", type=int, default=HOPS)
    parser.add_argument("--samples", type=int, default=10000, help="of the large set, 0 for none")
    parser.add_argument("--arch", default="vit_base_patch16_224")
    parser.add_argument("--cache-gb", type=float, default=2.0)
    parser.add_argument("--images", default="fashion-mnist", help="as data.name of a config")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    chosen = parser.parse_args()
    found: dict[str, Any] = {"walks": [], "large": []}
    for nodes in map(int, filter(None, chosen.nodes.split(","))):
        found["walks"] += in_processes(walk, (nodes, chosen.hops, chosen.images))
        print(found["walks"][-1], flush=True)
    if chosen.samples:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            one = (chosen.samples, folder, chosen.cache_gb, chosen.arch, chosen.images)
            found["large"] = in_processes(go_through, one, one)
            files_gb = sum(path.stat().st_size for path in folder.rglob("*.npy")) / 1e9
        assert len({row.pop("sum") for row in found["large"]}) == 1, "two processes, two answers"
        for row in found["large"]:
            print(row)
        print(f"{files_gb:.2f} GB of {chosen.cache_gb} GB on disk")
        found["files_gb"] = files_gb
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
