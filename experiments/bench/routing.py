"""Measure what routing tables cost: adverts flooded over random regular graphs of degree 8.

    python experiments/bench/routing.py                       # 1e3, 1e4, 1e5 nodes, about a minute
    python experiments/bench/routing.py --sizes 1000 10000 --json routing.json

For each size and reach a first wave of adverts builds the tables and a second, with newer sequence
numbers, updates them; then all entries expire. An advert received is one that came over a link,
repeated ones included. The last column is the cost of an advert against that of the smallest
graph with the same reach: 1 is linear, and tables that fit no cache cost somewhat more. Seconds
are CPU seconds of the median of several runs (one for the largest graph), without Python's cyclic
garbage collector, whose passes over every object of the process are not the tables' cost.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import time
from pathlib import Path
from typing import Any

import networkx as nx

from mfd_flower.files import write_json
from mfd_flower.routing import Advert, RoutingTable

Topology = dict[str, list[str]]
DEGREE = 8
CLASSES = 10
REPEATED_NODES = 30_000
"""Nodes over all repetitions with one size."""
TWO_HOP_LIMIT = 10_000
"""Largest graph for two hops, which bring 64 adverts to a node."""


def random_topology(nodes: int, seed: int) -> Topology:
    """Return the neighbours of each address in a random regular graph."""
    graph = nx.random_regular_graph(DEGREE, nodes, seed=seed)
    return {f"n{node}": [f"n{other}" for other in graph[node]] for node in range(nodes)}


def adverts_of(topology: Topology, sequence: int) -> list[Advert]:
    """Return one advert a node."""
    counts = tuple(float(label) for label in range(CLASSES))
    return [
        Advert(address, counts, samples=45, degree=DEGREE, sequence=sequence, lifetime_s=3600.0)
        for address in topology
    ]


def flood(tables: dict[str, RoutingTable], topology: Topology, sequence: int, hops: int) -> int:
    """Let the nodes pass on what is news to them; returns how many adverts came over a link."""
    received = 0
    adverts = adverts_of(topology, sequence)
    outbox = [(a.address, a.address, dataclasses.replace(a, hops_left=hops - 1)) for a in adverts]
    while outbox:
        # By receiver, since one table after the other is several times kinder to the caches.
        inboxes: dict[str, list[tuple[str, Advert]]] = {}
        for sender, source, advert in outbox:
            for receiver in topology[sender]:
                if receiver != source:
                    inboxes.setdefault(receiver, []).append((sender, advert))
        outbox = []
        for receiver, inbox in inboxes.items():
            table = tables[receiver]
            for sender, advert in inbox:
                received += 1
                news = table.receive(advert, float(sequence), sender, 1.0)
                if news is not None:
                    outbox.append((receiver, sender, news))
    return received


def measure(topology: Topology, hops: int) -> dict[str, Any]:
    """Build, update and expire all tables once."""
    start = time.process_time()
    tables = {address: RoutingTable(address) for address in topology}
    built = flood(tables, topology, 0, hops)
    build_s = time.process_time() - start
    start = time.process_time()
    updated = flood(tables, topology, 1, hops)
    update_s = time.process_time() - start
    entries = sum(len(table) for table in tables.values())
    start = time.process_time()
    removed = sum(len(table.expire(now_s=1e9)) for table in tables.values())
    expire_s = time.process_time() - start
    assert removed == entries
    received = built + updated
    return {
        "nodes": len(topology),
        "hops": hops,
        "entries": entries,
        "received": received,
        "build_s": build_s,
        "update_s": update_s,
        "expire_s": expire_s,
        "us_per_advert": (build_s + update_s + expire_s) / received * 1e6,
    }


def median_run(nodes: int, hops: int, seed: int) -> dict[str, Any]:
    """Measure a small graph more often than a large one; returns the run of median cost."""
    topology = random_topology(nodes, seed)
    gc.collect()
    gc.disable()
    runs = [measure(topology, hops) for _ in range(max(1, REPEATED_NODES // nodes))]
    gc.enable()
    runs.sort(key=lambda run: run["us_per_advert"])
    return runs[len(runs) // 2]


def main() -> None:
    """Print the measurements, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description="Cost of routing tables.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    print("  nodes hops  received  build s update s expire s  us/advert  ratio")
    measured = []
    for hops in (1, 2):
        smallest: float | None = None
        for nodes in sorted(args.sizes):
            if hops > 1 and nodes > TWO_HOP_LIMIT:
                continue
            found = median_run(nodes, hops, args.seed)
            smallest = smallest or found["us_per_advert"]
            found["ratio"] = found["us_per_advert"] / smallest
            print(
                f"{nodes:7d} {hops:4d} {found['received']:9d} {found['build_s']:8.3f} "
                f"{found['update_s']:8.3f} {found['expire_s']:8.3f} "
                f"{found['us_per_advert']:10.2f} {found['ratio']:6.2f}"
            )
            measured.append(found)
    if args.json:
        write_json(args.json, {"degree": DEGREE, "seed": args.seed, "measured": measured})


if __name__ == "__main__":
    main()
