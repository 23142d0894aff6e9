"""Fine-tune or infer, on edge models whose gains and costs are measured (GaisNet, V, Fig. 8).

    mfd reproduce fig8-services
    python experiments/fig8_services.py --json experiments/results/fig8-services/summary.json

An edge server has four domain models: prompts and a head on fm-tiny, for MNIST digits, the same in
negative, turned by a quarter, and the 8 x 8 digits of scikit-learn. A level is another epoch on 100
images. What is measured: accuracy on 300 others at each level, and the FLOPs of each upgrade. A
round serves 100 requests or upgrades one model. That a right answer earns 1 is a choice of ours,
and so is the price of an epoch. Demand either stays, or moves on to another domain every four
rounds. Policies: MLCP (maximum long-term cumulative profit), MSIP (maximum short-term immediate
profit), RS (random, mean of 20), and an optimist, who knows no accuracy until it served with it.
The paper's own instance (its Table V) is not legible.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray

from mfd_flower.config import ModelConfig, TrainConfig
from mfd_flower.data import load_set
from mfd_flower.data.samples import Samples, prepared
from mfd_flower.models import build_model, evaluate, fit
from mfd_flower.models.build import input_spec
from mfd_flower.services import Action, ServiceInstance, learned, plan, profit

DOMAINS = ("digits", "negative", "turned", "small digits")
LEVELS, TRAIN, TEST, REQUESTS, HORIZON, RANDOM = 6, 100, 300, 100, 16, 20
PRICES = (20.0, 60.0, 120.0)
"""Of an upgrade of the mean FLOPs, in right answers."""
SMALL = TrainConfig(lr=0.003, local_epochs=1, batch_size=16, accelerator="cpu")


def images_of(domain: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pictures and labels of a domain."""
    found = load_set("digits" if domain == "small digits" else "mnist5k")
    images = found.images
    if domain == "negative":
        images = np.invert(images)
    elif domain == "turned":
        images = np.rot90(images, axes=(1, 2))
    return np.ascontiguousarray(images), found.labels


def measured(domain: str, seed: int) -> tuple[list[float], list[float]]:
    """Return a domain model's accuracy at each level, and the FLOPs from each to the next."""
    images, labels = images_of(domain)
    order = np.random.default_rng([seed, len(domain)]).permutation(len(labels))
    model = build_model(ModelConfig(), 10, seed)
    spec, stage = input_spec(model.backbone), model.frozen_stage()

    def part(pick: NDArray[np.int64]) -> Samples:
        samples = prepared(images[pick], labels[pick], spec)
        return Samples(model.frozen_outputs(stage, samples.inputs[:]), samples.labels)

    train, test = part(order[:TRAIN]), part(order[TRAIN : TRAIN + TEST])
    accuracies, flops = [evaluate(model, test, stage=stage).accuracy], []
    for level in range(1, LEVELS):
        flops.append(fit(model, train, SMALL, seed=level, stage=stage).flops)
        accuracies.append(evaluate(model, test, stage=stage).accuracy)
    return accuracies, flops


def instance_of(
    accuracies: NDArray[np.float64], flops: NDArray[np.float64], price: float, moving: bool
) -> ServiceInstance:
    """Return what is earned and paid, ``(domains, levels)`` and ``(domains, levels - 1)``."""
    demand = np.full((HORIZON, len(accuracies)), 1.0)
    if moving:
        wanted = np.arange(HORIZON)[:, None] // 4 % len(accuracies)
        demand = np.where(wanted == np.arange(len(accuracies)), 1.0, 0.3)
    return ServiceInstance(REQUESTS * accuracies, price * flops / flops.mean(), demand)


def outcomes(instance: ServiceInstance, seed: int) -> dict[str, Any]:
    """Return what each policy earned by each round, and what MLCP did."""
    best = plan("mlcp", instance, HORIZON)
    hoped = learned(instance, HORIZON, float(REQUESTS), noise=REQUESTS**0.5 / 2, seed=seed)
    random = [profit(instance, plan("rs", instance, HORIZON, seed=n)) for n in range(RANDOM)]
    return {
        "MLCP": profit(instance, best),
        "MSIP": profit(instance, plan("msip", instance, HORIZON)),
        "RS": np.mean(random, axis=0).tolist(),
        "optimist": profit(instance, hoped),
        "actions": [said(action) for action in best],
    }


def said(action: Action) -> str:
    """Return an action in words."""
    return f"{action.kind} {DOMAINS[action.model]}"


def draw(path: Path, found: Mapping[str, list[dict[str, Any]]]) -> None:
    """Draw cumulative profits of seed 0, a panel an instance."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(4 * len(found), 3.2), sharey=True)
    for panel, (name, runs) in zip(panels, found.items(), strict=True):
        for policy in ("MLCP", "MSIP", "RS", "optimist"):
            panel.plot(range(1, HORIZON + 1), runs[0][policy], label=policy)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("round")
    panels[0].set_ylabel("profit so far, right answers")
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main(arguments: list[str] | None = None) -> None:
    """Measure models, plan, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    began, models = time.perf_counter(), []
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(given.seeds):
        rows = [measured(domain, seed) for domain in DOMAINS]
        accuracies, flops = (np.array([row[n] for row in rows]) for n in (0, 1))
        models.append({"accuracies": accuracies.tolist(), "flops": flops.tolist()})
        for price in PRICES:
            for moving in (False, True):
                name = f"price {price:g}, demand {'moves' if moving else 'stays'}"
                told = outcomes(instance_of(accuracies, flops, price, moving), seed)
                found.setdefault(name, []).append(told)
    print("| | " + " | ".join(f"level {n}" for n in range(LEVELS)) + " |")
    print("| --- |" + " --- |" * LEVELS)
    for place, domain in enumerate(DOMAINS):
        cells = (spread([m["accuracies"][place][n] for m in models], 3) for n in range(LEVELS))
        print(f"| {domain} | {' | '.join(cells)} |")
    print("\n| instance | MLCP | MSIP | RS | optimist | MLCP begins with |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, runs in found.items():
        ends = (spread([r[p][-1] for r in runs], 0) for p in ("MLCP", "MSIP", "RS", "optimist"))
        print(f"| {name} | {' | '.join(ends)} | {', '.join(runs[0]['actions'][:4])} |")
    if given.json:
        told = {"command": "mfd reproduce fig8-services", "models": models, "instances": found}
        told["wall_seconds"] = time.perf_counter() - began
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(told, indent=1) + "\n")
        draw(given.json.with_name("profit.png"), found)


def spread(values: list[float], digits: int) -> str:
    """Return mean and standard deviation."""
    return f"{mean(values):.{digits}f} ± {stdev(values) if len(values) > 1 else 0:.{digits}f}"


if __name__ == "__main__":
    main()
