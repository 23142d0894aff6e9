"""Measure how far from exact the local search for clusters ends, and how long it takes.

    python experiments/bench/clusters.py                      # about two minutes
    python experiments/bench/clusters.py --instances 10 --sizes 50 --json clusters.json

ViT-B/16's 12 blocks at batch 16 on clusters of 4. Members, links and data are drawn: compute and
link rates lognormal, memory 200 to 800 MB, up to 300 samples of 10 classes by a Dirichlet
distribution; a share of all pairs is linked. The gap is the objective of `plan_clusters` (seconds
of a step over data value) by local search over that of the exact plan, less 1. Instances of 12
members that have no plan are drawn again. Seconds are CPU seconds of one core.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mfd_flower.checks import ConfigError
from mfd_flower.files import write_json
from mfd_flower.split.clusters import Member, data_value, plan_clusters
from mfd_flower.split.cuts import plan_cuts

SIZE = 4
COSTS = [16 * 2 * 2.9e9] * 12
"""FLOPs of a step in each block: 2.9e9 forward for each of 16 samples, and as many back."""
MEMORY = [30e6] * 12
CUT_BYTES = [16 * 605_184.0] * 11
Links = dict[str, dict[str, float]]
Solver = Literal["exact", "local-search"]


def instance(members: int, share: float, seed: int) -> tuple[list[Member], Links]:
    """Draw members, and links between `share` of their pairs."""
    rng = np.random.default_rng(seed)
    drawn = []
    for i in range(members):
        speed, memory = rng.lognormal(np.log(5e10), 0.8), rng.choice([2e8, 4e8, 8e8])
        samples, shares = (
            rng.integers(0, 300),
            rng.multinomial(100, rng.dirichlet([0.5] * 10)) / 100,
        )
        counts = tuple((samples * shares).tolist())
        drawn.append(Member(f"n{i}", float(speed), float(memory), counts))
    links: Links = {member.address: {} for member in drawn}
    for one, other in itertools.combinations(links, 2):
        if rng.random() < share:
            links[one][other] = links[other][one] = float(rng.lognormal(np.log(5e7), 0.7))
    return drawn, links


def solve(
    drawn: tuple[list[Member], Links], number: int, solver: Solver
) -> tuple[float | None, float]:
    """Return the objective, None if no plan was found, and the CPU seconds it took."""
    members, links = drawn
    values = {member.address: data_value(member.label_counts) for member in members}
    start = time.process_time()
    try:
        plan = plan_clusters(
            members,
            links,
            number=number,
            size=SIZE,
            costs=COSTS,
            memory=MEMORY,
            cut_bytes=CUT_BYTES,
            solver=solver,
        )
    except ConfigError:
        return None, time.process_time() - start
    fed = sum(values[cluster.addresses[0]] for cluster in plan)
    return max(cluster.step_s for cluster in plan) / fed, time.process_time() - start


def gaps(instances: int, share: float, number: int) -> dict[str, Any]:
    """Compare both solvers on random instances of 12 members."""
    found: list[float] = []
    missed = 0
    seconds: dict[str, list[float]] = {"exact": [], "local": []}
    for seed in itertools.count():
        if len(found) + missed == instances:
            break
        drawn = instance(12, share, seed)
        best, exact_s = solve(drawn, number, "exact")
        if best is None:
            continue
        near, local_s = solve(drawn, number, "local-search")
        seconds["exact"].append(exact_s)
        seconds["local"].append(local_s)
        if near is None:
            missed += 1
        else:
            found.append(near / best - 1)
    return {
        "share": share,
        "number": number,
        "mean_gap": statistics.mean(found),
        "worst_gap": max(found),
        "at_optimum": sum(gap < 1e-9 for gap in found),
        "missed": missed,
        "exact_s": statistics.mean(seconds["exact"]),
        "local_s": statistics.mean(seconds["local"]),
    }


def main() -> None:
    """Print the measurements, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description="Gap and time of the cluster planner.")
    parser.add_argument("--instances", type=int, default=30)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    print("12 members   linked clusters  mean gap  worst  optimal  missed  exact s  local s")
    compared = []
    for share, number in ((0.4, 2), (0.4, 3), (1.0, 2), (1.0, 3)):
        row = gaps(args.instances, share, number)
        compared.append(row)
        print(
            f"{share:18.0%} {number:8d} {row['mean_gap']:9.2%} {row['worst_gap']:6.1%} "
            f"{row['at_optimum']:8d} {row['missed']:7d} "
            f"{row['exact_s']:8.2f} {row['local_s']:8.2f}",
            flush=True,
        )
    timed = []
    for members, share in itertools.product(args.sizes, (0.1, 1.0)):
        number = members // 5
        objective, seconds = solve(instance(members, share, 0), number, "local-search")
        timed.append({"members": members, "share": share, "number": number, "seconds": seconds})
        done = f"{seconds:7.2f} s" + ("" if objective is not None else ", no plan found")
        print(f"{members:4d} members, {share:4.0%} linked, {number:3d} clusters {done}", flush=True)
    rng = np.random.default_rng(0)
    start = time.process_time()
    plan_cuts(rng.random(1000).tolist(), (rng.random(64) + 0.1).tolist())
    cuts_s = time.process_time() - start
    print(f"plan_cuts, 1000 blocks on 64 workers {cuts_s:.2f} s")
    if args.json:
        write_json(args.json, {"compared": compared, "timed": timed, "plan_cuts_s": cuts_s})


if __name__ == "__main__":
    main()
