"""Ten random routes, 1, 2 and 4 walkers, deaths: how many different sums and heads come of them.

One class a node, MNIST-5k, ten nodes. Without faults; and with one message in ten killing its node,
where sums are signed, so that who died with its word adds itself again. A run whose last holder
gives a dead node up says who is missing; its sums are then those of the others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.numpy import load_file

from mfd_flower.config import RunConfig
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.runner import run_locally

NODES, ROUTES = 10, 10


def settings(route: int, walkers: int, death: float) -> RunConfig:
    """Return a run whose route begins at node `route` and goes on at random."""
    policy = {"name": "random", "advert_hops": 0, "start_node": route}
    traits: dict[str, Any] = {"ledger": {}} if death else {}
    options = {"policy": policy, "walkers": walkers, "traits": traits}
    data = {"nodes": NODES, "train_samples": 1000, "test_samples": 500, "validation": 0.0}
    return RunConfig.from_tables(
        {
            "data": {**data, "partition": "classes", "classes": 1},
            "model": {"tune": "head"},
            "train": {"accelerator": "cpu"},
            "faults": {"death": death, "downtime": 2},
            "strategy": {"name": "exact-walk", "rounds": 2, "options": json.dumps(options)},
        }
    )


def measured(folder: Path, walkers: int, death: float, count: int) -> dict[str, Any]:
    """Run all routes; returns how many different sums and heads came of those that have all."""
    sums, heads, routes, missing = set(), set(), set(), Counter[str]()
    deaths = 0
    for route in range(count):
        files = RunFiles(folder, f"{walkers}-{death}-{route}", 0)
        record = run_locally(settings(route, walkers, death), files=files)
        deaths += len(record["failures"])
        routes.add(tuple(record["visits"]))
        if record["missing"]:
            missing[", ".join(record["missing"])] += 1
            continue
        sums.add(record["sums_version"])
        tensors = load_file(folder / record["model"])
        heads.add(hashlib.sha256(b"".join(tensors[n].tobytes() for n in sorted(tensors))).digest())
    return {
        "walkers": walkers,
        "death": death,
        "runs": count,
        "routes": len(routes),
        "failed_messages": deaths,
        "complete": count - sum(missing.values()),
        "missing": dict(missing),
        "different_sums": len(sums),
        "sums": sorted(sums),
        "different_heads": len(heads),
    }


def main() -> None:
    """Measure and print; with ``--out`` write ``routes.json`` into that folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=ROUTES, help="runs of each kind")
    parser.add_argument("--out", type=Path, help="folder")
    chosen = parser.parse_args()
    logging.disable(logging.INFO)
    found = []
    with TemporaryDirectory() as folder:
        for death in (0.0, 0.1):
            for walkers in (1, 2, 4):
                found.append(measured(Path(folder), walkers, death, chosen.routes))
                print(json.dumps(found[-1]), flush=True)
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "routes.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
