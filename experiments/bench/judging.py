"""How often a receiver of sums refuses honest ones, and finds those that algebra cannot see.

    python experiments/bench/judging.py --out experiments/results/bench

Of `walk.judging.loss_verdict` alone: random routes over the nodes of `experiments/exact.toml`. At
each hop the next node judges what the node before it adds to the sums of all before that.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

from mfd_flower.adversary import on_sums
from mfd_flower.comparison import load_comparison
from mfd_flower.config import RunConfig
from mfd_flower.files import write_json
from mfd_flower.models.inputs import federation_of
from mfd_flower.models.residents import model_for, shard
from mfd_flower.models.rounded import Rounding, head_inputs, scale_of
from mfd_flower.models.sums import Sums
from mfd_flower.walk import judging

KEPT = (0.0, 0.5, 1.0)
"""Values of `LEAST_KEPT_SHARE` that are tried."""


def measure(run: RunConfig, routes: int) -> dict[str, list[list[bool]]]:
    """Return by what is added whether it was refused, a list of one for each of `KEPT`."""
    scale, classes = scale_of(run, Rounding()), federation_of(run).num_classes
    shards = [shard(run, node) for node in range(run.data.nodes)]
    own = [
        (scale.rounded(head_inputs(run, model_for(run), each)), each.labels.numpy())
        for each in shards
    ]
    rng = np.random.default_rng(run.seed)
    refused: dict[str, list[list[bool]]] = {"honest": [], "flipped labels": [], "mirrored": []}
    for _ in range(routes):
        order = rng.permutation(run.data.nodes)
        before = Sums.nothing(scale.features, classes)
        for author, receiver in itertools.pairwise(order):
            features, labels = own[author]
            honest = Sums.of(features, labels, classes)
            given = {
                "honest": honest,
                "flipped labels": Sums.of(features, classes - 1 - labels, classes),
                "mirrored": on_sums.mirrored(honest, 1.0, rng),
            }
            for name, part in given.items():
                refused[name].append(
                    [_refused(share, before, part, *own[receiver]) for share in KEPT]
                )
            before = before + honest
    return refused


def _refused(
    share: float, before: Sums, part: Sums, features: np.ndarray, labels: np.ndarray
) -> bool:
    judging.LEAST_KEPT_SHARE = share
    return not judging.loss_verdict("ridge", before, part, features, labels).accepted


def main() -> None:
    """Print shares that were refused, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for judging.json")
    parser.add_argument("--routes", type=int, default=8, help="of each of the comparison's seeds")
    told = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {}
    judged: dict[str, int] = {}
    runs = [r for r in load_comparison(Path("experiments/exact.toml")).runs
            if r.label == "exact walk, 4 bits"]  # fmt: skip
    for scenario in dict.fromkeys(run.scenario for run in runs):
        parts = [measure(run.config, told.routes) for run in runs if run.scenario == scenario]
        found[scenario] = {
            name: {
                str(share): round(float(np.mean([r[place] for p in parts for r in p[name]])), 4)
                for place, share in enumerate(KEPT)
            }
            for name in parts[0]
        }
        judged[scenario] = sum(len(part["honest"]) for part in parts)
        print(scenario, judged[scenario], found[scenario], flush=True)
    if told.out:
        write_json(told.out / "judging.json", {"judged": judged, "refused": found})


if __name__ == "__main__":
    main()
