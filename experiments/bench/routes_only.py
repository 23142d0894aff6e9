"""Routes of many walkers over many moving nodes, without training: how its cost grows.

    python experiments/bench/routes_only.py                       # 1,000, 10,000 and 100,000 nodes
    python experiments/bench/routes_only.py --nodes 1000 --policy interest

Nodes walk about a town (random waypoint, 0.8 to 1.4 m/s) with eight of them in reach of each other
in the mean; one walker in a hundred nodes, ten hops a node. Nodes hold 100 samples of ten classes
by Dirichlet shares (alpha 0.5); a visit computes 1e8 FLOPs a sample, a packet is 6.8 kB. Each size
in a process of its own, on one core: wall time, resident memory, and where the walkers came.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from mfd_flower.config import NetworkConfig
from mfd_flower.network import WirelessOptions, WirelessWorld
from mfd_flower.routes import RoutesOnly, VisitCosts
from mfd_flower.routing import Policy

NEAR, RANGE_M = 8, 100.0
HOPS_A_NODE, NODES_A_WALKER = 10, 100


def measured(nodes: int, name: str, probes: int) -> dict[str, Any]:
    """Make the routes of one size; returns what they took, and what they reached."""
    side_m = math.sqrt(nodes * math.pi * RANGE_M**2 / NEAR)
    began = time.perf_counter()
    options = WirelessOptions(
        width_m=side_m, height_m=side_m, mobility="waypoint", d2d_range_m=RANGE_M
    )
    world = WirelessWorld(NetworkConfig(), nodes, 0, options)
    shares = np.random.default_rng(0).dirichlet(np.full(10, 0.5), nodes)
    counts, costs = np.rint(100 * shares), VisitCosts()
    policy = Policy.read({"name": name, "advert_hops": 0, "probes": probes, "memory": 64}, nodes)
    walkers, hops = max(1, nodes // NODES_A_WALKER), HOPS_A_NODE * nodes
    route = RoutesOnly(world, policy, counts, costs, 0, walkers).run(hops)
    wall_s = time.perf_counter() - began
    own = [len(np.unique(route.of_walker(walker))) for walker in range(min(walkers, 50))]
    return {
        "nodes": nodes,
        "walkers": walkers,
        "hops": hops,
        "policy": name,
        "wall_s": wall_s,
        "ms_a_hop": 1e3 * wall_s / hops,
        "resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "virtual_s": float(route.arrived_s[-1]),
        "broken": route.broken,
        "visited": len(np.unique(route.nodes)) / nodes,
        "unlike_of_a_walkers_hops": float(np.mean(own)) / (hops / walkers),
        "control_share": route.control_bytes / (route.control_bytes + route.packet_bytes),
    }


def main() -> None:
    """Print a line a size, and write them as JSON."""
    parser = argparse.ArgumentParser(description="Cost of routes without training.")
    parser.add_argument("--nodes", default="1000,10000,100000")
    parser.add_argument("--policy", default="label-balance")
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = []
    for nodes in map(int, asked.nodes.split(",")):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measured, (nodes, asked.policy, asked.probes))
        rows.append(row)
        print(
            f"{row['nodes']:>7,} nodes, {row['walkers']:,} walkers, {row['hops']:,} hops: "
            f"{row['wall_s']:.1f} s, {row['ms_a_hop']:.2f} ms a hop, {row['resident_mb']:.0f} MB; "
            f"{row['virtual_s']:.0f} virtual s, {row['visited']:.0%} of the nodes visited, "
            f"control {row['control_share']:.0%} of the bytes, {row['broken']} hops broken"
        )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
