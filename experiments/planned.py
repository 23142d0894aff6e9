"""Hop by hop, or along a plan that knows everything: what comes round sooner, for how much.

    python experiments/planned.py --json experiments/results/planned/summary.json
    python experiments/planned.py --sizes 10 --seeds 1

One walker carries sums over all nodes of a wireless world (MNIST-5k, 4,000 images, fm-tiny's
features in 4 bits), eight nodes in reach of each other in the mean, standing, walking (0.8 to 1.4
m/s) or driving (8 to 14 m/s). A node adds its sums at the first visit and passes them on later.
What a packet, a question and an advert weigh is that of a run of `exact-walk`; a first visit takes
what features of a ViT-S/16 take at 224 pixels (`FLOPS_A_SAMPLE`). The planner gets all links and
labels before it begins; the wall time of its planning is not in the virtual time. Printed: virtual
seconds until the head that the sums make has 95 and 99 % of the accuracy of all sums, until 99 % of
the nodes are in, bytes, and wall time of planning.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict
from numpy.typing import NDArray

from mfd_flower.config import RunConfig
from mfd_flower.models.closed_form import ridge
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.rounded import Rounding
from mfd_flower.models.sums import Sums
from mfd_flower.network.world import World
from mfd_flower.network.worlds import new_world
from mfd_flower.node import Node, evaluate_tunables, initial_tunables, with_head
from mfd_flower.routes import PlannedTour, Route, RoutesOnly, VisitCosts, planned_tour
from mfd_flower.routing import Policy
from mfd_flower.runtime.runner import run_locally

SPEEDS: dict[str, dict[str, Any]] = {
    "standing": {"mobility": "static"},
    "walking": {"mobility": "waypoint", "low_m_per_s": 0.8, "high_m_per_s": 1.4},
    "driving": {"mobility": "waypoint", "low_m_per_s": 8.0, "high_m_per_s": 14.0},
}
ASKS = {"advert_hops": 0, "probes": 4, "tour": True}
POLICIES: dict[str, dict[str, Any]] = {
    "random": {"name": "random", "advert_hops": 0},
    "label-balance": {"name": "label-balance", **ASKS},
    "fastest": {"name": "fastest", **ASKS},
}
PLANS = ("planned once", "planned at breaks", "planned at stops")
BREAKS_A_PLAN = 0.01
"""Of the nodes: after so many breaks there is a new plan."""
MOST_AT_STOPS = 200
"""Nodes above which no new plan is made at each stop: that alone would take hours."""
COLUMNS = (
    *("95% of accuracy", "99% of accuracy", "99% of nodes"),
    *("wire_kb", "control_kb", "broken", "planning_s"),
)
NEAR, RANGE_M, LONGEST_TOURS = 8, 100.0, 20
FLOPS_A_SAMPLE = 9.2e9
"""Twice its 4.6e9 multiplications and additions (Touvron et al. 2021, DeiT, table 5)."""
FEATURES: dict[str, Any] = {"bits": 4, "clip": 3.0}


def settings(
    nodes: int, seed: int, world: dict[str, Any], strategy: str = "ridge", **options: Any
) -> RunConfig:
    """Return a run over so many nodes."""
    network = {"world": "wireless", "options": json.dumps(world)} if world else {}
    options = {"features": FEATURES, **options}
    return RunConfig.from_tables(
        {
            "data": {
                "name": "mnist5k", "nodes": nodes, "train_samples": 4000, "test_samples": 1000,
                "partition": "iid", "validation": 0.0,
            },
            "model": {"backbone": "fm-tiny", "tune": "head"},
            "train": {"accelerator": "cpu"},
            "network": network,
            "strategy": {"name": strategy, "rounds": 1, "options": json.dumps(options)},
            "seed": seed,
        }
    )  # fmt: skip


def counted() -> VisitCosts:
    """Return what a visit costs in a run of the real thing, among ten nodes."""
    policy = {"name": "label-balance", "advert_hops": 0, "probes": 1}
    found = run_locally(settings(10, 0, {}, "exact-walk", policy=policy))
    wire, visits = found["wire_by_type"], len(found["visits"])
    return VisitCosts(
        packet_bytes=wire["train.hop"] // visits,
        question_bytes=wire["query.probe"] // visits,
        advert_bytes=wire["query.table"] // visits,
        flops_a_sample=FLOPS_A_SAMPLE,
    )


class Measured:
    """What sums over some nodes are worth, for one size and seed."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.run = settings(nodes, seed, {})
        self._start, self._rounding = initial_tunables(self.run), Rounding(**FEATURES)
        contexts = (
            Context(1, 1, {"partition-id": node}, RecordDict(), self.run.flat())
            for node in range(nodes)
        )
        self._sums = [Node.of(each).sums(self._start, self._rounding) for each in contexts]
        federation = federation_of(self.run)
        self.counts = np.array([federation.label_counts(n) for n in range(nodes)], float)
        self._known: dict[bytes, float] = {}

    def accuracy(self, included: NDArray[np.bool_]) -> float:
        """Return the accuracy of the head that the sums of these nodes make."""
        if (name := included.tobytes()) not in self._known:
            total = Sums.nothing(96, 10)
            for node in np.flatnonzero(included):
                total = total + self._sums[node]
            tunables = with_head(self.run, self._start, ridge(total), self._rounding)
            self._known[name] = evaluate_tunables(self.run, tunables).accuracy
        return self._known[name]

    def reached(self, route: Route, there: int) -> dict[str, Any]:
        """Return when shares of the best accuracy and of the nodes were reached; None if never.

        `there` are as many nodes as can be reached at all.
        """
        nodes = len(self.counts)
        first = np.unique(route.nodes, return_index=True)[1]
        first.sort()
        order, times = route.nodes[first], route.arrived_s[first]
        best = self.accuracy(np.ones(nodes, bool))
        found: dict[str, Any] = {"visited": len(order) / nodes}
        for share in (0.95, 0.99):
            low, high = 1, len(order)  # Accuracy rises with the nodes, all but for noise.
            while low < high:
                middle = (low + high) // 2
                included = np.isin(np.arange(nodes), order[:middle])
                low, high = (
                    (low, middle) if self.accuracy(included) >= share * best else (middle + 1, high)
                )
            enough = self.accuracy(np.isin(np.arange(nodes), order[:high])) >= share * best
            found[f"{share:.0%} of accuracy"] = float(times[high - 1]) if enough else None
        all_but = math.ceil(0.99 * there)
        found["99% of nodes"] = float(times[all_but - 1]) if len(order) >= all_but else None
        found["wire_kb"] = (route.packet_bytes + route.control_bytes) / 1e3
        found["control_kb"] = route.control_bytes / 1e3
        found["broken"] = route.broken
        return found


def came_round(
    world: World, policy: dict[str, Any], data: Measured, costs: VisitCosts, there: int
) -> tuple[Route, float]:
    """Walk hop by hop until 99 % of `there` nodes are in, or for twenty tours."""
    nodes = len(data.counts)
    settled = Policy.read(policy, nodes)
    walk = RoutesOnly(world, settled, data.counts, costs, data.run.seed, once=True)
    parts: list[Route] = []
    for _ in range(LONGEST_TOURS):
        parts.append(walk.run(nodes))
        if len(np.unique(np.concatenate([each.nodes for each in parts]))) >= 0.99 * there:
            break
    last = parts[-1]
    joined = Route(
        np.concatenate([each.walkers for each in parts]),
        np.concatenate([each.nodes for each in parts]),
        np.concatenate([each.arrived_s for each in parts]),
        *(last.packet_bytes, last.control_bytes, last.broken),
    )
    return joined, 0.0


def measured(nodes: int, seed: int, costs: VisitCosts) -> list[dict[str, Any]]:
    """Return a row a speed and way."""
    data, rows = Measured(nodes, seed), []
    side_m = math.sqrt(nodes * math.pi * RANGE_M**2 / NEAR)
    for speed, moves in SPEEDS.items():
        options = {"width_m": side_m, "height_m": side_m, "d2d_range_m": RANGE_M, **moves}
        for way in (*POLICIES, *PLANS):
            world = new_world(settings(nodes, seed, options).network, nodes, seed)
            there = nodes
            if speed == "standing":
                there = len(planned_tour(world, nodes, 0, costs.packet_bytes).order)
            if way in POLICIES:
                route, planning_s = came_round(world, POLICIES[way], data, costs, there)
            else:
                if (stops := way == "planned at stops") and nodes > MOST_AT_STOPS:
                    continue
                breaks = 0 if way == "planned once" else max(1, round(BREAKS_A_PLAN * nodes))
                tour = PlannedTour(world, data.counts, costs, replans=breaks, at_stops=stops)
                route, planning_s = tour.run(), tour.planning_s
            told = {"nodes": nodes, "speed": speed, "way": way, "seed": seed}
            rows.append({**told, **data.reached(route, there), "planning_s": planning_s})
    return rows


def cell(values: Sequence[float | None]) -> str:
    """Return mean and standard deviation, and how many there are of how many."""
    there = [value for value in values if value is not None]
    if not there:
        return "never"
    spread = f" ± {stdev(there):.2g}" if len(there) > 1 else ""
    some = f" ({len(there)}/{len(values)})" if len(there) < len(values) else ""
    return f"{mean(there):.3g}{spread}{some}"


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not in the file yet, one size and seed after the other, and print it all."""
    parser = argparse.ArgumentParser(description="Hop by hop against a plan.")
    parser.add_argument("--sizes", default="10,100,1000")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="keep the numbers there, and go on from them")
    asked = parser.parse_args(arguments)
    known = asked.json.exists() if asked.json else False
    rows = json.loads(asked.json.read_text(encoding="utf-8"))["rows"] if known else []
    done = {(row["nodes"], row["seed"]) for row in rows}
    costs = counted()
    for nodes in map(int, asked.sizes.split(",")):
        for seed in range(asked.seeds):
            if (nodes, seed) in done:
                continue
            rows += measured(nodes, seed, costs)
            if asked.json:
                told = {
                    "command": "python experiments/planned.py",
                    "python": platform.python_version(),
                    "costs": vars(costs),
                    "rows": rows,
                }
                asked.json.parent.mkdir(parents=True, exist_ok=True)
                asked.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(costs)
    print(f"| nodes | speed | way | {' | '.join(COLUMNS)} |")
    print("| " + " | ".join(["---"] * (3 + len(COLUMNS))) + " |")
    for nodes in sorted({row["nodes"] for row in rows}):
        for speed in SPEEDS:
            for way in (*POLICIES, *PLANS):
                name = nodes, speed, way
                those = [r for r in rows if (r["nodes"], r["speed"], r["way"]) == name]
                if not those:
                    continue
                cells = (cell([row[column] for row in those]) for column in COLUMNS)
                print(f"| {nodes:,} | {speed} | {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
